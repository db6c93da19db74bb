//! Tokens of an identity provider of another make: which are accepted, whose they are, and how they are taken back.

mod common;

use std::sync::Arc;

use bytes::Bytes;
use common::issuer::{Issuer, now_s};
use common::scene::{Caller, guard};
use common::{Gateway, Sim};
use http::Request;
use serde_json::{Value, json};
use tokio::task::JoinSet;

/// A provider, and a gateway of two cores that trusts it.
struct Scene {
    issuer: Issuer,
    gateway: Gateway,
    sim: Sim,
    _directory: tempfile::TempDir,
}

impl Scene {
    fn start(table: &str, options: &[&str]) -> Option<Self> {
        let issuer = Issuer::start()?;
        let sim = Sim::start(&[]);
        let directory = tempfile::tempdir().expect("a temporary directory");
        let data = directory.path().join("data");
        let gateway = issuer.gateway(&sim, &data, table, options);
        Some(Self { issuer, gateway, sim, _directory: directory })
    }

    /// A caller on each core's own port.
    async fn callers(&self) -> Vec<Caller> {
        let mut callers = Vec::new();
        for core in 0..2 {
            callers.push(Caller::at(&self.gateway, self.gateway.core_address(core)).await);
        }
        callers
    }
}

async fn me(caller: &Caller, token: &str) -> (u16, Value) {
    let answer = guard(caller.http.get("/api/v1/users/me", token)).await.expect("an answer");
    (answer.status.as_u16(), answer.value())
}

#[tokio::test]
async fn a_token_is_its_users_on_whatever_core_it_lands() {
    // Without keys_url the provider's discovery document says where they are.
    let Some(scene) = Scene::start("", &[]) else { return };
    for name in ["ada", "bob", "cyd"] {
        scene.gateway.user(name);
    }
    for caller in scene.callers().await {
        for name in ["ada", "bob", "cyd"] {
            for key in ["rsa-1", "ec-1", "ed-1"] {
                let token = scene.issuer.token(name, json!({}), json!({ "key": key })).await;
                // The first time it is checked, then it is remembered.
                for _ in 0..2 {
                    let (status, user) = me(&caller, &token).await;
                    assert_eq!((status, user["name"].as_str()), (200, Some(name)), "{key}: {user}");
                }
            }
        }
        let done = caller.done(&scene.issuer.good("ada").await, "find mails from kim").await;
        assert_eq!(done["state"], "done");
    }
}

