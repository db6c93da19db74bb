//! Tokens that are signed here by the cryptographic library itself, and what checking credentials costs.

use std::future::Future as _;
use std::hint::black_box;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256,
};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use proptest::prelude::*;
use serde_json::{Value, json};
use sluice_core::{CoreId, Reactor, ReactorConfig};
use sluice_net::egress::{Egress, EgressConfig, PerUpstream, UpstreamConfig};
use sluice_protocols::api::{Identity, NewUser};
use sluice_protocols::ids::ShardCount;
use sluice_store::vault::Keyring;
use sluice_store::{CoreStore, Store, StoreConfig, Vault};

use super::clerk::Clerk;
use super::providers::{KeySetError, Provider, ProviderConfig, Providers, UserLink, algorithm, claim};
use super::tokens::{Means, TokenFault};
use super::*;
use crate::admin::Admin;
use crate::config::ShardConfig;
use crate::env::RunConfig;

const NOW_MS: u64 = 1_795_000_000_000;
const ISSUER: &str = "https://id.example.com";

fn part(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// A provider's private key.
enum Signer {
    Ec(EcdsaKeyPair),
    Ed(Ed25519KeyPair),
    Rsa(aws_lc_rs::rsa::KeyPair),
}

impl Signer {
    fn ec() -> Self {
        Self::Ec(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap())
    }

    fn all() -> Vec<Self> {
        let rsa = aws_lc_rs::rsa::KeyPair::generate(aws_lc_rs::rsa::KeySize::Rsa2048).unwrap();
        vec![Self::ec(), Self::Ed(Ed25519KeyPair::generate().unwrap()), Self::Rsa(rsa)]
    }

    fn algorithm(&self) -> &'static str {
        match self {
            Self::Ec(_) => "ES256",
            Self::Ed(_) => "EdDSA",
            Self::Rsa(_) => "RS256",
        }
    }

    fn jwk(&self) -> Value {
        let kid = self.algorithm();
        match self {
            Self::Ec(pair) => {
                let point = pair.public_key().as_ref();
                json!({"kty": "EC", "crv": "P-256", "kid": kid, "x": part(&point[1..33]), "y": part(&point[33..])})
            }
            Self::Ed(pair) => {
                json!({"kty": "OKP", "crv": "Ed25519", "kid": kid, "x": part(pair.public_key())})
            }
            Self::Rsa(pair) => {
                let key = pair.public_key();
                let (n, e) = (key.modulus(), key.exponent());
                json!({
                    "kty": "RSA", "kid": kid, "use": "sig",
                    "n": part(n.big_endian_without_leading_zero()), "e": part(e.big_endian_without_leading_zero()),
                })
            }
        }
    }

    fn token(&self, claims: &Value) -> String {
        let header = json!({"alg": self.algorithm(), "kid": self.algorithm(), "typ": "JWT"});
        let message = format!("{}.{}", part(header.to_string()), part(claims.to_string()));
        let random = SystemRandom::new();
        let signature = match self {
            Self::Ec(pair) => pair.sign(&random, message.as_bytes()).unwrap().as_ref().to_vec(),
            Self::Ed(pair) => pair.sign(message.as_bytes()).as_ref().to_vec(),
            Self::Rsa(pair) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(&RSA_PKCS1_SHA256, &random, message.as_bytes(), &mut signature).unwrap();
                signature
            }
        };
        format!("{message}.{}", part(signature))
    }
}

fn claims(subject: &str) -> Value {
    let now_s = NOW_MS / 1_000;
    json!({"iss": ISSUER, "aud": ["sluice"], "sub": subject, "iat": now_s - 5, "exp": now_s + 3_600})
}

fn provider() -> Provider {
    Provider::new(ProviderConfig {
        issuer: ISSUER.to_owned(),
        audiences: vec!["sluice".to_owned()],
        algorithms: ["RS256", "ES256", "EdDSA"].into_iter().filter_map(algorithm).collect(),
        types: vec!["JWT".to_owned()],
        skew: Duration::from_secs(30),
        link: UserLink::Subject,
        email_claim: "email".to_owned(),
        verified_email: true,
        create_users: false,
        roles_claim: None,
        operator_roles: Vec::new(),
        auditor_roles: Vec::new(),
        scopes: Scopes::ALL,
        refetch_after: Duration::from_secs(10),
        key_wait: Duration::from_millis(20),
    })
}

