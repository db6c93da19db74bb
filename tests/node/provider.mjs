// An OpenID provider that others certified (oidc-provider), in Google's place, for tests/consent_browser.rs.
//
//     node provider.mjs NODE_MODULES REDIRECT_URI
//
// It prints `ready ISSUER` and then a line of JSON for each thing that happens to a grant. Signing in takes any name; that and the
// consent are pages of the provider's own, which a person, or a browser that is told to, goes through.

import { createServer } from 'node:http';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';

const [modules, redirectUri] = process.argv.slice(2);
const { Provider } = await import(pathToFileURL(join(modules, 'oidc-provider/lib/index.js')));

const google = ['gmail.readonly', 'gmail.modify', 'calendar.readonly', 'calendar.events', 'drive.readonly', 'drive'];
const server = createServer();
await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
const issuer = `http://127.0.0.1:${server.address().port}`;

const provider = new Provider(issuer, {
  clients: [{
    client_id: 'test',
    client_secret: 'test',
    redirect_uris: [redirectUri],
    grant_types: ['authorization_code', 'refresh_token'],
    response_types: ['code'],
    token_endpoint_auth_method: 'client_secret_post',
  }],
  scopes: ['openid', ...google.map((name) => `https://www.googleapis.com/auth/${name}`)],
  claims: { openid: ['sub'], email: ['email', 'email_verified'] },
  conformIdTokenClaims: false,
  cookies: { keys: ['for a test of minutes'] },
  features: { devInteractions: { enabled: true }, revocation: { enabled: true } },
  findAccount: (_context, id) => ({
    accountId: id,
    claims: () => ({ sub: id, email: `${id}@example.com`, email_verified: true }),
  }),
  // As with Google, whoever consents gives a lasting permission; unlike there, each refresh ends the token before.
  issueRefreshToken: () => true,
  rotateRefreshToken: true,
  pkce: { required: () => true },
  ttl: { AccessToken: 3600, AuthorizationCode: 60, Grant: 86400, IdToken: 600, Interaction: 600, RefreshToken: 86400, Session: 600 },
});
const tell = (event, more) => console.log(JSON.stringify({ event, ...more }));
for (const event of ['authorization.success', 'grant.success', 'refresh_token.saved', 'refresh_token.consumed', 'grant.revoked']) {
  provider.on(event, () => tell(event));
}
for (const event of ['authorization.error', 'grant.error', 'revocation.error', 'server_error']) {
  provider.on(event, (_context, error) => tell(event, { error: error.error ?? String(error), why: error.error_description }));
}
server.on('request', provider.callback());
console.log(`ready ${issuer}`);
