//! Sessions of browsers: whose they are, what ends them, what another site's page can do with them, and a browser that signs in.

mod common;

use std::process::{Command, Stdio};
use std::time::Duration;

use common::asker::{Asker, text};
use common::h3::Answer;
use common::python;
use common::scene::{Caller, Scene, guard};
use reqwest::Version;
use serde_json::{Value, json};

const ROOT: &str = "/api/v1/browser-sessions";
const ME: &str = "/api/v1/users/me";
/// What a browser adds to what a page of the gateway asks.
const FROM_HERE: (&str, &str) = ("sec-fetch-site", "same-origin");
const JSON: (&str, &str) = ("content-type", "application/json");
const FORM: (&str, &str) = ("content-type", "application/x-www-form-urlencoded");

/// The value of the cookie that an answer sets; every fence must be there.
fn cookie_of(answer: &Answer) -> String {
    let field = answer.field("set-cookie").expect("a cookie");
    let (pair, fences) = field.split_once("; ").expect("fields of a cookie");
    let fences: Vec<&str> = fences.split("; ").collect();
    for fence in ["Path=/", "Secure", "HttpOnly", "SameSite=Strict"] {
        assert!(fences.contains(&fence), "{field}");
    }
    assert!(!field.to_ascii_lowercase().contains("domain="), "{field}");
    assert_eq!(answer.field("cache-control"), Some("no-store"));
    pair.strip_prefix("__Host-sluice=").expect("its name").to_owned()
}

/// Begins a session; gives it and its cookie.
async fn begin(asker: &Asker, wanted: &Value) -> (Value, String) {
    let answer = asker.ask("POST", "/browser-sessions", wanted).await;
    assert_eq!(answer.status.as_u16(), 201, "{:?}", answer.body);
    (answer.value(), cookie_of(&answer))
}

/// Sends a request as a browser does that has this cookie.
async fn with(
    caller: &Caller,
    cookie: &str,
    asked: (&str, &str),
    fields: &[(&str, &str)],
    body: &Value,
) -> Answer {
    let cookie = format!("theme=dark; __Host-sluice={cookie}");
    let mut all = vec![("cookie", cookie.as_str())];
    all.extend_from_slice(fields);
    let body = if body.is_null() { String::new() } else { body.to_string() };
    caller.send(asked.0, asked.1, &all, body).await
}

async fn me(caller: &Caller, cookie: &str) -> u16 {
    with(caller, cookie, ("GET", ME), &[], &Value::Null).await.status.as_u16()
}

/// A caller on each core's own port.
async fn callers(scene: &Scene) -> Vec<Caller> {
    let mut callers = Vec::new();
    for core in 0..2 {
        callers.push(Caller::at(&scene.gateway, scene.gateway.core_address(core)).await);
    }
    callers
}

#[tokio::test]
async fn a_session_is_its_users_on_every_core_until_it_is_ended() {
    let scene = Scene::start(2, &[]);
    let callers = callers(&scene).await;
    // Enough users that both cores own some.
    for name in ["ada", "bob", "cyd", "dan"] {
        let user = Asker::of(&scene.gateway, &scene.gateway.user(name)).await;
        let (session, cookie) = begin(&user, &json!({})).await;
        let (_, other) = begin(&user, &json!({})).await;
        for caller in &callers {
            let answer = with(caller, &cookie, ("GET", ME), &[], &Value::Null).await;
            assert_eq!((answer.status.as_u16(), &answer.value()["name"]), (200, &json!(name)));
            // No cache may give it to somebody else.
            assert_eq!(answer.field("cache-control"), Some("no-store"));
            let path = format!("{ROOT}/current");
            let current = with(caller, &cookie, ("GET", &path), &[], &Value::Null).await.value();
            assert_eq!((&current["session"]["id"], &current["user"]["name"]), (&session["id"], &json!(name)));
        }
        let path = format!("{ROOT}/current");
        let out = with(&callers[0], &cookie, ("DELETE", &path), &[FROM_HERE], &Value::Null).await;
        assert_eq!(out.status.as_u16(), 204);
        assert!(out.field("set-cookie").is_some_and(|field| field.contains("=; Path=/; Max-Age=0;")));
        for caller in &callers {
            assert_eq!((me(caller, &cookie).await, me(caller, &other).await), (401, 200));
        }
        // The other one by the key, and its id.
        let listed = user.get("/browser-sessions").await;
        let sessions = listed["sessions"].as_array().expect("a list");
        assert_eq!(sessions.len(), 2);
        // Newest first; those of one millisecond in any order.
        let (ended, open): (Vec<_>, Vec<_>) =
            sessions.iter().partition(|listed| listed["id"] == session["id"]);
        assert!(ended[0]["ended"].is_string() && open[0]["ended"].is_null(), "{listed:#}");
        assert!(!listed.to_string().contains(&cookie), "{listed:#}");
        user.expect(204, "DELETE", &format!("/browser-sessions/{}", text(&open[0]["id"])), &Value::Null)
            .await;
        for caller in &callers {
            assert_eq!(me(caller, &other).await, 401);
        }
    }
}

