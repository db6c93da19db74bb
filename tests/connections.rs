//! Google accounts that users connect by their consent: through the real gateway, with the simulator as Google.

mod common;

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use common::asker::{Asker, text};
use common::browser::{Browser, assert_page, google_answers, path_of};
use common::receiver::{Receiver, TAKEN};
use common::scene::{Caller, Effects, Scene};
use common::{Gateway, Sim};
use serde_json::{Value, json};

const GMAIL_READ: &str = "https://www.googleapis.com/auth/gmail.readonly";
const DRIVE_READ: &str = "https://www.googleapis.com/auth/drive.readonly";

/// A user with a browser.
struct Person {
    asker: Asker,
    browser: Browser,
}

impl Person {
    async fn of(scene: &Scene, name: &str) -> Self {
        let asker = Asker::of(&scene.gateway, &scene.gateway.lone_user(name)).await;
        Self { asker, browser: Browser::new(scene.caller().await) }
    }

    /// A link to connect an account.
    async fn link(&self, body: &Value) -> String {
        let begun = self.asker.expect(200, "POST", "/connections/google", body).await;
        text(&begun["authorization_url"]).to_owned()
    }

    /// Connects an account, and gives the last page.
    async fn connect(&mut self, body: &Value, more: &str) -> String {
        let link = self.link(body).await;
        let page = self.browser.connect(&link, more).await;
        assert_page(&page, 200)
    }

    async fn connections(&self) -> Vec<Value> {
        self.asker.get("/connections").await["connections"].as_array().expect("a list").clone()
    }

    async fn only(&self) -> Value {
        let all = self.connections().await;
        assert_eq!(all.len(), 1, "{all:?}");
        all[0].clone()
    }

    async fn command(&self) -> Value {
        let command = json!({"command": "find mails from kim"});
        // Nothing that is remembered: it is the connection that is looked at.
        let anew = [("cache-control", "no-cache")];
        self.asker.with("POST", "/command", &anew, &command).await.value()
    }
}

/// A parameter of a URL.
fn parameter(url: &str, name: &str) -> String {
    let url = reqwest::Url::parse(url).expect("a URL");
    let found = url.query_pairs().find(|(key, _)| key == name).map(|(_, value)| value.into_owned());
    found.unwrap_or_else(|| panic!("{name} is not in {url}"))
}

#[tokio::test]
async fn a_user_connects_an_account_and_commands_use_it() {
    let scene = Scene::start(2, &[]);
    // Users of both cores, whose browsers come in at either: each step may land on the wrong core.
    for (number, name) in ["ada", "bob", "cyd", "dan"].into_iter().enumerate() {
        let mut person = Person::of(&scene, name).await;
        let before = person.command().await;
        assert_eq!(before["type"], "/problems/not-connected", "{before:#}");
        assert_eq!(person.connections().await, Vec::<Value>::new());
        let link = person.link(&json!({"services": ["mail:read"], "login_hint": name})).await;
        let page = assert_page(&person.browser.look(&link).await, 200);
        assert!(page.contains(name) && page.contains("mail:read"), "{page}");
        person.browser.caller = Caller::at(&scene.gateway, scene.gateway.core_address(number % 2)).await;
        let answer = person.browser.press(&link).await;
        let google = answer.field("location").expect("a location").to_owned();
        // No more than is wanted, and all that a code needs.
        assert_eq!(parameter(&google, "scope"), format!("openid email {GMAIL_READ}"));
        assert_eq!(parameter(&google, "redirect_uri"), "https://localhost/oauth/google/callback");
        for (name, value) in [
            ("response_type", "code"),
            ("code_challenge_method", "S256"),
            ("access_type", "offline"),
            ("include_granted_scopes", "true"),
            ("prompt", "consent"),
            ("login_hint", name),
        ] {
            assert_eq!(parameter(&google, name), value);
        }
        let callback = google_answers(&google, "").await;
        person.browser.caller =
            Caller::at(&scene.gateway, scene.gateway.core_address((number + 1) % 2)).await;
        let page = assert_page(&person.browser.look(&callback).await, 200);
        assert!(page.contains(&format!("{name}@example.com")), "{page}");
        let connection = person.only().await;
        assert_eq!(connection["account"], format!("{name}@example.com"), "{connection:#}");
        assert_eq!((&connection["status"], &connection["is_default"]), (&json!("connected"), &json!(true)));
        assert_eq!((&connection["services"], &connection["missing"]), (&json!(["mail:read"]), &json!([])));
        let after = person.command().await;
        assert_eq!(after["state"], "done", "{after:#}");
    }
    let audit = scene.gateway.admin(&["audit", "export"]);
    assert_eq!(audit.matches("connection.create").count(), 4, "{audit}");
    scene.gateway.admin(&["audit", "verify"]);
}