#[tokio::test]
async fn what_is_wrong_with_a_token_is_told_and_nothing_is_served() {
    let Some(scene) = Scene::start("", &[]) else { return };
    scene.gateway.user("ada");
    let (issuer, caller) = (&scene.issuer, Caller::of(&scene.gateway).await);
    assert_eq!(me(&caller, &issuer.good("ada").await).await.0, 200);
    issuer.rotate(&["rsa-1", "ec-1", "ed-1", "oct", "weak-1"]).await;
    let (now, none) = (now_s(), json!({}));
    let cases = [
        // No algorithm that the library knows at all.
        ("no signed token", json!({}), json!({"attack": "none"})),
        ("algorithm", json!({}), json!({"attack": "secret", "key": "oct", "header": {"kid": "oct"}})),
        ("algorithm", json!({}), json!({"attack": "public"})),
        ("signature", json!({}), json!({"attack": "claims"})),
        // An allowed algorithm with a key of another type; one that the provider does not use.
        ("key", json!({}), json!({"key": "ec-1", "header": {"kid": "rsa-1"}})),
        ("algorithm", json!({}), json!({"alg": "RS512"})),
        // Somebody else's key under a known name.
        ("signature", json!({}), json!({"key": "rsa-2", "header": {"kid": "rsa-1"}})),
        ("key", json!({}), json!({"key": "rsa-3"})),
        ("expired", json!({"exp": now - 60}), none.clone()),
        ("exp", json!({"exp": null}), none.clone()),
        ("exp", json!({"exp": "tomorrow"}), none.clone()),
        ("not valid yet", json!({"nbf": now + 60}), none.clone()),
        ("not valid yet", json!({"iat": now + 60}), none.clone()),
        ("audience", json!({"aud": "another"}), none.clone()),
        ("audience", json!({"aud": ["another", "third"]}), none.clone()),
        ("aud", json!({"aud": null}), none.clone()),
        ("issuer", json!({"iss": "https://id.example.org"}), none.clone()),
        ("iss", json!({"iss": null}), none.clone()),
        ("iss", json!({"iss": [issuer.url]}), none.clone()),
        ("sub", json!({"sub": null}), none.clone()),
        ("type", json!({}), json!({"header": {"typ": "logout+jwt"}})),
        ("not understood", json!({}), json!({"header": {"crit": ["b64"], "b64": true}})),
    ];
    for (why, claims, asked) in cases {
        let token = issuer.token("ada", claims.clone(), asked.clone()).await;
        for _ in 0..2 {
            let answer = guard(caller.http.get("/api/v1/users/me", &token)).await.expect("an answer");
            let problem = answer.problem(401, "unauthorized");
            let detail = problem["detail"].as_str().expect("a text");
            assert!(detail.contains(why), "{why}: {detail} {claims} {asked}");
            assert!(answer.field("www-authenticate").is_some_and(|field| field.starts_with("Bearer")));
        }
    }
    // A key too short to trust is none.
    let weak = issuer.token("ada", json!({}), json!({"key": "weak-1"})).await;
    assert_eq!(me(&caller, &weak).await.0, 401);
    // Within the skew, with several audiences, and as an access token: as good as any.
    let fine = json!({"exp": now - 5, "nbf": now + 5, "aud": ["another", "sluice"]});
    let token = issuer.token("ada", fine, json!({"header": {"typ": "at+jwt"}})).await;
    assert_eq!(me(&caller, &token).await.0, 200);
    // Cut and changed at every place, it never is.
    let token = issuer.token("ada", json!({}), json!({"key": "ec-1"})).await;
    for at in (0..token.len()).step_by(7) {
        let mut bytes = token.clone().into_bytes();
        bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
        let changed = String::from_utf8(bytes).expect("ASCII");
        let last = token.len() - 1;
        assert!(at == last || me(&caller, &changed).await.0 == 401, "changed at {at}");
        if at > 0 {
            assert_eq!(me(&caller, &token[..at]).await.0, 401, "cut at {at}");
        }
    }
}

#[tokio::test]
async fn keys_are_rotated_without_a_failed_request_and_a_flood_of_unknown_ones_fetches_few() {
    let Some(scene) = Scene::start("", &["identity.refetch_s=3600"]) else { return };
    scene.gateway.user("ada");
    let (issuer, callers) = (&scene.issuer, scene.callers().await);
    let old = issuer.good("ada").await;
    for caller in &callers {
        assert_eq!(me(caller, &old).await.0, 200);
    }
    let before = issuer.fetched().await;
    // A new key beside the old one, and its first tokens on both cores at once.
    issuer.rotate(&["rsa-2", "rsa-1"]).await;
    let new = issuer.token("ada", json!({}), json!({"key": "rsa-2"})).await;
    let (one, other) = tokio::join!(me(&callers[0], &new), me(&callers[1], &new));
    assert_eq!((one.0, other.0), (200, 200), "{one:?} {other:?}");
    assert_eq!(me(&callers[0], &old).await.0, 200);
    // Names that nobody has, hundreds of them: one fetch is allowed in an hour, and that was it.
    for number in 0..300 {
        let asked = json!({"header": {"kid": format!("made-up-{number}")}});
        let token = issuer.token("ada", json!({}), asked).await;
        assert_eq!(me(&callers[number % 2], &token).await.0, 401);
    }
    assert_eq!(issuer.fetched().await, before + 1);
    let page = scene.gateway.page().await;
    assert_eq!(page.sum("sluice_identity_refetches_total", &[("provider", "0")]), 1);
}

