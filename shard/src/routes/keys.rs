//! `/api/v1/keys`: a user's own API keys.

use sluice_protocols::access::Scopes;
use sluice_protocols::api::{KEYS_PER_USER_MAX, KeyEdit, KeyListView, KeyView, NewKey, key_path};
use sluice_protocols::http::Response;
use sluice_protocols::ids::KeyId;
use sluice_protocols::problem::Problem;
use sluice_store::record::{ActivityRecord, KeyRecord};
use sluice_store::{Key, KeyRange, Kind};

use super::{not_found, read_problem};
use crate::admin::{KeyLimit, KeySpec};
use crate::audit::Author;
use crate::auth::{Credential, Principal, activity};
use crate::clock::timestamp_of;
use crate::service::Core;

fn view(core: &Core, who: &Principal, key: KeyRecord, written: Option<&ActivityRecord>) -> KeyView {
    let used_ms = core.activity.key_used_ms(who.user, key.id, written);
    let scopes = Scopes::from_bits(key.scopes);
    KeyView {
        id: key.id,
        name: key.label,
        prefix: if key.prefix.is_empty() { prefix_of_user(who) } else { key.prefix },
        scopes: scopes.names().map(str::to_owned).collect(),
        created: timestamp_of(key.created_ms),
        expires: Some(key.expires_ms).filter(|end| *end > 0).map(timestamp_of),
        last_used: used_ms.map(timestamp_of),
        key: None,
    }
}

/// What all keys of a user begin with.
fn prefix_of_user(who: &Principal) -> String {
    who.user.to_string().replacen("usr_", "sk_", 1)
}

/// What a credential can give to keys: no more than it has, and a key nothing that outlives it.
fn limit_of(who: &Principal) -> KeyLimit {
    let expires_ms = match who.credential {
        Credential::Key(_) | Credential::Browser(_) => who.expires_ms,
        // Whoever signs in may leave a key that works when the token is over.
        Credential::Token(..) => None,
    };
    KeyLimit { scopes: who.scopes, expires_ms }
}

async fn written(core: &Core, who: &Principal) -> Result<Option<ActivityRecord>, Problem> {
    activity::written(&core.store, who.shard, &who.user).await.map_err(|error| read_problem(&error))
}

/// The answer to `GET /api/v1/keys`.
pub(crate) async fn list(core: &Core, who: &Principal) -> Result<Response, Problem> {
    let range = KeyRange::of_user(Kind::ApiKey, &who.user);
    let page = core.store.scan(who.shard, range, 2 * KEYS_PER_USER_MAX, false).await;
    let page = page.map_err(|error| read_problem(&error))?;
    let written = written(core, who).await?;
    // A damaged one is passed over; its bytes are kept in quarantine.
    let read = |(key, value)| core.store.validate::<KeyRecord>(who.shard, &key, value).ok();
    let mut keys: Vec<KeyRecord> =
        page.rows.into_iter().filter_map(read).map(|loaded| loaded.to_record()).collect();
    keys.sort_by_key(|key| (key.created_ms, key.id));
    let keys = keys.into_iter().map(|key| view(core, who, key, written.as_ref())).collect();
    Ok(Response::new(200).json(&KeyListView { keys }))
}

/// The answer to `GET /api/v1/keys/{id}`.
pub(crate) async fn get(core: &Core, who: &Principal, id: KeyId) -> Result<Response, Problem> {
    let found = core.store.load::<KeyRecord>(who.shard, &Key::api_key(&who.user, &id)).await;
    let found = found.map_err(|error| read_problem(&error))?.ok_or_else(|| not_found("key"))?;
    let written = written(core, who).await?;
    Ok(Response::new(200).json(&view(core, who, found.to_record(), written.as_ref())))
}

/// The answer to `POST /api/v1/keys`.
pub(crate) async fn make(
    core: &Core,
    who: &Principal,
    author: Author,
    body: &[u8],
) -> Result<Response, Problem> {
    let wanted = NewKey::parse(body)?;
    let (user, limit) = (who.user, limit_of(who));
    let expires_ms = wanted.expires.map(|at| u64::try_from(at.as_millisecond()).unwrap_or(0));
    let spec = KeySpec {
        label: wanted.name,
        scopes: wanted.scopes.unwrap_or_else(|| who.scopes.and(Scopes::USER)),
        expires_ms: expires_ms.or(limit.expires_ms),
    };
    let (key, record) = core.clerk.ask(author, move |admin| admin.make_key(&user, &spec, &limit)).await?;
    let path = key_path(record.id);
    let view = KeyView { key: Some(key.expose()), ..view(core, who, record, None) };
    let response = Response::new(201).json(&view).with_field("location", path);
    // It holds a secret.
    Ok(response.with_field("cache-control", "no-store"))
}

/// The answer to `PATCH /api/v1/keys/{id}`.
pub(crate) async fn edit(
    core: &Core,
    who: &Principal,
    author: Author,
    id: KeyId,
    body: &[u8],
) -> Result<Response, Problem> {
    let edit = KeyEdit::parse(body)?;
    let (user, limit) = (who.user, limit_of(who));
    let record = core.clerk.ask(author, move |admin| admin.edit_key(&user, &id, &edit, &limit)).await?;
    let written = written(core, who).await?;
    Ok(Response::new(200).json(&view(core, who, record, written.as_ref())))
}

/// The answer to `DELETE /api/v1/keys/{id}`.
pub(crate) async fn revoke(
    core: &Core,
    who: &Principal,
    author: Author,
    id: KeyId,
) -> Result<Response, Problem> {
    let user = who.user;
    core.clerk.ask(author, move |admin| admin.revoke_key(&user, &id)).await?;
    Ok(Response::new(204))
}