/// A provider with these keys, and a core's view of its tokens.
fn tokens(signers: &[Signer]) -> (Arc<Provider>, ShardConfig) {
    let provider = Arc::new(provider());
    let keys: Vec<Value> = signers.iter().map(Signer::jwk).collect();
    assert_eq!(provider.install(json!({ "keys": keys }).to_string().as_bytes()).unwrap(), signers.len());
    let mut config = ShardConfig::new(RunConfig::new("key", "model", "client", "secret"));
    config.providers = Arc::new(Providers::new(vec![Arc::clone(&provider)]));
    (provider, config)
}

/// What a core needs beside, on the calling thread's reactor.
struct World {
    admin: Admin,
    store: CoreStore,
    clerk: Clerk,
    _egress: Egress,
    _directory: tempfile::TempDir,
}

impl World {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let config = StoreConfig::new(directory.path().join("data"), ShardCount::new(8).unwrap());
        let store = Store::open(config).unwrap();
        let nowhere = || UpstreamConfig::new("http://127.0.0.1:9");
        let egress = Egress::start(EgressConfig::new(PerUpstream {
            openai: nowhere(),
            oauth: nowhere(),
            gmail: nowhere(),
            calendar: nowhere(),
            drive: nowhere(),
        }))
        .unwrap();
        let vault = Vault::open(&store, Keyring::generate().unwrap()).unwrap();
        let admin = Admin::new(store.clone(), vault);
        let clerk = Clerk::new(admin.clone(), egress.runtime());
        Self { admin, store: CoreStore::new(&store), clerk, _egress: egress, _directory: directory }
    }

    fn user(&self, subject: &str) -> UserId {
        let identity = Identity { issuer: ISSUER.to_owned(), subject: subject.to_owned() };
        let new = NewUser {
            name: subject.to_owned(),
            email: format!("{subject}@example.com"),
            time_zone: None,
            role: Role::User,
            identity: Some(identity),
        };
        self.admin.make_user(&new).unwrap().id
    }

    async fn check(&self, tokens: &Tokens, token: &str) -> Result<UserId, Denied> {
        self.pass(tokens, token).await.map(|who| who.user)
    }

    async fn pass(&self, tokens: &Tokens, token: &str) -> Result<Rc<Passed>, Denied> {
        let means = Means {
            store: &self.store,
            clerk: &self.clerk,
            revocations: self.admin.revocations(),
            unix_ms: NOW_MS,
            address: Ipv4Addr::LOCALHOST.into(),
            request_id: "req_1",
        };
        tokens.check(token, fingerprint(token), means).await
    }
}

fn on_a_core<F: Future<Output = ()> + 'static>(test: F) {
    Reactor::new(ReactorConfig::new(CoreId::new(0))).unwrap().block_on(test).unwrap();
}

#[test]
fn tokens_of_every_kind_of_key_are_their_users_and_are_remembered_until_something_changes() {
    on_a_core(async {
        let (signers, world) = (Signer::all(), World::new());
        let (provider, config) = tokens(&signers);
        let tokens = Tokens::new(&config);
        let anna = world.user("anna");
        let revocations = world.admin.revocations();
        for signer in &signers {
            let token = signer.token(&claims("anna"));
            let believed = |unix_ms| {
                tokens
                    .believed(&fingerprint(&token), revocations, sluice_core::now(), unix_ms)
                    .map(|who| who.user)
            };
            assert_eq!(believed(NOW_MS), None);
            assert_eq!(world.check(&tokens, &token).await, Ok(anna), "{}", signer.algorithm());
            assert_eq!(believed(NOW_MS), Some(anna));
            // Until it ends, with what clocks may be apart.
            assert_eq!(believed(NOW_MS + 3_629_000), Some(anna));
            assert_eq!(believed(NOW_MS + 3_630_000), None);
            world.admin.set_disabled(&anna, true).unwrap();
            assert_eq!(believed(NOW_MS), None);
            assert_eq!(world.check(&tokens, &token).await, Err(Denied::Disabled(anna)));
            world.admin.set_disabled(&anna, false).unwrap();
            assert_eq!(world.check(&tokens, &token).await, Ok(anna));
            assert_eq!(believed(NOW_MS), Some(anna));
            // The same keys again are no news; others are.
            let all: Vec<Value> = signers.iter().map(Signer::jwk).collect();
            provider.install(json!({ "keys": all }).to_string().as_bytes()).unwrap();
            assert_eq!(believed(NOW_MS), Some(anna));
            let others: Vec<Value> =
                all.iter().filter(|key| key["kid"] != signer.algorithm()).cloned().collect();
            provider.install(json!({ "keys": others }).to_string().as_bytes()).unwrap();
            assert_eq!(believed(NOW_MS), None);
            assert_eq!(world.check(&tokens, &token).await, Err(Denied::Token(TokenFault::Key)));
            provider.install(json!({ "keys": all }).to_string().as_bytes()).unwrap();
        }
        assert_eq!(world.check(&tokens, &signers[0].token(&claims("bert"))).await, Err(Denied::NoUser));
    });
}