#[tokio::test]
async fn a_state_is_good_once_and_for_its_browser_alone() {
    let scene = Scene::start(2, &[]);
    let mut ada = Person::of(&scene, "ada").await;
    let link = ada.link(&json!({"services": ["mail"], "login_hint": "ada"})).await;
    let callback = ada.browser.consent(&link, "").await;
    // Another browser has no cookie, or its own; and takes nothing from the one that was sent.
    let mut other = Browser::new(scene.caller().await);
    assert_page(&other.look(&callback).await, 400);
    let another_callback = other.consent(&link, "").await;
    assert_page(&other.look(&callback).await, 400);
    assert_eq!(ada.connections().await, Vec::<Value>::new());
    assert_page(&ada.browser.look(&callback).await, 200);
    let connection = ada.only().await;
    assert_page(&ada.browser.look(&callback).await, 400);
    // A state of our making is needed, and a code with it.
    let state = parameter(&callback, "state");
    let (flipped, no_code) = (
        format!("{}{}", if state.starts_with('B') { 'C' } else { 'B' }, &state[1..]),
        format!("/oauth/google/callback?state={}", parameter(&another_callback, "state")),
    );
    for wrong in [
        "/oauth/google/callback".to_owned(),
        "/oauth/google/callback?state=&code=x".to_owned(),
        format!("/oauth/google/callback?state={flipped}&code=x"),
    ] {
        assert_page(&ada.browser.look(&wrong).await, 400);
    }
    assert_page(&other.look(&no_code).await, 400);
    // That took the state along.
    assert_page(&other.look(&another_callback).await, 400);
    assert_eq!(ada.only().await, connection);
}

#[tokio::test]
async fn nobody_is_sent_to_google_who_has_not_pressed_our_button() {
    let scene = Scene::start(1, &[]);
    let ada = Person::of(&scene, "ada").await;
    let link = ada.link(&json!({"services": ["mail"]})).await;
    for origin in [
        &[("origin", "https://evil.example")][..],
        &[("origin", "null")],
        &[("sec-fetch-site", "cross-site")],
        &[],
    ] {
        let answer = scene.caller().await.send("POST", path_of(&link), origin, "").await;
        assert_page(&answer, 403);
        assert!(answer.field("set-cookie").is_none() && answer.field("location").is_none());
    }
    for wrong in ["x", "x.y", &format!("{}x", link.rsplit('/').next().expect("a part"))] {
        let path = format!("/oauth/google/start/{wrong}");
        assert_page(&scene.caller().await.send("GET", &path, &[], "").await, 400);
        assert_page(
            &scene.caller().await.send("POST", &path, &[("origin", "https://localhost")], "").await,
            400,
        );
    }
    // At most five at a time: the oldest gives way.
    let mut browser = Browser::new(scene.caller().await);
    let mut callbacks = Vec::new();
    for _ in 0..6 {
        callbacks.push(browser.consent(&link, "").await);
    }
    assert_page(&browser.look(&callbacks[0]).await, 400);
    assert_page(&browser.look(&callbacks[1]).await, 200);
}

