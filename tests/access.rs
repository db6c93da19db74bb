//! Who may do what: every route that is described, with every role and every scope, upon what is another user's; and keys
//! and users that are changed, on whichever core they are used.

mod common;

use std::time::Duration;

use common::asker::{Asker, text};
use common::lot::Lot;
use common::scene::{Caller, Scene, guard};
use serde_json::{Value, json};
use sluice_protocols::access::Scope;

const ROLES: [&str; 3] = ["user", "auditor", "operator"];

/// An operation of the description, with a path that names what is another's.
struct Operation {
    method: String,
    path: String,
    roles: Vec<String>,
    scope: Option<String>,
    media_type: Option<String>,
    /// Whether the path names something of a user's own that the gateway keeps.
    is_others: bool,
}

/// Ids of the user whose things nobody else may see.
struct Others {
    task: String,
    session: String,
    key: String,
    browser: String,
    connection: String,
    webhook: String,
    snapshot: String,
    /// A user whom operators may well disable.
    user: String,
}

impl Others {
    async fn plant(scene: &Scene) -> Self {
        let bob = Asker::of(&scene.gateway, &scene.gateway.user("bob")).await;
        let zoe = Asker::of(&scene.gateway, &scene.gateway.user("zoe")).await;
        let task = bob.expect(200, "POST", "/command", &json!({"command": "find mails from kim"})).await;
        let key = bob.expect(201, "POST", "/keys", &json!({"name": "bob's"})).await;
        let browser = bob.expect(201, "POST", "/browser-sessions", &json!({})).await;
        let step = json!({"id": "a", "operation": "gmail.search", "with": {"query": "x", "limit": 1}});
        bob.ask("PUT", "/workflows/bobs", &json!({"steps": [step]})).await;
        let hook = json!({"url": "https://example.com/hook", "events": ["task.done"], "enabled": false});
        let webhook = bob.expect(201, "POST", "/webhooks", &hook).await;
        bob.ask("PUT", "/context/bobs", &json!({})).await;
        let snapshot = bob.expect(201, "POST", "/context/snapshots", &json!({})).await;
        Self {
            task: text(&task["id"]).to_owned(),
            session: text(&task["session"]).to_owned(),
            key: text(&key["id"]).to_owned(),
            browser: text(&browser["id"]).to_owned(),
            connection: text(&bob.get("/connections").await["connections"][0]["id"]).to_owned(),
            webhook: text(&webhook["id"]).to_owned(),
            snapshot: text(&snapshot["id"]).to_owned(),
            user: text(&zoe.get("/users/me").await["id"]).to_owned(),
        }
    }

    /// The path with its places filled in, and whether that names something of Bob's.
    fn fill(&self, path: &str) -> (String, bool) {
        let id = match path.split('/').nth(3) {
            Some("tasks" | "dead-letters") => &self.task,
            Some("sessions") => &self.session,
            Some("keys") => &self.key,
            Some("browser-sessions") => &self.browser,
            Some("users") => &self.user,
            Some("connections") => &self.connection,
            Some("webhooks") => &self.webhook,
            Some("context") => &self.snapshot,
            _ => "bobs",
        };
        let filled = path
            .replace("{id}", id)
            .replace("{name}", "bobs")
            .replace("{version}", "1")
            .replace("{permission}", "bobs")
            .replace("{ticket}", "bobs");
        let is_ours = matches!(
            path.split('/').nth(3),
            Some(
                "tasks"
                    | "dead-letters"
                    | "sessions"
                    | "keys"
                    | "browser-sessions"
                    | "workflows"
                    | "connections"
                    | "webhooks"
            )
        ) || path.starts_with("/api/v1/context/snapshots/");
        (filled, is_ours && path.contains('{'))
    }
}