/// A stamp that moves says only that something changed.
#[test]
fn who_was_let_in_by_a_token_is_told_on_until_the_token_or_its_user_is_good_no_more() {
    on_a_core(async {
        let (signers, world) = (vec![Signer::ec()], World::new());
        let (_, config) = tokens(&signers);
        let (tokens, browsers) = (Tokens::new(&config), Browsers::new(&config));
        let anna = world.user("anna");
        let limits = Arc::new(crate::limit::Limits::new(crate::limit::LimitConfig::off()));
        let limiter = crate::limit::Limiter::new(limits, Arc::default());
        let clock = crate::clock::Clock::manual(NOW_MS);
        let revocations = world.admin.revocations();
        let keys = KeyMeans { store: &world.store, revocations, limiter: &limiter, clock: &clock };
        let passed = world.pass(&tokens, &signers[0].token(&claims("anna"))).await.unwrap();
        let who = passed.with(Rc::new(limiter.limits().allowance().clone()));
        let standing = Standing::of(&who);
        let holds = async || {
            let means = StandingMeans { keys, browsers: &browsers, tokens: &tokens };
            standing.holds(means).await.unwrap()
        };
        assert!(holds().await);
        revocations.revoke(&anna);
        assert!(holds().await && revocations.is_current(standing.stamp()), "it is looked up once");
        world.admin.set_disabled(&anna, true).unwrap();
        assert!(!holds().await && !holds().await);
        world.admin.set_disabled(&anna, false).unwrap();
        assert!(holds().await);
        clock.set(NOW_MS + 2 * 3_600_000);
        assert!(!holds().await);
    });
}

#[test]
fn key_sets_give_what_can_be_used_and_nothing_else() {
    let provider = provider();
    let ec = Signer::ec().jwk();
    let with = |changes: &[(&str, Value)]| {
        let mut key = ec.clone();
        changes.iter().for_each(|(name, value)| key[*name] = value.clone());
        key
    };
    let taken = |keys: Value| provider.install(json!({ "keys": keys }).to_string().as_bytes());
    let oct = json!({"kty": "oct", "k": part([7; 64]), "alg": "HS256", "kid": "s"});
    for unusable in [
        oct.clone(),
        with(&[("use", json!("enc"))]),
        with(&[("alg", json!("HS256"))]),
        with(&[("alg", json!("ES384"))]),
        with(&[("alg", json!("none"))]),
        with(&[("crv", json!("P-521"))]),
        with(&[("x", json!("?"))]),
        json!({"kty": "new"}),
        json!(7),
    ] {
        assert!(matches!(taken(json!([unusable])), Err(KeySetError::Unusable(1))), "{unusable}");
        assert_eq!(taken(json!([unusable, ec])).unwrap(), 1);
    }
    assert!(matches!(provider.install(b"{}"), Err(KeySetError::Shape(_))));
    assert!(matches!(taken(json!([])), Err(KeySetError::Unusable(0))));
    for none in ["HS256", "HS384", "HS512", "none", "", "rs256"] {
        assert_eq!(algorithm(none), None, "{none}");
    }
    // Without a name it must be clear which is meant.
    let set = provider.keys().borrow().clone();
    assert!(set.find(None, algorithm("ES256").unwrap()).is_some());
    taken(json!([ec, with(&[("kid", json!("other"))])])).unwrap();
    let set = provider.keys().borrow().clone();
    assert!(set.find(None, algorithm("ES256").unwrap()).is_none());
    assert!(set.find(Some("other"), algorithm("ES256").unwrap()).is_some());
    assert!(set.find(Some("other"), algorithm("RS256").unwrap()).is_none());
}