#[tokio::test]
async fn many_behind_one_address_bring_tokens_of_a_new_key_and_few_bad_ones_are_looked_at() {
    let Some(scene) = Scene::start("", &["rate.unauthorized_per_hour=10"]) else { return };
    scene.gateway.user("ada");
    let (issuer, caller) = (&scene.issuer, Arc::new(Caller::of(&scene.gateway).await));
    assert_eq!(me(&caller, &issuer.good("ada").await).await.0, 200);
    issuer.rotate(&["rsa-2", "rsa-1"]).await;
    let mut tokens = Vec::new();
    for number in 0..40 {
        tokens.push(issuer.token("ada", json!({"jti": number}), json!({"key": "rsa-2"})).await);
    }
    let mut asking = JoinSet::new();
    for token in tokens.clone() {
        let caller = Arc::clone(&caller);
        asking.spawn(async move { me(&caller, &token).await });
    }
    for (status, told) in asking.join_all().await {
        assert_eq!(status, 200, "{told}");
    }
    let bad = issuer.token("ada", json!({"exp": 1}), json!({})).await;
    for _ in 0..10 {
        assert_eq!(me(&caller, &bad).await.0, 401);
    }
    assert_eq!(me(&caller, &bad).await.0, 429);
    // What was accepted before is; another, however good, is not looked at.
    assert_eq!(me(&caller, &tokens[0]).await.0, 200);
    assert_eq!(me(&caller, &issuer.token("ada", json!({"jti": "new"}), json!({})).await).await.0, 429);
}