async fn operations(caller: &Caller, others: &Others) -> Vec<Operation> {
    let document = caller.send("GET", "/openapi.json", &[], "").await.value();
    let mut found = Vec::new();
    for (path, operations) in document["paths"].as_object().expect("paths") {
        for (method, operation) in operations.as_object().expect("operations") {
            if method == "parameters" {
                continue;
            }
            let access = &operation["x-access"];
            let roles = access["roles"].as_array().unwrap_or_else(|| panic!("{method} {path} shows no rule"));
            let scope = access["scope"].as_str().map(str::to_owned);
            // What is shown twice is the same.
            let shown = match &scope {
                Some(scope) => json!([{"key": [scope]}, {"cookie": [scope]}]),
                None => json!([]),
            };
            assert_eq!(operation["security"], shown, "{method} {path}");
            let media_type =
                operation["requestBody"]["content"].as_object().and_then(|content| content.keys().next());
            let (filled, is_others) = others.fill(path);
            found.push(Operation {
                method: method.to_uppercase(),
                path: filled,
                roles: roles.iter().map(|role| text(role).to_owned()).collect(),
                scope,
                media_type: media_type.cloned(),
                is_others,
            });
        }
    }
    found
}

async fn send(caller: &Caller, operation: &Operation, key: Option<&str>) -> u16 {
    let bearer = key.map(|key| format!("Bearer {key}"));
    let mut fields: Vec<(&str, &str)> = Vec::new();
    fields.extend(bearer.as_deref().map(|bearer| ("authorization", bearer)));
    fields.extend(operation.media_type.as_deref().map(|media_type| ("content-type", media_type)));
    let body = if operation.media_type.is_some() { "{}" } else { "" };
    caller.send(&operation.method, &operation.path, &fields, body).await.status.as_u16()
}

#[tokio::test]
async fn no_route_serves_a_role_or_a_scope_that_it_is_not_for() {
    let quotas = [
        "quota.gmail_user_units_per_minute=1000000",
        "quota.calendar_user_units_per_minute=10000",
        "quota.drive_user_units_per_minute=1000000",
    ];
    let scene = Scene::start(2, &quotas);
    let others = Others::plant(&scene).await;
    let caller = scene.caller().await;
    let operations = operations(&caller, &others).await;
    assert!(operations.len() > 60, "{} operations", operations.len());
    let (mut refused, mut let_in) = (0, 0);
    for operation in operations.iter().filter(|operation| operation.scope.is_some()) {
        assert_eq!(send(&caller, operation, None).await, 401, "{} {}", operation.method, operation.path);
    }
    for role in ROLES {
        scene.gateway.user(role);
        scene.gateway.admin(&["user", "set", role, "--role", role]);
        for scope in Scope::ALL {
            let key = scene.gateway.admin(&["key", "add", role, "--scopes", scope.name()]);
            for operation in &operations {
                let status = send(&caller, operation, Some(&key)).await;
                let said = format!(
                    "{} {} as {role} with {}: {status}",
                    operation.method,
                    operation.path,
                    scope.name()
                );
                let has_scope = operation
                    .scope
                    .as_deref()
                    .is_none_or(|needed| needed == scope.name() || needed == scope.reading().name());
                let has_role = operation.roles.iter().any(|one| one == role);
                if has_scope && has_role {
                    // What is let in fails at most for what it asks: never for who asks.
                    assert!(!matches!(status, 401 | 403 | 500), "{said}");
                    assert!(!operation.is_others || status >= 400, "{said}");
                    let_in += 1;
                } else {
                    assert_eq!(status, 403, "{said}");
                    refused += 1;
                }
            }
        }
    }
    println!("{} operations: {refused} refused, {let_in} let in", operations.len());
    assert!(refused > 1_000 && let_in > 200, "{refused} {let_in}");
}

/// A caller on each core's own port.
async fn callers(scene: &Scene) -> Vec<Caller> {
    vec![
        Caller::at(&scene.gateway, scene.gateway.core_address(0)).await,
        Caller::at(&scene.gateway, scene.gateway.core_address(1)).await,
    ]
}

async fn status(caller: &Caller, path: &str, key: &str) -> u16 {
    guard(caller.http.get(path, key)).await.expect("an answer").status.as_u16()
}