#[test]
fn a_signer_is_known_by_its_key_and_its_provider_and_not_by_its_name() {
    let install = |provider: &Provider, keys: Value| {
        provider.install(json!({ "keys": keys }).to_string().as_bytes()).unwrap();
        let set = provider.keys().borrow().clone();
        set.find(None, algorithm("ES256").unwrap()).map(|key| key.signer)
    };
    let (jwk, other) = (Signer::ec().jwk(), Signer::ec().jwk());
    let mut renamed = jwk.clone();
    renamed["kid"] = json!("another");
    renamed["use"] = json!("sig");
    let signer = install(&provider(), json!([jwk])).expect("a key");
    assert_eq!(install(&provider(), json!([renamed])), Some(signer));
    assert_ne!(install(&provider(), json!([other])), Some(signer));
    let elsewhere = ProviderConfig { issuer: "https://id.example.org".to_owned(), ..provider().config };
    let elsewhere = Arc::new(Provider::new(elsewhere));
    assert_ne!(install(&elsewhere, json!([jwk])), Some(signer));
    // Whether it is withdrawn is known when all keys are.
    let here = Arc::new(provider());
    let providers = Providers::new(vec![elsewhere, Arc::clone(&here)]);
    assert_eq!((providers.has_signer(signer), providers.version()), (None, 1));
    install(&here, json!([renamed, Signer::Ed(Ed25519KeyPair::generate().unwrap()).jwk()]));
    assert_eq!((providers.has_signer(signer), providers.version()), (Some(true), 2));
    install(&here, json!([other]));
    assert_eq!((providers.has_signer(signer), providers.version()), (Some(false), 3));
    assert_eq!(Providers::default().has_signer(signer), Some(false));
}

#[test]
fn roles_are_found_wherever_the_provider_puts_them() {
    let claims = json!({
        "groups": "staff ops",
        "realm_access": {"roles": ["ops", "other"]},
        "https://id.example.com/roles": ["audit", 7],
        "empty": {},
    });
    let claims = claims.as_object().unwrap();
    let role = |name: &str| {
        let config = ProviderConfig {
            roles_claim: Some(name.to_owned()),
            operator_roles: vec!["ops".to_owned()],
            auditor_roles: vec!["audit".to_owned()],
            ..provider().config
        };
        Provider::new(config).role_of(claims)
    };
    assert_eq!(role("groups"), Some(Role::Operator));
    assert_eq!(role("realm_access.roles"), Some(Role::Operator));
    assert_eq!(role("https://id.example.com/roles"), Some(Role::Auditor));
    for nothing in ["realm_access", "realm_access.", "realm_access.roles.x", "empty.roles", ".", ""] {
        assert_eq!(role(nothing), Some(Role::User), "{nothing}");
        assert!(claim(claims, nothing).is_none_or(Value::is_object), "{nothing}");
    }
    assert_eq!(provider().role_of(claims), None);
}

#[test]
fn newer_keys_are_asked_for_now_and_then_however_many_want_them() {
    let provider = provider();
    let start = Instant::now();
    provider.install(json!({"keys": [Signer::ec().jwk()]}).to_string().as_bytes()).unwrap();
    assert!(provider.ask_for_newer(start));
    // Who comes at once waits with the first; who comes later does not wait for nothing.
    assert!(provider.ask_for_newer(start + Duration::from_millis(10)));
    provider.install(json!({"keys": [Signer::ec().jwk()]}).to_string().as_bytes()).unwrap();
    assert!(!provider.ask_for_newer(start + Duration::from_millis(11)), "they are there");
    for ms in 20..9_999 {
        assert!(!provider.ask_for_newer(start + Duration::from_millis(ms)));
    }
    assert!(provider.ask_for_newer(start + Duration::from_secs(10)));
    assert_eq!(provider.refetches.load(std::sync::atomic::Ordering::Relaxed), 2);
}

