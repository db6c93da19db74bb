//! The operator's service account, which acts for users of its domains who have connected no account of their own.

mod common;

use std::path::PathBuf;
use std::sync::Arc;

use common::asker::Asker;
use common::scene::{Scene, guard};
use common::{Gateway, Sim};
use serde_json::{Value, json};
use tokio::task::JoinSet;

const FIND: &str = "find mails from kim";

/// A gateway of two cores with the simulator's service account.
struct Delegated {
    gateway: Gateway,
    sim: Sim,
    key_file: PathBuf,
    directory: tempfile::TempDir,
}

impl Delegated {
    fn start(sim_options: &[&str], domains: &str) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let key_file = directory.path().join("account.json");
        let sim_options =
            [&["--service-account-out", key_file.to_str().expect("UTF-8")], sim_options].concat();
        let sim = Sim::start(&sim_options);
        let options = [
            format!("google.service_account_file={}", key_file.display()),
            format!("google.delegated_domains={domains}"),
        ];
        let options: Vec<&str> = options.iter().map(String::as_str).collect();
        let gateway = Scene::gateway(&sim, &directory.path().join("data"), 2, &options);
        Self { gateway, sim, key_file, directory }
    }

    /// Makes a user who has connected nothing.
    async fn user(&self, name: &str, email: &str) -> Asker {
        self.gateway.admin(&["user", "add", name, "--email", email]);
        Asker::of(&self.gateway, &self.gateway.admin(&["key", "add", name])).await
    }

    /// Tokens that the account got for a user.
    async fn delegated(&self, name: &str) -> u64 {
        self.sim.state().await["oauth"]["delegated"][name].as_u64().unwrap_or(0)
    }

    /// Entries of the audit log of this act.
    fn told(&self, act: &str) -> Vec<Value> {
        let export = self.gateway.admin(&["audit", "export"]);
        let entries = export.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
        entries.filter(|entry| entry["act"] == act).collect()
    }
}

/// Carries out a command that reads mail; gives the answer's status and the task, or the problem.
async fn find(asker: &Asker) -> (u16, Value) {
    let answer = asker.ask("POST", "/command", &json!({ "command": FIND })).await;
    (answer.status.as_u16(), answer.value())
}

#[tokio::test]
async fn it_acts_for_users_of_its_domains_alone_and_that_is_told() {
    let scene = Delegated::start(&[], "example.com,example.org");
    // Enough that both cores own some.
    for name in ["ada", "bob", "cyd", "dan"] {
        let user = scene.user(name, &format!("{name}@example.com")).await;
        for _ in 0..3 {
            let (status, task) = find(&user).await;
            assert_eq!((status, &task["state"]), (200, &json!("done")), "{task:#}");
        }
        assert_eq!(scene.delegated(name).await, 1, "the token is kept");
        // The mailbox is that user's.
        let messages = user.get("/gmail/messages?max_results=1").await;
        assert!(messages["messages"].as_array().is_some_and(|found| !found.is_empty()), "{messages:#}");
        let id = user.get("/users/me").await["id"].clone();
        let told = scene.told("user.impersonate");
        let told: Vec<_> = told.iter().filter(|entry| entry["object"] == id).collect();
        assert_eq!(told.len(), 1, "{told:?}");
        assert_eq!((&told[0]["actor"], &told[0]["outcome"]), (&json!("gateway"), &json!("done")));
    }
    // Of no domain of the operator's, also when it looks like one.
    for (name, email) in
        [("eve", "eve@evil.example"), ("mia", "mia@sub.example.com"), ("zoe", "zoe@example.com.evil")]
    {
        let (status, problem) = find(&scene.user(name, email).await).await;
        assert_eq!((status, &problem["type"]), (409, &json!("/problems/not-connected")), "{problem:#}");
        let detail = problem["detail"].as_str().expect("a text");
        assert!(detail.contains("service account does not act"), "{detail}");
    }
    // Of a domain that the operator named, but whose administrator has not allowed it.
    let (status, problem) = find(&scene.user("org", "org@example.org").await).await;
    assert_eq!((status, &problem["type"]), (502, &json!("/problems/upstream-refused")), "{problem:#}");
    assert!(problem["detail"].as_str().is_some_and(|detail| detail.contains("administrator")), "{problem:#}");
    assert_eq!(scene.told("user.impersonate").len(), 4);
    let page = scene.gateway.page().await;
    assert_eq!(page.sum("sluice_run_tokens_delegated_total", &[]), 4);
}

#[tokio::test]
async fn one_flight_brings_the_token_for_all_who_wait() {
    let scene = Delegated::start(&["--oauth-latency-ms", "200"], "example.com");
    let user = Arc::new(scene.user("ada", "ada@example.com").await);
    let mut asking = JoinSet::new();
    for count in 1..=8 {
        let user = Arc::clone(&user);
        asking.spawn(async move { user.get(&format!("/gmail/messages?max_results={count}")).await });
    }
    guard(asking.join_all()).await;
    assert_eq!(scene.delegated("ada").await, 1);
}