#[tokio::test]
async fn a_revoked_key_and_a_disabled_user_are_out_with_the_next_request_on_every_core() {
    let scene = Scene::start(2, &[]);
    let callers = callers(&scene).await;
    let olga = Asker::of(&scene.gateway, &{
        scene.gateway.user("olga");
        scene.gateway.admin(&["user", "set", "olga", "--role", "operator"]);
        scene.gateway.admin(&["key", "add", "olga", "--scopes", "account,admin"])
    })
    .await;
    // Enough users that both cores own some, and that some are not on the operator's.
    for name in ["ada", "bob", "cyd", "dan"] {
        let key = scene.gateway.user(name);
        let user = Asker::of(&scene.gateway, &key).await;
        let id = text(&user.get("/users/me").await["id"]).to_owned();
        let second = user.expect(201, "POST", "/keys", &json!({"name": "second"})).await;
        let (second_id, second) = (text(&second["id"]), text(&second["key"]));
        for caller in &callers {
            assert_eq!(status(caller, "/api/v1/tasks", second).await, 200);
        }
        user.expect(204, "DELETE", &format!("/keys/{second_id}"), &Value::Null).await;
        for caller in &callers {
            assert_eq!(status(caller, "/api/v1/tasks", second).await, 401);
            assert_eq!(status(caller, "/api/v1/tasks", &key).await, 200);
        }
        // By the command line, which goes through another thread.
        let third = scene.gateway.admin(&["key", "add", name, "--label", "third"]);
        assert_eq!(status(&callers[0], "/api/v1/tasks", &third).await, 200);
        let listed = scene.gateway.admin(&["key", "list", name]);
        let third_id =
            listed.lines().find(|line| line.contains("\tthird\t")).and_then(|line| line.split('\t').next());
        scene.gateway.admin(&["key", "revoke", name, third_id.expect("it is listed")]);
        for caller in &callers {
            assert_eq!(status(caller, "/api/v1/tasks", &third).await, 401);
        }
        let edited = olga.expect(200, "PATCH", &format!("/users/{id}"), &json!({"disabled": true})).await;
        assert_eq!((&edited["disabled"], &edited["name"]), (&json!(true), &json!(name)));
        for caller in &callers {
            assert_eq!(status(caller, "/api/v1/tasks", &key).await, 403);
        }
        olga.expect(200, "PATCH", &format!("/users/{id}"), &json!({"disabled": false})).await;
        for caller in &callers {
            assert_eq!(status(caller, "/api/v1/tasks", &key).await, 200);
        }
        olga.expect(204, "DELETE", &format!("/users/{id}"), &Value::Null).await;
        assert_eq!(status(&callers[1], "/api/v1/tasks", &key).await, 403);
    }
}

#[tokio::test]
async fn a_stream_of_events_ends_with_the_key_that_opened_it() {
    let scene = Scene::start(2, &[]);
    let ada = Asker::of(&scene.gateway, &scene.gateway.user("ada")).await;
    let preview = json!({"command": "send a mail to kim@example.com saying hello", "mode": "preview"});
    let task = ada.expect(200, "POST", "/command", &preview).await;
    let second = ada.expect(201, "POST", "/keys", &json!({"name": "second"})).await;
    let other = Asker::of(&scene.gateway, text(&second["key"])).await;
    let path = format!("/tasks/{}/events", text(&task["id"]));
    let follow = async {
        let answer = other.with("GET", &path, &[], &Value::Null).await;
        String::from_utf8_lossy(&answer.body).into_owned()
    };
    let revoke = async {
        scene.gateway.until("a stream is open", |page| page.sum("sluice_event_streams", &[]) == 1).await;
        ada.expect(204, "DELETE", &format!("/keys/{}", text(&second["id"])), &Value::Null).await;
        // What happens next is not told to whoever was signed out.
        let cancel = format!("/tasks/{}/cancel", text(&task["id"]));
        ada.expect(200, "POST", &cancel, &Value::Null).await;
    };
    let (told, ()) = guard(async { tokio::join!(follow, revoke) }).await;
    assert!(told.contains("event: awaiting_confirmation") && told.contains("event: left"), "{told}");
    assert!(!told.contains("event: cancelled"), "{told}");
}