#[tokio::test]
async fn a_cookie_that_was_changed_is_nobodys() {
    let scene =
        Scene::start(2, &["rate.unauthorized_per_minute=100000", "rate.unauthorized_per_hour=100000"]);
    let caller = scene.caller().await;
    let ada = Asker::of(&scene.gateway, &scene.gateway.user("ada")).await;
    let bob = Asker::of(&scene.gateway, &scene.gateway.user("bob")).await;
    let ((_, of_ada), (_, of_bob)) = (begin(&ada, &json!({})).await, begin(&bob, &json!({})).await);
    assert_eq!(me(&caller, &of_ada).await, 200);
    for at in 0..of_ada.len() {
        let mut bytes = of_ada.clone().into_bytes();
        bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
        let changed = String::from_utf8(bytes).expect("ASCII");
        assert_eq!(me(&caller, &changed).await, 401, "changed at {at}");
    }
    for at in (0..of_ada.len()).step_by(9) {
        // One's beginning with another's end, and what is cut.
        assert!(at == 0 || me(&caller, &format!("{}{}", &of_ada[..at], &of_bob[at..])).await == 401, "{at}");
        assert_eq!(me(&caller, &of_ada[..at]).await, 401, "{at}");
    }
    let twice = format!("{of_ada}; __Host-sluice={of_bob}");
    let answer = with(&caller, &twice, ("GET", ME), &[], &Value::Null).await;
    answer.problem(401, "unauthorized");
    // A credential in its field counts alone: a good one beside a bad cookie, and the other way round.
    let bearer = format!("Bearer {}", bob.key);
    let both = with(&caller, &of_ada, ("GET", ME), &[("authorization", &bearer)], &Value::Null).await;
    assert_eq!(both.value()["name"], "bob");
    let wrong =
        with(&caller, &of_ada, ("GET", ME), &[("authorization", "Bearer sk_wrong")], &Value::Null).await;
    assert_eq!(wrong.status.as_u16(), 401);
    // What is another's is not there, whatever the credential.
    let (session, _) = begin(&bob, &json!({})).await;
    let path = format!("{ROOT}/{}", text(&session["id"]));
    for method in ["GET", "DELETE"] {
        let answer = with(&caller, &of_ada, (method, &path), &[FROM_HERE], &Value::Null).await;
        answer.problem(404, "not-found");
    }
    let page = scene.gateway.page().await;
    assert!(page.sum("sluice_browsers_refused_total", &[]) > 90);
}