#[tokio::test]
async fn it_is_renewed_before_it_ends_while_it_is_used() {
    // Renewed five minutes before the end: at once, and in the background.
    let scene = Delegated::start(&["--token-lifetime-s", "300"], "example.com");
    let user = scene.user("ada", "ada@example.com").await;
    user.get("/gmail/messages?max_results=1").await;
    assert_eq!(scene.delegated("ada").await, 1);
    user.get("/gmail/messages?max_results=2").await;
    for _ in 0..2_000 {
        if scene.delegated("ada").await == 2 {
            // Renewed, not begun: the log has one entry.
            return assert_eq!(scene.told("user.impersonate").len(), 1);
        }
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    panic!("it is not renewed");
}

#[tokio::test]
async fn a_connection_of_the_users_own_goes_before_it() {
    let scene = Delegated::start(&[], "example.com");
    let user = scene.user("ada", "ada@example.com").await;
    assert_eq!(find(&user).await.0, 200);
    assert_eq!(scene.delegated("ada").await, 1);
    // One that must be renewed is not passed over either.
    let bob = scene.user("bob", "bob@example.com").await;
    scene.gateway.admin(&["user", "connect", "bob", "--refresh-token", "sim-revoked-bob"]);
    let (status, problem) = find(&bob).await;
    assert_eq!((status, &problem["type"]), (409, &json!("/problems/needs-reauth")), "{problem:#}");
    assert_eq!(scene.delegated("bob").await, 0);
    let cyd = scene.user("cyd", "cyd@example.com").await;
    scene.gateway.admin(&["user", "connect", "cyd", "--refresh-token", "sim-refresh-cyd"]);
    assert_eq!(find(&cyd).await.0, 200);
    assert_eq!(scene.delegated("cyd").await, 0);
}

#[tokio::test]
async fn a_user_with_another_address_is_another_at_once() {
    let scene = Delegated::start(&[], "example.com");
    let user = scene.user("ada", "ada@example.com").await;
    assert_eq!(find(&user).await.0, 200);
    scene.gateway.admin(&["user", "set", "ada", "--email", "moved@example.com"]);
    user.get("/gmail/labels").await;
    assert_eq!((scene.delegated("ada").await, scene.delegated("moved").await), (1, 1));
    scene.gateway.admin(&["user", "set", "ada", "--email", "ada@elsewhere.example"]);
    let answer = user.ask("GET", "/gmail/threads?max_results=1", &Value::Null).await;
    answer.problem(409, "not-connected");
}

#[tokio::test]
async fn what_is_kept_of_one_account_is_not_shown_for_another() {
    let scene = Delegated::start(&[], "example.com");
    let user = scene.user("ada", "ada@example.com").await;
    let newest = async || user.get("/gmail/messages?max_results=1").await["messages"][0]["id"].clone();
    let mut seen = vec![newest().await];
    assert_eq!(newest().await, seen[0], "it is remembered");
    for change in [
        ["set", "ada", "--email", "moved@example.com"],
        ["connect", "ada", "--refresh-token", "sim-refresh-bob"],
        ["connect", "ada", "--refresh-token", "sim-refresh-cyd"],
    ] {
        scene.gateway.admin(&[&["user"], &change[..]].concat());
        let id = newest().await;
        assert!(id.is_string() && !seen.contains(&id), "{change:?}: {id} is of another mailbox, {seen:?}");
        seen.push(id);
    }
}

#[tokio::test]
async fn the_key_is_in_no_log_and_a_key_file_that_does_not_fit_is_refused_at_the_start() {
    let scene = Delegated::start(&[], "example.com");
    let text = std::fs::read_to_string(&scene.key_file).expect("the key file");
    let file: Value = serde_json::from_str(&text).expect("JSON");
    let data = scene.directory.path().join("refused");
    let start = |changed: &Value, domains: &str| {
        let path = scene.directory.path().join("changed.json");
        std::fs::write(&path, changed.to_string()).expect("written");
        let options = [
            format!("google.service_account_file={}", path.display()),
            format!("google.delegated_domains={domains}"),
            "log.level=trace".to_owned(),
        ];
        let options: Vec<&str> = options.iter().map(String::as_str).collect();
        let output = Gateway::command(&scene.sim, &data, &options).arg("serve").output().expect("it runs");
        assert!(!output.status.success(), "it was not refused");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let secret = file["private_key"].as_str().expect("a key").lines().nth(3).expect("a line of it");
        assert!(!said.contains(secret), "the key is in the log");
        said
    };
    let mut other = file.clone();
    other["token_uri"] = json!("https://oauth2.googleapis.com/token");
    assert!(start(&other, "example.com").contains("google.token_url"));
    other["token_uri"] = file["token_uri"].clone();
    other["private_key"] = json!(file["private_key"].as_str().expect("a key").replacen("MII", "MIJ", 1));
    assert!(start(&other, "example.com").contains("private key cannot be read"));
    assert!(
        start(&json!({"type": "authorized_user"}), "example.com").contains("key file of a service account")
    );
    assert!(start(&file, "").contains("google.delegated_domains"));
    assert!(start(&file, "@example.com").contains("is no domain"));
}