#[tokio::test]
async fn no_key_makes_or_becomes_more_than_it_is() {
    let scene = Scene::start(2, &[]);
    let ada = Asker::of(&scene.gateway, &scene.gateway.user("ada")).await;
    let narrow =
        json!({"name": "narrow", "scopes": ["account", "mail:read"], "expires": "2099-01-01T00:00:00Z"});
    let narrow = ada.expect(201, "POST", "/keys", &narrow).await;
    assert_eq!(narrow["scopes"], json!(["mail:read", "account"]));
    assert!(text(&narrow["key"]).starts_with(text(&narrow["prefix"])));
    let by = Asker { caller: Caller::of(&scene.gateway).await, key: text(&narrow["key"]).to_owned() };
    // The default is its own.
    let child = by.expect(201, "POST", "/keys", &json!({"name": "child"})).await;
    assert_eq!((&child["scopes"], &child["expires"]), (&narrow["scopes"], &narrow["expires"]));
    let path = |key: &Value| format!("/keys/{}", text(&key["id"]));
    for beyond in [
        json!({"scopes": ["mail"]}),
        json!({"scopes": ["account", "drive:read"]}),
        json!({"scopes": ["admin"]}),
        json!({"expires": "2099-01-01T00:00:01Z"}),
    ] {
        let mut new = beyond.clone();
        new["name"] = json!("beyond");
        by.expect(403, "POST", "/keys", &new).await;
        by.expect(403, "PATCH", &path(&child), &beyond).await;
        by.expect(403, "PATCH", &path(&narrow), &beyond).await;
    }
    by.expect(403, "PATCH", &path(&narrow), &json!({"expires": null})).await;
    // Less is always possible, and cannot be taken back by it.
    by.expect(200, "PATCH", &path(&child), &json!({"scopes": ["mail:read"], "name": "reader"})).await;
    by.expect(200, "PATCH", &path(&narrow), &json!({"scopes": ["account:read"]})).await;
    by.expect(403, "PATCH", &path(&narrow), &json!({"scopes": ["account"]})).await;
    by.expect(403, "POST", "/keys", &json!({"name": "x", "scopes": ["account:read"]})).await;
    let listed = by.get("/keys").await;
    assert_eq!(listed["keys"].as_array().map(Vec::len), Some(3), "{listed:#}");
    assert!(
        listed["keys"][1]["last_used"].is_string() && listed["keys"][2]["last_used"].is_null(),
        "{listed:#}"
    );
    assert!(!listed.to_string().contains("\"key\""), "{listed:#}");
    // Nobody without the role has the scope, whatever was written into a key.
    let admin = scene.gateway.admin(&["key", "add", "ada", "--scopes", "admin"]);
    let caller = scene.caller().await;
    assert_eq!(status(&caller, "/api/v1/users", &admin).await, 403);
    ada.expect(422, "POST", "/keys", &json!({"name": "late", "expires": "2020-01-01T00:00:00Z"})).await;
    // A key ends by itself.
    let soon = jiff_in(Duration::from_millis(1_500));
    let brief = ada.expect(201, "POST", "/keys", &json!({"name": "brief", "expires": soon})).await;
    let brief = text(&brief["key"]);
    let first = status(&caller, "/api/v1/tasks", brief).await;
    assert!(first == 200 || first == 401, "{first}");
    tokio::time::sleep(Duration::from_millis(1_600)).await;
    assert_eq!(status(&caller, "/api/v1/tasks", brief).await, 401);
}

/// A moment from now, as the API takes it.
fn jiff_in(wait: Duration) -> String {
    let ms = sluice_shard::clock::Clock::system().unix_ms() + u64::try_from(wait.as_millis()).expect("short");
    sluice_shard::clock::timestamp_of(ms).to_string()
}