#[test]
fn who_comes_before_the_first_keys_keeps_nobody_from_asking_for_newer_ones() {
    let provider = provider();
    let start = Instant::now();
    // The first request is quicker than the first fetch, and waits for it.
    assert!(provider.ask_for_newer(start));
    provider.install(json!({"keys": [Signer::ec().jwk()]}).to_string().as_bytes()).unwrap();
    let mut wanted = std::pin::pin!(provider.wanted());
    let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
    assert!(wanted.as_mut().poll(&mut cx).is_pending(), "what it asked for is there");
    // They are replaced at once.
    assert!(provider.ask_for_newer(start + Duration::from_millis(1)));
    assert!(wanted.as_mut().poll(&mut cx).is_ready());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn whatever_is_sent_as_a_token_is_refused_and_breaks_nothing(
        header in "\\{(\"(alg|typ|kid|crit|jwk)\":(\"(RS256|ES256|none|HS256|JWT|x)\"|\\[\"b64\"\\]|null|7),?){0,4}\\}|.{0,30}",
        said in "\\{(\"(iss|sub|aud|exp|nbf)\":(\"https://id.example.com\"|\"sluice\"|1e3|1e999|-1|\\[\\]|null),?){0,5}\\}|.{0,30}",
        signature in proptest::collection::vec(any::<u8>(), 1..80),
    ) {
        let token = format!("{}.{}.{}", part(header), part(said), part(signature));
        on_a_core(async move {
            let (_, config) = tokens(&[Signer::ec()]);
            let tokens = Tokens::new(&config);
            assert!(matches!(tokens.prove(&token, NOW_MS).await, Err(Denied::Token(_))), "{token}");
        });
    }
}

/// Every way to a principal, and what each costs the core: `./dev bench auth` has it go round often enough to tell.
#[test]
fn what_credentials_cost() {
    let rounds =
        std::env::var("SLUICE_BENCH_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(2);
    fn took(rounds: u32, mut what: impl FnMut()) -> Duration {
        let best = (0..5).map(|_| {
            let began = Instant::now();
            (0..rounds).for_each(|_| what());
            began.elapsed() / rounds
        });
        best.min().unwrap_or_default()
    }
    on_a_core(async move {
        let (signers, world) = (Signer::all(), World::new());
        let (_, config) = tokens(&signers);
        let (keys, tokens) = (Keys::new(&config), Tokens::new(&config));
        let anna = world.user("anna");
        let key = world.admin.create_key(&anna, "bench").unwrap().expose();
        let text: &KeyText = key.as_bytes().try_into().unwrap();
        let shard = ShardId::of(&anna, ShardCount::new(8).unwrap());
        let (revocations, now) = (world.admin.revocations(), sluice_core::now());
        let limits = Arc::new(crate::limit::Limits::new(crate::limit::LimitConfig::off()));
        let limiter = crate::limit::Limiter::new(limits, Arc::default());
        let clock = crate::clock::Clock::manual(NOW_MS);
        let key_means = KeyMeans { store: &world.store, revocations, limiter: &limiter, clock: &clock };
        let began = Instant::now();
        keys.check(key_means, text, shard, now).await.unwrap();
        println!("API key, first seen:        {:>8.1} us", began.elapsed().as_nanos() as f64 / 1e3);
        let believed = took(rounds, || {
            black_box(keys.believed(black_box(text), revocations, now)).unwrap();
        });
        println!("API key, believed:          {:>8} ns", believed.as_nanos());
        for signer in &signers {
            let name = signer.algorithm();
            let fresh: Vec<String> = (0..rounds.min(200))
                .map(|number| {
                    let mut claims = claims("anna");
                    claims["jti"] = json!(number);
                    signer.token(&claims)
                })
                .collect();
            let began = Instant::now();
            for token in &fresh {
                world.check(&tokens, token).await.unwrap();
            }
            let each = began.elapsed() / rounds.min(200);
            println!("token {name}, first seen:    {:>8.1} us", each.as_nanos() as f64 / 1e3);
            let token = &fresh[0];
            let remembered = took(rounds, || {
                let fingerprint = fingerprint(black_box(token));
                black_box(tokens.believed(&fingerprint, revocations, now, NOW_MS)).unwrap();
            });
            println!("token {name}, remembered:    {:>8} ns ({} bytes)", remembered.as_nanos(), token.len());
        }
        let activity = activity::Activity::new();
        let who = keys.believed(text, revocations, now).unwrap();
        activity.note(&world.store, &who, NOW_MS);
        let noted = took(rounds, || {
            black_box(activity.note(&world.store, black_box(&who), NOW_MS));
        });
        println!("use noted:                  {:>8} ns", noted.as_nanos());
    });
}
