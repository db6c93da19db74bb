//! HTTP/1.1 and HTTP/2 over TCP beside HTTP/3: the same routes, the same answers, the same limits.

mod common;

use std::net::{SocketAddr, TcpStream};

use bytes::Bytes;
use common::front::Front;
use common::h3::Answer;
use common::metrics::Metrics;
use common::raw::{End, Raw, control, head};
use common::routes::{Route, routes};
use common::scene::{Caller, Scene, guard};
use common::{Gateway, Sim};
use http::HeaderMap;
use reqwest::{Client, ClientBuilder, Method, Version};
use serde_json::{Value, json};

const COMMAND_PATH: &str = "/api/v1/command";
const SEARCH_MAIL: &str = "find the mail from Anna about the budget";
/// Takes a random name out of what is compared.
const REQUEST_ID: (&str, &str) = ("x-request-id", "the-same");
const JSON: (&str, &str) = ("content-type", "application/json");

/// A client of one protocol over TCP.
struct Fallback {
    client: Client,
    version: Version,
    port: u16,
}

impl Fallback {
    fn new(gateway: &Gateway, version: Version, limit: impl FnOnce(ClientBuilder) -> ClientBuilder) -> Self {
        let pem = std::fs::read(gateway.ca()).expect("the authority");
        let authority = reqwest::Certificate::from_pem(&pem).expect("PEM");
        let builder = Client::builder().tls_certs_only([authority]).resolve("localhost", gateway.address);
        let client = limit(builder).build().expect("a client");
        Self { client, version, port: gateway.address.port() }
    }

    fn http1(gateway: &Gateway) -> Self {
        Self::new(gateway, Version::HTTP_11, ClientBuilder::http1_only)
    }

    /// What a client gets that offers both.
    fn http2(gateway: &Gateway) -> Self {
        Self::new(gateway, Version::HTTP_2, |builder| builder)
    }

    async fn send(&self, method: &str, path: &str, fields: &[(&str, &str)], body: &Bytes) -> Answer {
        let method = Method::from_bytes(method.as_bytes()).expect("a method");
        let mut request = self.client.request(method, format!("https://localhost:{}{path}", self.port));
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        if !body.is_empty() {
            request = request.body(body.clone());
        }
        let response = guard(request.send()).await.unwrap_or_else(|error| panic!("{path}: {error:?}"));
        assert_eq!(response.version(), self.version);
        let (status, fields) = (response.status(), response.headers().clone());
        Answer { status, fields, body: guard(response.bytes()).await.expect("a body") }
    }

    async fn command(&self, key: &str) -> Answer {
        let body = json!({ "command": SEARCH_MAIL }).to_string().into();
        self.send("POST", COMMAND_PATH, &[("authorization", &format!("Bearer {key}")), JSON], &body).await
    }
}

/// What must not depend on the protocol.
fn essence(answer: &Answer) -> (u16, Vec<Option<&str>>, &Bytes) {
    let names =
        ["content-type", "content-length", "allow", "retry-after", "www-authenticate", "x-request-id"];
    (answer.status.as_u16(), names.map(|name| answer.field(name)).to_vec(), &answer.body)
}

struct Case {
    what: &'static str,
    request: (&'static str, &'static str),
    fields: Vec<(String, String)>,
    body: Bytes,
    status: u16,
    problem: Option<&'static str>,
}

fn case(what: &'static str, request: (&'static str, &'static str), status: u16) -> Case {
    Case { what, request, fields: vec![], body: Bytes::new(), status, problem: None }
}

impl Case {
    fn with(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.fields.push((name.into(), value.into()));
        self
    }

    fn key(self, key: &str) -> Self {
        self.with("authorization", format!("Bearer {key}"))
    }

    fn json(self, body: impl Into<Bytes>) -> Self {
        Self { body: body.into(), ..self }.with(JSON.0, JSON.1)
    }

    fn is(self, problem: &'static str) -> Self {
        Self { problem: Some(problem), ..self }
    }
}