#[tokio::test]
async fn operators_keep_users_and_auditors_see_them() {
    let scene = Scene::start(2, &[]);
    for role in ["operator", "auditor"] {
        scene.gateway.user(role);
        scene.gateway.admin(&["user", "set", role, "--role", role]);
    }
    let key = |role: &str, scopes: &str| scene.gateway.admin(&["key", "add", role, "--scopes", scopes]);
    let operator = Asker::of(&scene.gateway, &key("operator", "admin")).await;
    let auditor = Asker::of(&scene.gateway, &key("auditor", "admin:read")).await;
    let mut names = vec!["auditor".to_owned(), "operator".to_owned()];
    for number in 0..30 {
        let name = format!("user {number:02}");
        let body = json!({"name": name, "email": format!("u{number}@example.com")});
        let made = operator.expect(201, "POST", "/users", &body).await;
        assert_eq!((&made["role"], &made["time_zone"]), (&json!("user"), &json!("UTC")));
        names.push(name);
    }
    names.sort();
    let mut lot = Lot::new();
    for limit in [1, 2 + lot.index(5), 31, 32, 100] {
        let (users, _) = auditor.pages(&format!("/users?limit={limit}"), "users").await;
        let mut listed: Vec<&str> = users.iter().map(|user| text(&user["name"])).collect();
        listed.sort_unstable();
        assert_eq!(listed, names, "by {limit}");
    }
    let taken = json!({"name": "another", "email": "U3@example.com"});
    assert_eq!(operator.expect(409, "POST", "/users", &taken).await["type"], "/problems/conflict");
    let taken = json!({"name": "USER 03", "email": "another@example.com"});
    operator.expect(409, "POST", "/users", &taken).await;
    operator
        .expect(422, "POST", "/users", &json!({"name": "x", "email": "x", "time_zone": "Mars/Base"}))
        .await;
    // An address that was given up is free.
    let (users, _) = auditor.pages("/users?limit=100", "users").await;
    let of = |name: &str| users.iter().find(|user| user["name"] == name).expect("listed");
    let path = format!("/users/{}", text(&of("user 03")["id"]));
    operator.expect(409, "PATCH", &path, &json!({"email": "u4@example.com"})).await;
    let moved =
        operator.expect(200, "PATCH", &path, &json!({"email": "moved@example.com", "role": "auditor"})).await;
    assert_eq!((&moved["email"], &moved["role"]), (&json!("moved@example.com"), &json!("auditor")));
    operator.expect(201, "POST", "/users", &json!({"name": "new", "email": "u3@example.com"})).await;
    // What was done is told, with who did it, from where, and by which request.
    let export = scene.gateway.admin(&["audit", "export"]);
    let told: Vec<Value> =
        export.lines().map(|line| serde_json::from_str(line).expect("a JSON line")).collect();
    let did = |act: &str, object: &str| {
        let is_it = |entry: &&Value| entry["act"] == act && text(&entry["object"]).starts_with(object);
        told.iter().find(is_it).unwrap_or_else(|| panic!("{act} {object} is not told: {export}"))
    };
    let moved_id = text(&moved["id"]);
    for (act, object) in [
        ("user.create", moved_id.to_owned()),
        ("user.change", moved_id.to_owned()),
        ("user.role", format!("{moved_id} auditor")),
    ] {
        let entry = did(act, &object);
        assert_eq!(entry["actor"], of("operator")["id"], "{entry}");
        assert_eq!(entry["address"], "127.0.0.1", "{entry}");
        assert!(text(&entry["request"]).len() > 8, "{entry}");
    }
    assert_eq!(did("user.role", &format!("{} operator", text(&of("operator")["id"])))["actor"], "operator");
    // Nobody locks everybody out.
    let own = format!("/users/{}", text(&of("operator")["id"]));
    operator.expect(409, "PATCH", &own, &json!({"role": "user"})).await;
    operator.expect(409, "DELETE", &own, &Value::Null).await;
    auditor.expect(403, "PATCH", &own, &json!({"disabled": true})).await;
    // A cursor is its owner's, and nobody can make one.
    let page = auditor.get("/users?limit=1").await;
    let cursor = text(&page["next"]);
    operator.expect(422, "GET", &format!("/users?limit=1&cursor={cursor}"), &Value::Null).await;
    // The first use is written beside the requests, none of which waits for it.
    let own = format!("/users/{}", text(&of("auditor")["id"]));
    for look in 0.. {
        if auditor.get(&own).await["last_active"].is_string() {
            break;
        }
        assert!(look < 1_000, "it is never told");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(auditor.get(&path).await["email"], "moved@example.com");
    auditor.expect(404, "GET", "/users/usr_00000000000000000000000000", &Value::Null).await;
}