#[tokio::test]
async fn a_key_that_the_provider_takes_back_signs_nothing_any_more() {
    let Some(scene) = Scene::start("", &[&common::PATIENT[..], &["identity.refetch_s=1"]].concat()) else {
        return;
    };
    scene.gateway.user("ada");
    let (issuer, caller) = (&scene.issuer, Caller::of(&scene.gateway).await);
    let old = issuer.good("ada").await;
    assert_eq!(me(&caller, &old).await.0, 200);
    // A browser's session that the key's token began, seen on both cores; one that an API key began is beside it.
    let callers = scene.callers().await;
    let begun_with = async |credential: &str| {
        let bearer = format!("Bearer {credential}");
        let fields = [("authorization", &*bearer), ("content-type", "application/json")];
        let begun = caller.send("POST", "/api/v1/browser-sessions", &fields, "{}").await;
        assert_eq!(begun.status.as_u16(), 201, "{:?}", begun.body);
        begun.field("set-cookie").expect("a cookie").split(';').next().expect("its first part").to_owned()
    };
    let signed_in = async |caller: &Caller, cookie: &str| {
        caller.send("GET", "/api/v1/users/me", &[("cookie", cookie)], "").await.status.as_u16()
    };
    let (by_token, by_key) =
        (begun_with(&old).await, begun_with(&scene.gateway.admin(&["key", "add", "ada"])).await);
    for caller in &callers {
        assert_eq!((signed_in(caller, &by_token).await, signed_in(caller, &by_key).await), (200, 200));
    }
    // The same key beside a new one, whatever they are called by then, takes nothing back.
    issuer.rotate(&["rsa-2", "rsa-1"]).await;
    let new = issuer.token("ada", json!({}), json!({"key": "rsa-2"})).await;
    for _ in 0..100 {
        if me(&caller, &new).await.0 == 200 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    let by_new = begun_with(&new).await;
    for caller in &callers {
        assert_eq!((signed_in(caller, &by_token).await, signed_in(caller, &by_new).await), (200, 200));
    }
    // Streams of events that the key's token and the session opened, of a task that does not end.
    scene.sim.fault(json!({"service": "gmail", "kind": "hang", "count": 1})).await;
    let path = caller.queue(&new, "find mails from kim").await;
    let bearer = format!("Bearer {old}");
    let mut streams = Vec::new();
    for (name, value) in [("authorization", &*bearer), ("cookie", &*by_token)] {
        for caller in &callers {
            let request = Request::get(format!("https://localhost{path}/events")).header(name, value);
            let request = request.body(()).expect("a request");
            let (_, mut events) = guard(caller.http.open(request, Bytes::new())).await.expect("an answer");
            while guard(events.event()).await.expect("an event").1 != "step.started" {}
            streams.push(events);
        }
    }
    issuer.rotate(&["rsa-3"]).await;
    // Anything that asks for newer keys will do; it may have to wait until it is allowed to.
    let new = issuer.token("ada", json!({}), json!({"key": "rsa-3"})).await;
    for _ in 0..100 {
        if me(&caller, &new).await.0 == 200 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    assert_eq!(me(&caller, &new).await.0, 200);
    assert_eq!(me(&caller, &old).await.0, 401);
    for caller in &callers {
        assert_eq!((signed_in(caller, &by_token).await, signed_in(caller, &by_new).await), (401, 401));
        assert_eq!(signed_in(caller, &by_key).await, 200);
    }
    for events in streams {
        let rest = guard(events.rest()).await;
        assert!(
            rest.ends_with(&format!("event: left\ndata: {{\"task\":\"{}\"}}\n\n", id_of(&path))),
            "{rest:?}"
        );
    }
    let page = scene.gateway.page().await;
    assert_eq!(page.sum("sluice_event_streams_withdrawn_total", &[]), 4);
}

/// The id at the end of a task's path.
fn id_of(path: &str) -> &str {
    path.rsplit('/').next().expect("a part")
}

#[tokio::test]
async fn who_is_disabled_or_signed_out_is_out_on_every_core_with_the_next_request() {
    let Some(scene) = Scene::start("", &[]) else { return };
    scene.gateway.user("ada");
    let (issuer, callers) = (&scene.issuer, scene.callers().await);
    let token = issuer.token("ada", json!({"iat": now_s() - 10}), json!({})).await;
    for caller in &callers {
        assert_eq!(me(caller, &token).await.0, 200);
    }
    scene.gateway.admin(&["user", "set", "ada", "--disabled", "true"]);
    for caller in &callers {
        assert_eq!(me(caller, &token).await.0, 403);
    }
    scene.gateway.admin(&["user", "set", "ada", "--disabled", "false"]);
    for caller in &callers {
        assert_eq!(me(caller, &token).await.0, 200);
    }
    scene.gateway.admin(&["user", "set", "ada", "--sign-out"]);
    for caller in &callers {
        assert_eq!(me(caller, &token).await.0, 401);
    }
    // One that was issued since is good; one that does not say when it was issued is not.
    let later = issuer.token("ada", json!({"iat": now_s() + 5}), json!({})).await;
    assert_eq!(me(&callers[0], &later).await.0, 200);
    let undated = issuer.token("ada", json!({"iat": null}), json!({})).await;
    assert_eq!(me(&callers[0], &undated).await.0, 401);
}

#[tokio::test]
async fn a_browsers_session_that_a_token_began_ends_with_it_and_is_no_more_than_it() {
    let table = "roles_claim = \"groups\"\noperator_roles = [\"ops\"]\nscopes = [\"account\", \"admin\"]";
    let Some(scene) = Scene::start(table, &[]) else { return };
    scene.gateway.user("ada");
    let (issuer, callers) = (&scene.issuer, scene.callers().await);
    let ends_s = now_s() + 300;
    let token = issuer.token("ada", json!({"groups": ["ops"], "exp": ends_s}), json!({})).await;
    assert_eq!(callers[0].get("/api/v1/users", &token).await.status.as_u16(), 200);
    let bearer = format!("Bearer {token}");
    let fields = [("authorization", &*bearer), ("content-type", "application/json")];
    let begun = callers[0].send("POST", "/api/v1/browser-sessions", &fields, "{}").await;
    let session = begun.value();
    assert_eq!((begun.status.as_u16(), &session["key"]), (201, &Value::Null), "{session:#}");
    // With what clocks may be apart, as the token itself.
    let ends = sluice_shard::clock::timestamp_of((ends_s + 30) * 1_000).to_string();
    assert_eq!((&session["expires"], &session["scopes"]), (&json!(ends), &json!(["account", "admin"])));
    let field = begun.field("set-cookie").expect("a cookie");
    let cookie = field.split(';').next().expect("its first part").to_owned();
    let get = async |caller: &Caller, path: &str| {
        caller.send("GET", path, &[("cookie", &cookie)], "").await.status.as_u16()
    };
    for caller in &callers {
        assert_eq!(get(caller, "/api/v1/users/me").await, 200);
        // The provider's role is its tokens' alone; the user has none.
        assert_eq!(get(caller, "/api/v1/users").await, 403);
    }
    scene.gateway.admin(&["user", "set", "ada", "--role", "operator"]);
    assert_eq!(get(&callers[1], "/api/v1/users").await, 200);
    scene.gateway.admin(&["user", "set", "ada", "--sign-out"]);
    for caller in &callers {
        assert_eq!(get(caller, "/api/v1/users/me").await, 401);
    }
}

#[tokio::test]
async fn users_are_linked_made_or_refused_as_configured() {
    let issuer_made = "create_users = true\nroles_claim = \"groups\"\noperator_roles = [\"ops\"]\n\
                       auditor_roles = [\"audit\"]\nscopes = [\"account\", \"admin:read\"]";
    let Some(scene) = Scene::start(issuer_made, &[]) else { return };
    let (issuer, caller) = (&scene.issuer, Caller::of(&scene.gateway).await);
    scene.gateway.user("ada");
    // By the address, the first time; then by the subject, whatever the address.
    let (_, ada) = me(&caller, &issuer.good("ada").await).await;
    assert_eq!(ada["name"], "ada");
    let moved = issuer.token("ada", json!({"email": "other@example.com"}), json!({})).await;
    assert_eq!(me(&caller, &moved).await.1["id"], ada["id"]);
    // Nobody becomes another by saying so.
    let unverified = json!({"email": "ada@example.com", "email_verified": false});
    let token = issuer.token("eve", unverified, json!({})).await;
    assert_eq!(me(&caller, &token).await.0, 403);
    // Made at first sight, once, though both cores meet the token at once.
    let callers = scene.callers().await;
    let token = issuer.token("new", json!({"zoneinfo": "Europe/Berlin", "groups": ["ops"]}), json!({})).await;
    let (one, other) = tokio::join!(me(&callers[0], &token), me(&callers[1], &token));
    assert_eq!((one.0, other.0), (200, 200), "{one:?} {other:?}");
    assert_eq!((&one.1["id"], &one.1["time_zone"]), (&other.1["id"], &json!("Europe/Berlin")));
    // The provider's roles count for its tokens, within the scopes that its tokens may have.
    let get = async |token: &str, path: &str| {
        guard(caller.http.get(path, token)).await.expect("an answer").status.as_u16()
    };
    assert_eq!(get(&token, "/api/v1/users").await, 200);
    assert_eq!(get(&token, "/api/v1/tasks").await, 403);
    let answer = caller
        .send(
            "POST",
            "/api/v1/users",
            &[("authorization", &format!("Bearer {token}")), ("content-type", "application/json")],
            r#"{"name": "x", "email": "x@example.com"}"#,
        )
        .await;
    answer.problem(403, "forbidden");
    let plain = issuer.token("new", json!({"groups": ["other"]}), json!({})).await;
    assert_eq!(get(&plain, "/api/v1/users").await, 403);
}

#[tokio::test]
async fn subjects_without_a_user_are_refused_until_an_operator_links_them() {
    let Some(scene) = Scene::start("user_by = \"subject\"", &[]) else { return };
    let (issuer, caller) = (&scene.issuer, Caller::of(&scene.gateway).await);
    scene.gateway.user("ada");
    let token = issuer.good("ada").await;
    assert_eq!(me(&caller, &token).await.0, 403);
    scene.gateway.admin(&["user", "set", "ada", "--issuer", &issuer.url, "--subject", "ada"]);
    let (status, ada) = me(&caller, &token).await;
    assert_eq!((status, &ada["name"]), (200, &json!("ada")));
}

#[tokio::test]
async fn without_the_providers_keys_a_token_is_not_refused_for_good() {
    let Some(scene) = Scene::start("keys_url = \"http://127.0.0.1:9/keys\"", &["identity.key_wait_ms=50"])
    else {
        return;
    };
    let caller = Caller::of(&scene.gateway).await;
    let answer = guard(caller.http.get("/api/v1/users/me", &scene.issuer.good("ada").await)).await;
    let answer = answer.expect("an answer");
    assert_eq!(answer.problem(503, "overloaded")["retryable"], true);
    // Keys go on as before.
    let key = scene.gateway.user("ada");
    assert_eq!(me(&caller, &key).await.0, 200);
}