fn cases(key: &str) -> Vec<Case> {
    const NO_TASK: &str = "/api/v1/tasks/tsk_00000000000000000000000000";
    const CALLBACK: &str = "/oauth/google/callback?state=x&code=y";
    const NO_SESSION: &str = "/api/v1/sessions/ses_00000000000000000000000000";
    let command = ("POST", COMMAND_PATH);
    let good = json!({ "command": SEARCH_MAIL }).to_string();
    let many = (0..140)
        .fold(case("too many fields", ("GET", "/livez"), 431).is("headers-too-large"), |case, n| {
            case.with(format!("x-{n}"), "1")
        });
    vec![
        case("health", ("GET", "/livez"), 200),
        case("readiness", ("GET", "/readyz"), 200),
        case("readiness in detail", ("GET", "/readyz?verbose"), 200),
        case("health without its body", ("HEAD", "/livez"), 200),
        case("what a route takes", ("OPTIONS", COMMAND_PATH), 204),
        case("no such path", ("GET", "/nowhere"), 404).is("not-found"),
        case("no such path, head only", ("HEAD", "/nowhere"), 404),
        case("a path with an encoded slash", ("GET", "/api/v1%2Fcommand"), 404).is("not-found"),
        case("another method", ("GET", COMMAND_PATH), 405).is("method-not-allowed"),
        case("an unknown method", ("BREW", "/livez"), 405).is("method-not-allowed"),
        case("no key", command, 401).json(good.clone()).is("unauthorized"),
        case("a key that is none", command, 401).json(good.clone()).key("sk_nonsense").is("unauthorized"),
        case("no key to read with", ("GET", NO_TASK), 401).is("unauthorized"),
        case("no such task", ("GET", NO_TASK), 404).key(key).is("not-found"),
        case("no id", ("GET", "/api/v1/tasks/nonsense"), 404).key(key).is("not-found"),
        case("no such session", ("DELETE", NO_SESSION), 404).key(key).is("not-found"),
        case("no body is taken", ("GET", "/livez"), 413).json("{}").is("payload-too-large"),
        case("too long a body", command, 413).key(key).json(vec![b' '; 65_537]).is("payload-too-large"),
        Case { body: good.clone().into(), ..case("no JSON by its type", command, 415) }
            .key(key)
            .with("content-type", "text/plain")
            .is("unsupported-media-type"),
        case("no JSON", command, 400).key(key).json("{").is("invalid-json"),
        case("no body", command, 400).key(key).json("").is("invalid-json"),
        case("wrong fields", command, 422).key(key).json(r#"{"command": 1, "x": 2}"#).is("invalid-field"),
        case("too long a field", ("GET", "/livez"), 431)
            .with("x-long", "v".repeat(17_000))
            .is("headers-too-large"),
        many,
        case("what a proxy had as early data", command, 425)
            .key(key)
            .json(good.clone())
            .with("early-data", "1")
            .is("too-early"),
        // RFC 8470 section 5.1: what is not valid means the same.
        case("the same, said wrongly", command, 425)
            .key(key)
            .json(good)
            .with("early-data", "0")
            .is("too-early"),
        case("what only reads and was early data", ("GET", "/livez"), 200).with("early-data", "1"),
        // It is used up by being asked for.
        case("Google's answer as early data", ("GET", CALLBACK), 425).with("early-data", "1").is("too-early"),
        case("the same, only looked at", ("HEAD", CALLBACK), 400).with("early-data", "1"),
    ]
}

#[tokio::test]
async fn the_same_request_has_the_same_answer_whatever_the_protocol() {
    let scene = Scene::start(2, &[]);
    let key = scene.gateway.user("ada");
    let (http1, http2) = (Fallback::http1(&scene.gateway), Fallback::http2(&scene.gateway));
    let http3 = scene.caller().await;
    let raw = Raw::connect(&scene.gateway).await;
    let _control = raw.uni(&control()).await;
    for Case { what, request: (method, path), fields, body, status, problem } in cases(&key) {
        let mut fields: Vec<_> = fields.iter().map(|(name, value)| (&**name, &**value)).collect();
        fields.push(REQUEST_ID);
        // Over TCP the client announces the length by itself.
        let length = body.len().to_string();
        let announced = (!body.is_empty()).then_some(("content-length", &*length));
        let fields3: Vec<_> = fields.iter().copied().chain(announced).collect();
        let over3 = if status == 431 {
            // A real client keeps to the limit that it was told.
            let End::Answer(status, body) = raw.request(&head(method, path, &fields3)).await else {
                panic!("{what}: no answer")
            };
            let status = status.try_into().expect("a status");
            Answer { status, fields: HeaderMap::new(), body: body.into() }
        } else {
            http3.send(method, path, &fields3, body.clone()).await
        };
        assert_eq!(over3.status.as_u16(), status, "{what}");
        // What refuses a head or body that breaks a limit, or a change in early data, looks at no name, and makes one up.
        let is_named = over3.field(REQUEST_ID.0) == Some(REQUEST_ID.1);
        assert_eq!(is_named, !matches!((status, method), (431, _) | (413, "GET") | (425, "POST")), "{what}");
        for over_tcp in [&http1, &http2] {
            let answer = over_tcp.send(method, path, &fields, &body).await;
            if let Some(problem) = problem {
                answer.problem(status, problem);
            }
            if is_named {
                assert_eq!(essence(&answer), essence(&over3), "{what}, {:?}", over_tcp.version);
            } else {
                let (ours, theirs) = (answer.value(), over3.value());
                assert_eq!(answer.status, over3.status, "{what}");
                for member in ["type", "title", "status", "retryable"] {
                    assert_eq!(ours[member], theirs[member], "{what}: {member}");
                }
                // HTTP/3 tells the length of a section by its frame, before it is read; the others cannot.
                assert!(ours["detail"] == theirs["detail"] || status == 431, "{what}");
            }
            let alt_svc = format!("h3=\":{}\"; ma=86400", scene.gateway.address.port());
            assert_eq!(answer.field("alt-svc"), Some(&*alt_svc), "{what}");
        }
    }
}

/// Everything that one user may ask, with what there is of theirs in the place of names.
async fn described(over: &Caller, key: &str) -> Vec<(String, String)> {
    let bearer = format!("Bearer {key}");
    let fields = [("authorization", &*bearer), JSON];
    let make = async |method: &str, path: &str, body: Value| {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let answer = over.send(method, &format!("/api/v1{path}"), &fields, body).await;
        assert!(answer.status.is_success(), "{path}: {}", answer.value());
        answer.json().unwrap_or_default()
    };
    let task = make("POST", "/command", json!({ "command": SEARCH_MAIL })).await;
    let steps = json!([{"id": "find", "operation": "gmail.search", "with": {"query": "budget"}}]);
    make("PUT", "/workflows/daily", json!({ "steps": steps })).await;
    make("PUT", "/context/notes", json!({"about": "the budget"})).await;
    let mails = make("GET", "/gmail/messages", Value::Null).await;
    let files = make("GET", "/drive/files", Value::Null).await;
    let events = make("GET", "/calendar/events", Value::Null).await;
    let name_in = |template: &str| {
        let name = match template.split('/').nth(1).unwrap_or_default() {
            "tasks" => &task["id"],
            "sessions" => &task["session"],
            "workflows" => return "daily".to_owned(),
            "context" => return "notes".to_owned(),
            "gmail" => &mails["messages"][0]["id"],
            "calendar" => &events["items"][0]["id"],
            "drive" => &files["files"][0]["id"],
            _ => &Value::Null,
        };
        name.as_str().unwrap_or("nonsense").to_owned()
    };
    let path_of = |route: &Route| format!("/api/v1{}", route.path(|| name_in(&route.template)));
    let all = routes(over).await;
    let mut routes: Vec<_> = all.into_iter().map(|route| (route.method.clone(), path_of(&route))).collect();
    // What takes something away comes last, so that there is something to read before.
    routes.sort_by_key(|(method, _)| method != "GET");
    routes
}

#[tokio::test]
async fn every_route_of_the_description_is_there_over_tcp_and_answers_alike() {
    let scene = Scene::start(2, &[]);
    let key = scene.gateway.user("ada");
    let (http1, http2) = (Fallback::http1(&scene.gateway), Fallback::http2(&scene.gateway));
    let http3 = scene.caller().await;
    let bearer = format!("Bearer {key}");
    let mut read = 0;
    for (method, path) in described(&http3, &key).await {
        let fields = [("authorization", &*bearer), REQUEST_ID];
        // What changes something is asked for without the body that it takes, so that each is refused as the one before.
        let is_read = method == "GET";
        let (fields, body) =
            if is_read { (fields.to_vec(), "") } else { ([&fields[..], &[JSON]].concat(), "[1]") };
        let over3 = http3.send(&method, &path, &fields, body).await;
        read += usize::from(is_read && over3.status == 200);
        for over_tcp in [&http1, &http2] {
            let answer = over_tcp.send(&method, &path, &fields, &Bytes::from(body)).await;
            let what = format!("{method} {path}, {:?}", over_tcp.version);
            assert_eq!(answer.status, over3.status, "{what}");
            assert_eq!(answer.field("content-type"), over3.field("content-type"), "{what}");
            if is_read && path.ends_with("/users/me/export") {
                // It says when it was made.
                assert!(
                    answer.body.starts_with(br#"{"at":"#) && over3.body.starts_with(br#"{"at":"#),
                    "{what}"
                );
            } else if is_read && path == "/api/v1/keys" {
                // They say when they were last used.
                let name_of = |answer: &Answer| answer.value()["keys"][0]["id"].clone();
                assert_eq!(
                    (name_of(&answer), name_of(&answer).is_string()),
                    (name_of(&over3), true),
                    "{what}"
                );
            } else if is_read {
                assert_eq!(answer.field("etag"), over3.field("etag"), "{what}");
                assert_eq!(
                    String::from_utf8_lossy(&answer.body),
                    String::from_utf8_lossy(&over3.body),
                    "{what}"
                );
            } else if !over3.status.is_success() {
                let (ours, theirs) = (answer.value(), over3.value());
                assert_eq!((&ours["type"], &ours["detail"]), (&theirs["type"], &theirs["detail"]), "{what}");
            }
        }
    }
    assert!(read > 20, "{read} routes were read");
}

#[tokio::test]
async fn commands_are_carried_out_on_their_users_core_without_a_hop() {
    let scene = Scene::start(2, &[]);
    let (http1, http2) = (Fallback::http1(&scene.gateway), Fallback::http2(&scene.gateway));
    let mut done = vec![];
    for name in ["ada", "bob", "cy", "dee"] {
        let key = scene.gateway.user(name);
        for over_tcp in [&http1, &http2] {
            let answer = over_tcp.command(&key).await;
            let task = answer.value();
            assert_eq!((answer.status.as_u16(), &task["state"]), (200, &json!("done")), "{task:#}");
            done.push((key.clone(), task));
        }
    }
    let page = scene.gateway.page().await;
    let over = |protocol| page.sum("sluice_tcp_requests_total", &[("protocol", protocol)]);
    assert_eq!((over("http/1.1"), over("h2")), (4, 4));
    assert_eq!(page.sum("sluice_hops_sent_total", &[]), 0);
    assert_eq!(page.sum("sluice_entrance_pending", &[]), 0);
    // What was done over one is found over the others, and would have come out alike.
    let http3 = scene.caller().await;
    for (key, task) in done {
        let path = format!("/api/v1/tasks/{}", task["id"].as_str().expect("an id"));
        assert_eq!(http3.get(&path, &key).await.value(), task);
        let again = http3.done(&key, SEARCH_MAIL).await;
        assert_eq!((&again["answer"], &again["plan"]), (&task["answer"], &task["plan"]));
    }
}

#[tokio::test]
async fn a_client_that_follows_the_answer_comes_back_over_http3() {
    let scene = Scene::start(2, &[]);
    let answer = Fallback::http2(&scene.gateway).send("GET", "/livez", &[], &Bytes::new()).await;
    let alt_svc = answer.field("alt-svc").expect("it says where").to_owned();
    let port = alt_svc.split('"').nth(1).and_then(|authority| authority.strip_prefix(':'));
    let port: u16 = port.and_then(|port| port.parse().ok()).expect("a port");
    let caller = Caller::at(&scene.gateway, SocketAddr::new(scene.gateway.address.ip(), port)).await;
    assert_eq!(caller.send("GET", "/livez", &[], "").await.body, answer.body);
}

/// Where a container's or a router's mapping stands in front, no port is outside what it is inside.
#[tokio::test]
async fn behind_a_mapping_answers_name_the_port_that_is_there_outside() {
    let front = Front::start(SocketAddr::from(([127, 0, 0, 1], 9))).await;
    let scene = Scene::start(2, &[&format!("listen.alt_svc_port={}", front.address.port())]);
    front.lead_to(scene.gateway.address);
    assert_ne!(front.address.port(), scene.gateway.address.port());
    let answer = Fallback::http2(&scene.gateway).send("GET", "/livez", &[], &Bytes::new()).await;
    let outside = format!("h3=\":{}\"; ma=86400", front.address.port());
    assert_eq!(answer.field("alt-svc"), Some(&*outside));
    let caller = Caller::at(&scene.gateway, front.address).await;
    assert_eq!(caller.send("GET", "/livez", &[], "").await.body, answer.body);
    assert!(!front.sent().is_empty(), "it came through the mapping");
    // Half of the users are another core's, and the cores' own ports are not there outside.
    let mut hops = 0;
    for name in ["ada", "bob", "cy", "dee", "eve", "flo", "gus", "hal"] {
        let key = scene.gateway.user(name);
        let before = scene.gateway.page().await.sum("sluice_hops_sent_total", &[]);
        let answer = caller.get("/api/v1/preferences", &key).await;
        assert_eq!((answer.status.as_u16(), answer.field("alt-svc")), (200, None), "{name}");
        hops += scene.gateway.page().await.sum("sluice_hops_sent_total", &[]) - before;
    }
    assert!(hops > 0, "none of them was another core's");
}

#[tokio::test]
async fn nobody_is_sent_to_http3_where_that_is_not_wanted() {
    let scene = Scene::start(1, &["listen.alt_svc=false"]);
    for over_tcp in [Fallback::http1(&scene.gateway), Fallback::http2(&scene.gateway)] {
        let answer = over_tcp.send("GET", "/livez", &[], &Bytes::new()).await;
        assert_eq!((answer.status.as_u16(), answer.field("alt-svc")), (200, None));
    }
}

fn is_running(page: &Metrics) -> bool {
    page.sum("sluice_tasks_running", &[]) == 2
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_under_way_are_finished_before_the_end() {
    let scene = Scene::start(2, &[]);
    let (ada, bob) = (scene.gateway.user("ada"), scene.gateway.user("bob"));
    let (http1, http2) = (Fallback::http1(&scene.gateway), Fallback::http2(&scene.gateway));
    scene.sim.fault(json!({"service": "gmail", "kind": "hang", "count": 2})).await;
    let ending = async {
        scene.gateway.until("both commands run", is_running).await;
        scene.gateway.ask_to_stop();
        while TcpStream::connect(scene.gateway.address).is_ok() {
            tokio::task::yield_now().await;
        }
        scene.sim.clear_faults().await;
    };
    let (over1, over2, ()) = tokio::join!(http1.command(&ada), http2.command(&bob), guard(ending));
    for answer in [over1, over2] {
        assert_eq!((answer.status.as_u16(), &answer.value()["state"]), (200, &json!("done")));
    }
    let gateway = scene.gateway;
    tokio::task::spawn_blocking(move || gateway.stopped()).await.expect("it ends in good order");
}

#[tokio::test]
async fn idle_connections_do_not_hold_up_the_end() {
    let scene = Scene::start(1, &["server.shutdown_grace_ms=60000"]);
    for over_tcp in [Fallback::http1(&scene.gateway), Fallback::http2(&scene.gateway)] {
        assert_eq!(over_tcp.send("GET", "/livez", &[], &Bytes::new()).await.status.as_u16(), 200);
    }
    // One that never comes to say hello.
    let _silent = TcpStream::connect(scene.gateway.address).expect("a connection");
    let gateway = scene.gateway;
    guard(tokio::task::spawn_blocking(move || gateway.stop())).await.expect("it ends in good order");
}

#[tokio::test]
async fn without_tcp_nobody_listens_there() {
    let sim = Sim::start(&[]);
    let scene = Scene::with_sim(sim, 1, &["listen.tcp=false"]);
    assert!(TcpStream::connect(scene.gateway.address).is_err());
    assert_eq!(scene.caller().await.send("GET", "/livez", &[], "").await.status.as_u16(), 200);
}