#[tokio::test]
async fn what_was_not_granted_is_told_and_can_be_added_later() {
    let scene = Scene::start(2, &["google.return_origins=https://app.example.com"]);
    let mut ada = Person::of(&scene, "ada").await;
    let all = json!({"services": ["mail:read", "drive:read"], "login_hint": "ada",
        "return_url": "https://app.example.com/done?x=1&y=2"});
    let page = ada.connect(&all, &format!("&sim_scope=openid%20{GMAIL_READ}")).await;
    assert!(page.contains("Not granted") && page.contains("drive:read"), "{page}");
    assert!(page.contains("href=\"https://app.example.com/done?x=1&amp;y=2\""), "{page}");
    let connection = ada.only().await;
    assert_eq!(
        (&connection["services"], &connection["missing"]),
        (&json!(["mail:read"]), &json!(["drive:read"]))
    );
    // Given more, it keeps what it has.
    let id = &connection["id"];
    let link = ada.link(&json!({"connection": id, "services": ["calendar:read"]})).await;
    let answer = ada.browser.press(&link).await;
    let google = answer.field("location").expect("a location").to_owned();
    assert!(
        parameter(&google, "scope").contains(GMAIL_READ) && parameter(&google, "scope").contains(DRIVE_READ)
    );
    let callback = google_answers(&google, "").await;
    assert_page(&ada.browser.look(&callback).await, 200);
    let after = ada.only().await;
    assert_eq!((&after["id"], &after["created"]), (id, &connection["created"]));
    assert_eq!(after["services"], json!(["mail:read", "calendar:read", "drive:read"]), "{after:#}");
    // Nothing at all, or no, changes nothing.
    for (more, status) in [("&sim_scope=openid", 409), ("&sim_consent=deny", 400)] {
        // An account of his own: what was granted for another is not asked for again.
        let name = format!("bob{status}");
        let mut bob = Person::of(&scene, &name).await;
        let link = bob.link(&json!({"services": ["mail"], "login_hint": name})).await;
        assert_page(&bob.browser.connect(&link, more).await, status);
        assert_eq!(bob.connections().await, Vec::<Value>::new());
    }
    for wrong in [
        "https://app.example.com.evil/",
        "https://app.example.com@evil/",
        "http://app.example.com/",
        "javascript:x",
    ] {
        let body = json!({"services": ["mail"], "return_url": wrong});
        ada.asker.expect(422, "POST", "/connections/google", &body).await;
    }
    ada.asker
        .expect(404, "POST", "/connections/google", &json!({"connection": "con_00000000000000000000000000"}))
        .await;
}

#[tokio::test]
async fn giving_an_account_up_revokes_it_at_google_and_it_can_be_connected_anew() {
    let scene = Scene::start(2, &[]);
    let mut ada = Person::of(&scene, "ada").await;
    let body = json!({"services": ["mail", "calendar", "drive"], "login_hint": "ada"});
    ada.connect(&body, "").await;
    let connection = ada.only().await;
    assert_eq!(ada.command().await["state"], "done");
    let path = format!("/connections/{}", text(&connection["id"]));
    let bob = Person::of(&scene, "bob").await;
    bob.asker.expect(404, "DELETE", &path, &Value::Null).await;
    let gone = ada.asker.expect(200, "DELETE", &path, &Value::Null).await;
    assert_eq!((&gone["status"], &gone["revocation"]), (&json!("revoked"), &json!("done")));
    let oauth = &scene.sim.state().await["oauth"];
    assert_eq!((&oauth["revoked"], &oauth["refresh_tokens"]), (&json!(1), &json!(0)), "{oauth}");
    assert_eq!(ada.command().await["type"], "/problems/not-connected");
    ada.asker.expect(200, "DELETE", &path, &Value::Null).await;
    ada.connect(&body, "").await;
    let again = ada.only().await;
    assert_eq!(
        (&again["id"], &again["status"], &again["revocation"]),
        (&connection["id"], &json!("connected"), &Value::Null)
    );
    assert_eq!(ada.command().await["state"], "done");
    let audit = scene.gateway.admin(&["audit", "export"]);
    let told: Vec<&str> = audit.lines().filter(|line| line.contains("connection.revoke")).collect();
    assert!(told.len() == 2 && told[0].contains("begun") && told[1].contains("gateway"), "{audit}");
}