#[tokio::test]
async fn a_session_ends_with_whatever_it_rests_on() {
    let scene = Scene::start(2, &[]);
    let callers = callers(&scene).await;
    let everywhere = async |cookie: &str, status: u16, why: &str| {
        for caller in &callers {
            assert_eq!(me(caller, cookie).await, status, "{why}");
        }
    };
    for name in ["ada", "bob", "cyd", "dan"] {
        let user = Asker::of(&scene.gateway, &scene.gateway.user(name)).await;
        let key = user.expect(201, "POST", "/keys", &json!({"name": "second"})).await;
        let second = Asker::of(&scene.gateway, text(&key["key"])).await;
        let ((_, by_first), (_, by_second)) =
            (begin(&user, &json!({})).await, begin(&second, &json!({})).await);
        everywhere(&by_second, 200, "it was just begun").await;
        let path = format!("/keys/{}", text(&key["id"]));
        user.expect(200, "PATCH", &path, &json!({"scopes": ["mail:read"]})).await;
        everywhere(&by_second, 403, "its key may do less").await;
        user.expect(200, "PATCH", &path, &json!({"scopes": ["account:read"]})).await;
        everywhere(&by_second, 200, "its key may do it again").await;
        user.expect(204, "DELETE", &path, &Value::Null).await;
        everywhere(&by_second, 401, "its key is revoked").await;
        everywhere(&by_first, 200, "its own key is not").await;
        scene.gateway.admin(&["user", "set", name, "--disabled", "true"]);
        everywhere(&by_first, 403, "its user is disabled").await;
        scene.gateway.admin(&["user", "set", name, "--disabled", "false"]);
        everywhere(&by_first, 200, "its user is back").await;
        scene.gateway.admin(&["user", "set", name, "--sign-out"]);
        everywhere(&by_first, 401, "its user was signed out").await;
        let (_, again) = begin(&user, &json!({})).await;
        everywhere(&again, 200, "it was begun since").await;
        scene.gateway.admin(&["user", "erase", name, "--yes"]);
        everywhere(&again, 401, "its user is erased").await;
    }
}

#[tokio::test]
async fn a_session_ends_by_itself_and_holds_no_more_than_its_credential() {
    let scene = Scene::start(2, &[]);
    let caller = scene.caller().await;
    let ada = Asker::of(&scene.gateway, &scene.gateway.user("ada")).await;
    let ms = sluice_shard::clock::Clock::system().unix_ms();
    let at = |ms: u64| json!(sluice_shard::clock::timestamp_of(ms).to_string());
    let narrow = json!({"name": "narrow", "scopes": ["account", "mail:read"], "expires": at(ms + 3_600_000)});
    let narrow = ada.expect(201, "POST", "/keys", &narrow).await;
    let by = Asker::of(&scene.gateway, text(&narrow["key"])).await;
    let (session, cookie) = begin(&by, &json!({})).await;
    assert_eq!((&session["scopes"], &session["expires"]), (&narrow["scopes"], &narrow["expires"]));
    assert_eq!(session["key"], narrow["id"]);
    let get = |path: &'static str| with(&caller, &cookie, ("GET", path), &[], &Value::Null);
    get("/api/v1/tasks").await.problem(403, "forbidden");
    for beyond in [
        json!({"scopes": ["mail"]}),
        json!({"scopes": ["account", "drive:read"]}),
        json!({"expires": at(ms + 3_601_000)}),
    ] {
        by.expect(403, "POST", "/browser-sessions", &beyond).await;
    }
    // No longer than a day whatever the key, and not in the past.
    ada.expect(403, "POST", "/browser-sessions", &json!({"expires": at(ms + 13 * 3_600_000)})).await;
    ada.expect(422, "POST", "/browser-sessions", &json!({"expires": at(ms - 1_000)})).await;
    ada.expect(422, "POST", "/browser-sessions", &json!({"scopes": []})).await;
    // It begins no other one, and makes no key that outlives it.
    let post = async |path: &str, body: Value| {
        with(&caller, &cookie, ("POST", path), &[FROM_HERE, JSON], &body).await
    };
    post(ROOT, json!({})).await.problem(403, "forbidden");
    let key = post("/api/v1/keys", json!({"name": "child"})).await;
    assert_eq!((key.status.as_u16(), &key.value()["expires"]), (201, &session["expires"]));
    let (_, brief) = begin(&ada, &json!({"expires": at(ms + 4_000)})).await;
    while sluice_shard::clock::Clock::system().unix_ms() < ms + 4_000 {
        // However often it is used before.
        let status = me(&caller, &brief).await;
        assert!(status == 200 || sluice_shard::clock::Clock::system().unix_ms() >= ms + 4_000, "{status}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let over = with(&caller, &brief, ("GET", ME), &[], &Value::Null).await;
    let problem = over.problem(401, "unauthorized");
    assert!(text(&problem["detail"]).contains("over"), "{problem}");
}

#[tokio::test]
async fn another_sites_page_neither_changes_nor_reads_anything_with_the_cookie() {
    let scene = Scene::start(2, &[]);
    let ada = Asker::of(&scene.gateway, &scene.gateway.user("ada")).await;
    let (_, cookie) = begin(&ada, &json!({})).await;
    for caller in callers(&scene).await {
        let new = json!({"name": "by a browser"});
        let post = async |fields: &[(&str, &str)]| {
            let fields = [&[JSON], fields].concat();
            with(&caller, &cookie, ("POST", "/api/v1/keys"), &fields, &new).await
        };
        let nothing: &[(&str, &str)] = &[];
        for fields in [
            nothing,
            &[("sec-fetch-site", "cross-site")],
            &[("sec-fetch-site", "same-site"), ("origin", "https://localhost")],
            &[("sec-fetch-site", "none")],
            &[("origin", "https://evil.example")],
            &[("origin", "null")],
            &[("origin", "http://localhost")],
        ] {
            post(fields).await.problem(403, "cross-site");
        }
        let get = async |fields: &[(&str, &str)]| {
            with(&caller, &cookie, ("GET", ME), fields, &Value::Null).await.status.as_u16()
        };
        assert_eq!(get(&[("sec-fetch-site", "cross-site")]).await, 403);
        assert_eq!(get(&[("origin", "https://evil.example")]).await, 403);
        assert_eq!(get(&[("sec-fetch-site", "none")]).await, 200);
        assert_eq!(post(&[FROM_HERE]).await.status.as_u16(), 201);
        assert_eq!(post(&[("origin", "https://localhost")]).await.status.as_u16(), 201);
    }
    // A key needs none of that.
    ada.expect(201, "POST", "/keys", &json!({"name": "by the key"})).await;
    assert_eq!(ada.get("/keys").await["keys"].as_array().map(Vec::len), Some(6));
    assert_eq!(scene.gateway.page().await.sum("sluice_browsers_cross_site_total", &[]), 18);
}

#[tokio::test]
async fn the_form_signs_in_and_says_what_is_wrong_on_its_page() {
    let scene = Scene::start(2, &[]);
    for caller in callers(&scene).await {
        let page = caller.send("GET", "/sign-in", &[], "").await;
        assert_eq!(page.status.as_u16(), 200);
        let policy = page.field("content-security-policy").expect("a policy");
        assert!(policy.starts_with("default-src 'none'; style-src 'sha256-"), "{policy}");
        assert!(!policy.contains("script") && policy.contains("form-action 'self'"), "{policy}");
        assert!(policy.contains("frame-ancestors 'none'"), "{policy}");
        assert_eq!(
            (page.field("cache-control"), page.field("x-content-type-options")),
            (Some("no-store"), Some("nosniff"))
        );
        let submit = async |body: String, fields: &[(&str, &str)]| {
            caller.send("POST", "/sign-in", &[&[FORM], fields].concat(), body).await
        };
        let page_of = |answer: &Answer, status: u16, says: &str| {
            assert_eq!((answer.status.as_u16(), answer.field("set-cookie")), (status, None));
            assert_eq!(answer.field("content-type"), Some("text/html; charset=utf-8"));
            let page = String::from_utf8_lossy(&answer.body).into_owned();
            assert!(page.contains("role=\"alert\"") && page.contains(says), "{says}: {page}");
        };
        page_of(&submit("key=sk_wrong".to_owned(), &[FROM_HERE]).await, 401, "not valid");
        page_of(&submit("key=".to_owned(), &[FROM_HERE]).await, 422, "API key");
        let name = format!("u{}", scene.gateway.page().await.sum("sluice_browsers_misses_total", &[]));
        let key = scene.gateway.user(&name);
        page_of(&submit(format!("key={key}"), &[]).await, 403, "page of this gateway");
        page_of(
            &submit(format!("key={key}"), &[("sec-fetch-site", "cross-site")]).await,
            403,
            "page of this gateway",
        );
        let json =
            caller.send("POST", "/sign-in", &[JSON, FROM_HERE], format!("{{\"key\": \"{key}\"}}")).await;
        page_of(&json, 415, "form");
        let long = format!("key={}", "x".repeat(13 << 10));
        assert_eq!(submit(long, &[FROM_HERE]).await.status.as_u16(), 413);
        for (changes, scopes) in [
            ("", "commands:read mail:read calendar:read drive:read account:read"),
            ("&changes=1", "commands mail calendar drive account"),
        ] {
            let answer = submit(format!("key={key}{changes}"), &[FROM_HERE]).await;
            assert_eq!((answer.status.as_u16(), answer.field("location")), (303, Some("/docs")));
            let cookie = cookie_of(&answer);
            assert_eq!(me(&caller, &cookie).await, 200);
            let path = format!("{ROOT}/current");
            let current = with(&caller, &cookie, ("GET", &path), &[], &Value::Null).await.value();
            assert_eq!(current["user"]["name"], json!(name));
            let expected: Vec<&str> = scopes.split(' ').collect();
            assert_eq!(current["session"]["scopes"], json!(expected));
        }
    }
}

#[tokio::test]
async fn signing_in_without_end_makes_neither_records_nor_entries_without_end() {
    let scene = Scene::start(1, &[]);
    let caller = scene.caller().await;
    let ada = Asker::of(&scene.gateway, &scene.gateway.user("ada")).await;
    let mut cookies = Vec::new();
    for _ in 0..16 {
        cookies.push(begin(&ada, &json!({})).await.1);
    }
    let path = format!("{ROOT}/current");
    assert_eq!(
        with(&caller, &cookies[0], ("DELETE", &path), &[FROM_HERE], &Value::Null).await.status.as_u16(),
        204
    );
    for _ in 0..5 {
        // A place is not free because its session has ended.
        let answer = ada.ask("POST", "/browser-sessions", &json!({})).await;
        let problem = answer.problem(429, "rate-limited");
        assert_eq!(problem["limit"], "sign-in");
        assert!(
            problem["retry_after_s"].as_u64().is_some_and(|wait| (1..=3_600).contains(&wait)),
            "{problem}"
        );
    }
    assert_eq!(ada.get("/browser-sessions").await["sessions"].as_array().map(Vec::len), Some(16));
    assert_eq!(me(&caller, &cookies[15]).await, 200);
    let log = scene.gateway.admin(&["audit", "export"]);
    let entries: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let count = |act: &str| entries.iter().filter(|entry| entry["act"] == act).count();
    assert_eq!((count("login"), count("logout")), (16, 1));
    let id = ada.get("/users/me").await["id"].clone();
    let login = entries.iter().find(|entry| entry["act"] == "login").expect("one");
    assert_eq!((&login["actor"], &login["outcome"]), (&id, &json!("done")));
    assert!(text(&login["object"]).starts_with(&format!("{} bws_", text(&id))), "{login}");
    assert!(!cookies.iter().any(|cookie| log.contains(cookie)), "a cookie is in the log");
}

#[tokio::test]
async fn a_session_outlives_a_restart_and_its_node_secret_does_not_last_beyond_its_file() {
    let scene = Scene::start(2, &[]);
    let ada = Asker::of(&scene.gateway, &scene.gateway.user("ada")).await;
    let (_, cookie) = begin(&ada, &json!({})).await;
    let gateway = scene.gateway.stop_and_restart();
    assert_eq!(me(&Caller::of(&gateway).await, &cookie).await, 200);
    let restart = gateway.crash_and_restart();
    assert_eq!(me(&Caller::of(&restart).await, &cookie).await, 200);
    restart.stop();
}

#[tokio::test]
async fn over_tcp_a_session_is_the_same() {
    let scene = Scene::start(2, &[]);
    let ada = Asker::of(&scene.gateway, &scene.gateway.user("ada")).await;
    let pem = std::fs::read(scene.gateway.ca()).expect("the authority");
    let authority = reqwest::Certificate::from_pem(&pem).expect("PEM");
    for version in [Version::HTTP_2, Version::HTTP_11] {
        let (_, cookie) = begin(&ada, &json!({})).await;
        let builder = reqwest::Client::builder()
            .tls_certs_only([authority.clone()])
            .resolve("localhost", scene.gateway.address);
        let builder = if version == Version::HTTP_11 { builder.http1_only() } else { builder };
        let client = builder.build().expect("a client");
        let port = scene.gateway.address.port();
        let ask = async |method: &str, path: &str, fields: &[(&str, String)]| {
            let method = reqwest::Method::from_bytes(method.as_bytes()).expect("a method");
            let mut request = client.request(method, format!("https://localhost:{port}{path}"));
            request = request.header("cookie", format!("a=b; __Host-sluice={cookie}"));
            for (name, value) in fields {
                request = request.header(*name, value);
            }
            let response = guard(request.send()).await.expect("an answer");
            assert_eq!(response.version(), version);
            response.status().as_u16()
        };
        assert_eq!(ask("GET", ME, &[]).await, 200);
        let path = format!("{ROOT}/current");
        assert_eq!(ask("DELETE", &path, &[]).await, 403);
        assert_eq!(ask("DELETE", &path, &[("origin", "https://localhost".to_owned())]).await, 403);
        // The origin has the port that the browser has connected to.
        assert_eq!(ask("DELETE", &path, &[("origin", format!("https://localhost:{port}"))]).await, 204);
        assert_eq!(ask("GET", ME, &[]).await, 401);
    }
}

#[test]
fn a_browser_signs_in_sees_itself_and_signs_out() {
    let (Some(interpreter), Some(_)) = (python::interpreter("cryptography"), python::chromium()) else {
        return;
    };
    let scene = Scene::start(2, &[]);
    let key = scene.gateway.user("ada");
    let certificate = scene.gateway.ca().with_file_name("server.pem");
    let mut command = Command::new(interpreter);
    command.arg(python::program("chromium_sign_in"));
    command.args(["--port", &scene.gateway.address.port().to_string(), "--key", &key]);
    command.arg("--ca").arg(scene.gateway.ca()).arg("--certificate").arg(certificate);
    // Another host by its name, so another site.
    command.env("SLUICE_ELSEWHERE", format!("{}/livez", scene.gateway.metrics));
    let output = command.stdin(Stdio::null()).output().expect("the interpreter runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report: Value = serde_json::from_slice(&output.stdout).expect("a report");
    assert_eq!(report["before"], "Not signed in.", "{report:#}");
    assert!(text(&report["wrong"]).contains("not valid"), "{report:#}");
    assert!(text(&report["after"]).starts_with("Signed in as ada (user), until "), "{report:#}");
    let tried = text(&report["tried"]);
    assert!(tried.starts_with("200") && tried.contains("\"name\": \"ada\""), "{report:#}");
    // Scripts do not see the cookie, the browser keeps it as it was told, and what it may is what the form said.
    assert_eq!(report["cookies_of_scripts"], "");
    let cookie = &report["cookies"][0];
    assert_eq!(cookie["name"], "__Host-sluice", "{report:#}");
    for (member, value) in [("secure", json!(true)), ("httpOnly", json!(true)), ("sameSite", json!("Strict"))]
    {
        assert_eq!(cookie[member], value, "{member}");
    }
    assert_eq!(report["post"], 403, "the session only reads");
    // Whoever is not the gateway's page comes without the cookie; no page takes a POST there.
    assert_eq!(report["elsewhere"], json!(["opaque", "opaque"]), "{report:#}");
    assert_eq!(report["elsewhere_answered"], json!([401, 405]), "{report:#}");
    assert_eq!(report["out"], "Not signed in.", "{report:#}");
    assert_eq!(report["cookies_left"], json!([]), "{report:#}");
    let protocols = report["network_protocols"].as_array().expect("a list");
    assert!(protocols.iter().any(|protocol| protocol == "h3"), "{protocols:?}");
}