#[tokio::test]
async fn what_google_could_not_be_told_is_told_after_a_crash() {
    let mut scene = Scene::start(2, &[]);
    let (path, key);
    {
        let mut ada = Person::of(&scene, "ada").await;
        ada.connect(&json!({"services": ["mail"], "login_hint": "ada"}), "").await;
        let connection = ada.only().await;
        scene.sim.fault(json!({"service": "oauth", "kind": "status", "status": 503})).await;
        path = format!("/connections/{}", text(&connection["id"]));
        let gone = ada.asker.expect(202, "DELETE", &path, &Value::Null).await;
        assert_eq!((&gone["status"], &gone["revocation"]), (&json!("revoked"), &json!("pending")));
        assert_eq!(ada.command().await["type"], "/problems/not-connected", "it is not used from then on");
        key = ada.asker.key.clone();
    }
    scene.gateway = scene.gateway.crash_and_restart();
    let ada = Asker::of(&scene.gateway, &key).await;
    assert_eq!(ada.get(&path).await["revocation"], "pending");
    scene.sim.clear_faults().await;
    for look in 0.. {
        if ada.get(&path).await["revocation"] == "done" {
            break;
        }
        assert!(look < 3_000, "Google is never told");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(scene.sim.state().await["oauth"]["revoked"], 1);
}

#[tokio::test]
async fn a_dead_connection_is_shown_with_its_reason_and_mended_by_its_link() {
    let (sim, directory) = (Sim::start(&[]), tempfile::tempdir().expect("a directory"));
    let log = directory.path().join("log");
    let file = std::fs::File::create(&log).expect("a file");
    let options = ["server.cores=2", "server.shards=16", "log.level=info"];
    let gateway = Gateway::start_with(&sim, &directory.path().join("data"), &options, &[], |command| {
        command.stderr(file);
    });
    let scene = Scene { gateway, sim, directory };
    let mut ada = Person::of(&scene, "ada").await;
    ada.connect(&json!({"services": ["mail"], "login_hint": "ada"}), "").await;
    assert_eq!(ada.command().await["state"], "done");
    let connection = ada.only().await;
    assert_eq!((&connection["reason"], &connection["link"]), (&Value::Null, &Value::Null));
    scene.sim.revoke("ada").await;
    let problem = ada.command().await;
    assert_eq!(problem["type"], "/problems/needs-reauth", "{problem:#}");
    // The answer itself says where it is mended: the problem, its task, and the words to the user.
    let told = text(&problem["link"]).to_owned();
    assert!(told.starts_with("https://localhost/oauth/google/start/"), "{problem:#}");
    assert!(text(&problem["task"]["answer"]).contains(&told), "{problem:#}");
    let plain = ada.asker.ask("GET", "/gmail/messages", &Value::Null).await.problem(409, "needs-reauth");
    assert_page(&ada.browser.look(text(&plain["link"])).await, 200);
    assert_page(&ada.browser.look(&told).await, 200);
    let dead = ada.only().await;
    assert_eq!((&dead["status"], &dead["reason"]), (&json!("needs_reauth"), &json!("refused")), "{dead:#}");
    let link = text(&dead["link"]).to_owned();
    // Another account does not take its place.
    let page = assert_page(&ada.browser.look(&link).await, 200);
    assert!(page.contains("ada@example.com"), "{page}");
    let answer = ada.browser.press(&link).await;
    let google =
        answer.field("location").expect("a location").replace("login_hint=ada%40", "login_hint=eve%40");
    let callback = google_answers(&google, "").await;
    let page = assert_page(&ada.browser.look(&callback).await, 409);
    assert!(page.contains("another account"), "{page}");
    assert_eq!(ada.only().await["status"], "needs_reauth");
    let page = ada.browser.connect(&link, "").await;
    assert_page(&page, 200);
    let mended = ada.only().await;
    assert_eq!((&mended["id"], &mended["status"]), (&connection["id"], &json!("connected")), "{mended:#}");
    assert_eq!(ada.command().await["state"], "done");
    // The log tells of both by ids.
    scene.gateway.stop();
    let log = std::fs::read_to_string(log).expect("a text");
    for told in ["no access token", "a consent came to nothing"] {
        assert!(log.contains(told), "{told}: {log}");
    }
    assert!(!log.contains("@example.com"), "{log}");
}

#[tokio::test]
async fn webhooks_are_told_when_a_connection_dies_and_when_it_works_again() {
    let receiver = Receiver::start(|_, _| TAKEN.to_owned());
    let options = ["webhooks.allow_http=true", "webhooks.ports=", "webhooks.allow=127.0.0.1/32"];
    let scene = Scene::start(2, &options);
    let mut ada = Person::of(&scene, "ada").await;
    ada.connect(&json!({"services": ["mail"], "login_hint": "ada"}), "").await;
    let events = json!({"url": receiver.url(), "events": ["connection.failed", "connection.recovered"]});
    ada.asker.expect(201, "POST", "/webhooks", &events).await;
    assert_eq!(ada.command().await["state"], "done");
    scene.sim.revoke("ada").await;
    for _ in 0..2 {
        ada.asker.ask("GET", "/gmail/labels", &Value::Null).await.problem(409, "needs-reauth");
    }
    let told = receiver.until(1).await[0].clone();
    let event = told.event();
    let connection = ada.only().await;
    assert_eq!((&event["type"], &event["data"]["id"]), (&json!("connection.failed"), &connection["id"]));
    assert_eq!(
        (&event["data"]["status"], &event["data"]["reason"]),
        (&json!("needs_reauth"), &json!("refused"))
    );
    assert!(
        !told.body.contains("ada@example.com") && told.fields.contains_key("webhook-signature"),
        "{told:?}"
    );
    let link = text(&event["data"]["link"]).to_owned();
    let ticket = link.rsplit('/').next().and_then(|part| part.split('.').next()).expect("a ticket");
    let ticket = String::from_utf8(URL_SAFE_NO_PAD.decode(ticket).expect("base64")).expect("a text");
    assert!(ticket.contains(text(&connection["id"])) && !ticket.contains("ada"), "{ticket}");
    let page = ada.browser.connect(&link, "").await;
    assert_page(&page, 200);
    let event = receiver.until(2).await[1].event();
    assert_eq!((&event["type"], &event["data"]["id"]), (&json!("connection.recovered"), &connection["id"]));
    assert_eq!((&event["data"]["status"], &event["data"]["link"]), (&json!("connected"), &Value::Null));
    // By an operator as well, as soon as it is seen to work.
    scene.sim.revoke("ada").await;
    ada.asker.ask("GET", "/gmail/labels", &Value::Null).await.problem(409, "needs-reauth");
    receiver.until(3).await;
    scene.gateway.admin(&["user", "connect", "ada", "--refresh-token", "sim-refresh-grace"]);
    ada.asker.get("/gmail/labels").await;
    let messages = receiver.until(4).await;
    assert_eq!(messages[3].event()["type"], "connection.recovered");
    assert_eq!(messages.len(), 4, "each is told once");
}

#[tokio::test]
async fn several_accounts_stand_side_by_side_and_any_of_them_can_be_the_default_one() {
    let scene = Scene::start(2, &[]);
    let mut ada = Person::of(&scene, "ada").await;
    for account in ["ada", "grace", "kim"] {
        ada.connect(&json!({"services": ["mail", "calendar:read"], "login_hint": account}), "").await;
    }
    let of = |all: &[Value], account: &str| {
        let address = format!("{account}@example.com");
        all.iter()
            .find(|one| one["account"] == address)
            .unwrap_or_else(|| panic!("{account}: {all:?}"))
            .clone()
    };
    let all = ada.connections().await;
    assert_eq!(all.len(), 3);
    let defaults: Vec<_> = all.iter().filter(|one| one["is_default"] == true).collect();
    assert_eq!(defaults, [&of(&all, "ada")]);
    // Whose it is: the name of the first calendar tells.
    let asker = Asker::of(&scene.gateway, &ada.asker.key).await;
    let address = async |query: &str| {
        let calendars = asker.get(&format!("/calendar/calendars{query}")).await;
        let is_own = |calendar: &&Value| calendar["primary"] == true;
        let own = calendars["items"].as_array().expect("a list").iter().find(is_own).expect("a calendar");
        text(&own["id"]).to_owned()
    };
    assert_eq!(address("").await, "ada@example.com");
    for account in ["ada", "grace", "kim"] {
        let query = format!("?account={}", text(&of(&all, account)["id"]));
        // Twice, so that nothing that is remembered is mixed up.
        for _ in 0..2 {
            assert_eq!(address(&query).await, format!("{account}@example.com"));
        }
    }
    assert_eq!(address("").await, "ada@example.com");
    // Connected again, it is the same one.
    let mut again = Person {
        asker: Asker::of(&scene.gateway, &ada.asker.key).await,
        browser: Browser::new(scene.caller().await),
    };
    again.connect(&json!({"services": ["mail", "calendar:read"], "login_hint": "grace"}), "").await;
    assert_eq!(of(&ada.connections().await, "grace")["id"], of(&all, "grace")["id"]);
    // Another becomes the default one, and commands and reads are its own from then on.
    let grace = format!("/connections/{}", text(&of(&all, "grace")["id"]));
    let patch = [("content-type", "application/merge-patch+json")];
    let chosen = ada.asker.with("PATCH", &grace, &patch, &json!({"is_default": true})).await;
    assert_eq!((chosen.status.as_u16(), &chosen.value()["is_default"]), (200, &json!(true)));
    assert_eq!(address("").await, "grace@example.com");
    let ada_id = text(&of(&all, "ada")["id"]).to_owned();
    assert_eq!(address(&format!("?account={ada_id}")).await, "ada@example.com");
    assert_eq!(ada.command().await["state"], "done");
    // A command that waits keeps to the account it began with, so no other takes its place.
    let preview = json!({"command": "send a mail to kim@example.com saying hello", "mode": "preview"});
    let task = ada.asker.expect(200, "POST", "/command", &preview).await;
    let ada_path = format!("/connections/{ada_id}");
    ada.asker.with("PATCH", &ada_path, &patch, &json!({"is_default": true})).await.problem(409, "conflict");
    ada.asker.expect(200, "POST", &format!("/tasks/{}/cancel", text(&task["id"])), &Value::Null).await;
    // Given up, it leaves its place empty until another is chosen, and is revoked whatever its place is.
    let gone = ada.asker.expect(200, "DELETE", &grace, &Value::Null).await;
    assert_eq!(gone["revocation"], "done", "{gone:#}");
    assert_eq!(ada.command().await["type"], "/problems/not-connected");
    let chosen = ada.asker.with("PATCH", &ada_path, &patch, &json!({"is_default": true})).await;
    assert_eq!(chosen.status.as_u16(), 200, "{:?}", chosen.body);
    assert_eq!(address("").await, "ada@example.com");
    let refused = ada
        .asker
        .ask("GET", &format!("/calendar/calendars?account={}", text(&of(&all, "grace")["id"])), &Value::Null)
        .await;
    refused.problem(409, "not-connected");
    ada.asker.with("PATCH", &grace, &patch, &json!({"is_default": true})).await.problem(409, "conflict");
    let bob = Person::of(&scene, "bob").await;
    bob.asker
        .ask("GET", &format!("/calendar/calendars?account={ada_id}"), &Value::Null)
        .await
        .problem(404, "not-found");
    ada.asker
        .ask("GET", "/calendar/calendars?account=con_1", &Value::Null)
        .await
        .problem(422, "invalid-field");
    // One after another, until none is left.
    for account in ["ada", "kim"] {
        ada.asker
            .expect(200, "DELETE", &format!("/connections/{}", text(&of(&all, account)["id"])), &Value::Null)
            .await;
    }
    assert_eq!(ada.command().await["type"], "/problems/not-connected");
    // There is an end to it.
    for number in 0..8 {
        ada.connect(&json!({"services": ["mail"], "login_hint": format!("n{number}")}), "").await;
    }
    ada.asker.expect(409, "POST", "/connections/google", &json!({"services": ["mail"]})).await;
}

#[tokio::test]
async fn a_task_whose_account_was_given_up_does_not_go_on_with_another() {
    let scene = Scene::start(1, &[]);
    let mut ada = Person::of(&scene, "ada").await;
    ada.connect(&json!({"services": ["mail"], "login_hint": "ada"}), "").await;
    let mail = "send an email to ben@x.example with subject Lunch and body See you at noon!";
    // One has its draft, and Google asks for more patience than it has time for; another waits to be confirmed.
    let limited = json!({"service": "gmail", "kind": "status", "status": 429, "path_contains": "/drafts/send",
                         "count": 1, "retry_after_s": 600});
    scene.sim.fault(limited).await;
    let late = ada.asker.queue(&json!({"command": mail, "deadline_ms": 30_000})).await["id"].clone();
    assert_eq!(ada.asker.ended(&late).await["error"]["type"], "/problems/upstream-limited");
    let dead = format!("/dead-letters/{}", text(&late));
    assert_eq!(ada.asker.get(&dead).await["task"]["id"], late);
    let preview = json!({"command": mail, "mode": "preview"});
    let unconfirmed = ada.asker.expect(200, "POST", "/command", &preview).await["id"].clone();
    // The account is given up, and the next one is the default one from then on.
    let first = ada.only().await["id"].clone();
    ada.asker.expect(200, "DELETE", &format!("/connections/{}", text(&first)), &Value::Null).await;
    ada.connect(&json!({"services": ["mail", "calendar"], "login_hint": "grace"}), "").await;
    ada.asker.expect(202, "POST", &format!("{dead}/redrive"), &Value::Null).await;
    ada.asker.expect(202, "POST", &format!("/tasks/{}/confirm", text(&unconfirmed)), &Value::Null).await;
    for id in [&late, &unconfirmed] {
        let ended = ada.asker.ended(id).await;
        assert_eq!(ended["state"], "failed", "{ended:#}");
        let error = &ended["error"];
        assert_eq!((&error["type"], &error["retryable"]), (&json!("/problems/account-gone"), &json!(false)));
        assert!(text(&error["detail"]).contains(text(&first)), "{error:#}");
    }
    for account in ["ada", "grace"] {
        assert_eq!(scene.sim.effects(account).await.0, Effects::default(), "{account}");
    }
    // What is accepted from here on is for the new one.
    let event = json!({"command": "create an event called Budget freeze on 2031-03-04"});
    assert_eq!(ada.asker.expect(200, "POST", "/command", &event).await["state"], "done");
    assert_eq!(scene.sim.effects("grace").await.0, Effects { inserts: 1, ..Effects::default() });
}

#[tokio::test]
async fn a_command_names_the_account_it_is_for() {
    let scene = Scene::start(2, &[]);
    let mut ada = Person::of(&scene, "ada").await;
    for account in ["ada", "grace", "kim"] {
        ada.connect(&json!({"services": ["mail", "calendar"], "login_hint": account}), "").await;
    }
    let all = ada.connections().await;
    let of = |account: &str| {
        let address = format!("{account}@example.com");
        all.iter().find(|one| one["account"] == address).expect("connected")["id"].clone()
    };
    let (default, grace, kim) = (of("ada"), of("grace"), of("kim"));
    let inserts = async |account: &str| scene.sim.effects(account).await.0.inserts;
    // The simulator takes what looks alike for done twice.
    let event = |account: &Value, number: u32| json!({"command": format!("create an event called Review q{number}x tomorrow at ten"), "account": account});
    let asker = &ada.asker;
    // One command, a repeated one, a preview and a batch.
    for (account, shown, number) in [(&grace, &grace, 1), (&Value::Null, &default, 2)] {
        let task = asker.expect(200, "POST", "/command", &event(account, number)).await;
        assert_eq!((&task["state"], &task["account"]), (&json!("done"), shown), "{task:#}");
        assert_eq!(asker.task(&task["id"]).await["account"], *shown);
    }
    assert_eq!((inserts("ada").await, inserts("grace").await), (1, 1));
    let key = [("idempotency-key", "k1")];
    let once = asker.with("POST", "/command", &key, &event(&grace, 3)).await.value();
    assert_eq!(asker.with("POST", "/command", &key, &event(&grace, 3)).await.value()["id"], once["id"]);
    asker.with("POST", "/command", &key, &event(&kim, 3)).await.problem(422, "idempotency-mismatch");
    assert_eq!(inserts("grace").await, 2);
    let mut preview = event(&grace, 4);
    preview["mode"] = json!("preview");
    let shown = asker.expect(200, "POST", "/command", &preview).await;
    assert_eq!(shown["account"], grace);
    asker.expect(202, "POST", &format!("/tasks/{}/confirm", text(&shown["id"])), &Value::Null).await;
    assert_eq!(asker.ended(&shown["id"]).await["state"], "done");
    assert_eq!(inserts("grace").await, 3);
    let unknown = json!("con_00000000000000000000000001");
    let batch = json!({"commands": [event(&grace, 5), event(&unknown, 6), event(&Value::Null, 7)]});
    let batch = asker.expect(207, "POST", "/commands", &batch).await;
    let statuses: Vec<_> =
        batch["items"].as_array().expect("items").iter().map(|item| &item["status"]).collect();
    assert_eq!(statuses, [&json!(202), &json!(404), &json!(202)], "{batch:#}");
    for index in [0, 2] {
        assert_eq!(asker.ended(&batch["items"][index]["task"]["id"]).await["state"], "done");
    }
    assert_eq!((inserts("ada").await, inserts("grace").await), (2, 4));
    // A run of a workflow.
    let steps = json!([{"id": "book", "operation": "calendar.create", "with": {"title": "Talk", "start": "2031-03-04T10:00"}}]);
    asker.expect(201, "PUT", "/workflows/talk", &json!({"steps": steps})).await;
    let run = asker.expect(200, "POST", "/workflows/talk/runs", &json!({"account": grace})).await;
    assert_eq!((&run["state"], &run["account"]), (&json!("done"), &grace), "{run:#}");
    assert_eq!((inserts("ada").await, inserts("grace").await), (2, 5));
    // What one account was asked is not answered to another from what is remembered, nor do handles mean it there.
    let find = |account: &Value| json!({"command": "find mails from kim", "account": account});
    for account in [&Value::Null, &grace, &Value::Null, &grace] {
        let found = asker.expect(200, "POST", "/command", &find(account)).await;
        let is_asked = found["steps"][0]["calls"].as_array().is_some_and(|calls| !calls.is_empty());
        assert!(is_asked || account.is_null(), "{found:#}");
    }
    // What is not the user's, or not any more, is told as where mail and events are as they are.
    let plain = async |account: &Value| {
        asker.ask("GET", &format!("/calendar/calendars?account={}", text(account)), &Value::Null).await
    };
    let alike = |told: &Value, other: &Value| {
        for member in ["type", "title", "status", "detail", "retryable"] {
            assert_eq!(told[member], other[member], "{told:#} {other:#}");
        }
    };
    let parse = |account: &Value| find(account);
    let missing = plain(&unknown).await.problem(404, "not-found");
    alike(&asker.ask("POST", "/command", &event(&unknown, 8)).await.problem(404, "not-found"), &missing);
    alike(&batch["items"][1]["problem"], &missing);
    let run = json!({"account": unknown});
    alike(&asker.ask("POST", "/workflows/talk/runs", &run).await.problem(404, "not-found"), &missing);
    alike(&asker.ask("POST", "/intents/parse", &parse(&unknown)).await.problem(404, "not-found"), &missing);
    asker.expect(200, "DELETE", &format!("/connections/{}", text(&kim)), &Value::Null).await;
    let gone = plain(&kim).await.problem(409, "not-connected");
    alike(&asker.ask("POST", "/command", &event(&kim, 8)).await.problem(409, "not-connected"), &gone);
    let bob = Person::of(&scene, "bob").await;
    bob.asker.ask("POST", "/command", &event(&grace, 8)).await.problem(404, "not-found");
    asker.ask("POST", "/command", &event(&json!("con_1"), 8)).await.problem(422, "invalid-field");
    assert_eq!((inserts("kim").await, inserts("bob").await), (0, 0));
}

/// Whoever has a link can press its button, and each time costs a write: so it is the user's to have done so often, and not the
/// address's alone.
#[tokio::test]
async fn a_link_begins_few_consents_however_often_its_button_is_pressed() {
    let scene = Scene::start(2, &[]);
    let mut ada = Person::of(&scene, "ada").await;
    let link = ada.link(&json!({"services": ["mail"], "login_hint": "ada"})).await;
    let first = ada.browser.press(&link).await.field("location").expect("a location").to_owned();
    let mut begun = 1;
    // By another browser each time, at either core.
    let refused = loop {
        let mut other = Browser::new(Caller::at(&scene.gateway, scene.gateway.core_address(begun % 2)).await);
        let answer = other.press(&link).await;
        if answer.status.as_u16() != 303 {
            break answer;
        }
        begun += 1;
        assert!(begun < 100, "one comes back in three seconds");
    };
    assert!(begun >= 20, "{begun}");
    assert_page(&refused, 429);
    assert!(refused.field("retry-after").is_some());
    assert!(refused.field("ratelimit-policy").is_some_and(|text| text.contains("consent-minute")));
    let page = scene.gateway.page().await;
    let count = u64::try_from(begun).expect("few");
    assert_eq!(page.sum("sluice_consents_begun_total", &[]), count);
    assert_eq!(page.sum("sluice_consents_displaced_total", &[]), count - 5);
    assert_eq!(page.sum("sluice_limit_refused_total", &[("limit", "consent-minute")]), 1);
    // The first has made room; what the user asks for with a key is not concerned, nor is another user.
    let page = assert_page(&ada.browser.look(&google_answers(&first, "").await).await, 400);
    assert!(page.contains("came too late"), "{page}");
    assert_eq!(ada.connections().await.len(), 0);
    let mut bob = Person::of(&scene, "bob").await;
    bob.connect(&json!({"services": ["mail"], "login_hint": "bob"}), "").await;
}
