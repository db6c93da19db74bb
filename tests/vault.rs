//! Secrets at rest through the real binary: what a start without the right master keys says, a rotation while users are
//! served, one that is killed in its midst, tokens that an older version left as they are, and that no secret shows anywhere.

mod common;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use common::browser::{Browser, assert_page, google_answers};
use common::scene::Caller;
use common::{Gateway, Sim};
use serde_json::json;
use sluice_protocols::ids::{ApiKey, ShardCount, ShardId, UserId};
use sluice_store::record::Provider;
use sluice_store::{Batch, Key, KeyRange, Store, StoreConfig};
use tempfile::TempDir;

const SHARDS: u16 = 16;
const SEARCH_MAIL: &str = "Find the mail from Anna about the budget";

/// A simulator, and a place for a data directory and a file of master keys beside it.
struct Place {
    sim: Sim,
    directory: TempDir,
}

impl Place {
    fn new() -> Self {
        Self { sim: Sim::start(&[]), directory: tempfile::tempdir().expect("a temporary directory") }
    }

    fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    fn keys(&self) -> PathBuf {
        self.directory.path().join("master.keys")
    }

    fn options(&self) -> [String; 3] {
        [
            format!("vault.key_file={}", self.keys().display()),
            "server.cores=2".to_owned(),
            format!("server.shards={SHARDS}"),
        ]
    }

    /// The binary with these settings; the keys are the file's.
    fn command(&self, arguments: &[&str]) -> Command {
        let options = self.options();
        let options: Vec<&str> = options.iter().map(String::as_str).collect();
        let mut command = Gateway::command(&self.sim, &self.data(), &options);
        command.args(arguments);
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().expect("the binary runs")
    }

    /// What a command that must go well prints.
    fn done(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {said}");
        String::from_utf8(output.stdout).expect("UTF-8")
    }

    /// What a command that must not go well says.
    fn refused(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(!output.status.success(), "{arguments:?} was not refused");
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    fn keygen(&self, more: &[&str]) {
        let keys = self.keys();
        let keys = keys.to_str().expect("UTF-8");
        self.done(&[&["vault", "keygen", "--out", keys][..], more].concat());
    }

    fn gateway(&self) -> Gateway {
        let options = self.options();
        let options: Vec<&str> = options.iter().map(String::as_str).collect();
        Gateway::start(&self.sim, &self.data(), &options)
    }
}

/// A command that needs the user's refresh token, since nothing of theirs is cached on a new gateway.
async fn search(gateway: &Gateway, key: &str) {
    Caller::of(gateway).await.done(key, SEARCH_MAIL).await;
}

/// How many data keys a status has under a version.
fn under(status: &str, version: u32) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix("data keys"));
    let line = line.unwrap_or_else(|| panic!("no data keys in {status}"));
    let counts = line.split(',').filter_map(|part| part.trim().split_once(" under version "));
    let counts = counts.filter(|(_, of)| of.parse() == Ok(version)).map(|(count, _)| count.parse::<u64>());
    counts.map(|count| count.expect("a number")).sum()
}

#[tokio::test]
async fn a_start_without_the_right_master_key_is_refused_and_told_what_to_do() {
    let place = Place::new();
    let missing = place.refused(&["serve"]);
    assert!(missing.contains("vault.key_file") && missing.contains("master.keys"), "{missing}");
    assert!(!place.data().exists(), "a refused start makes nothing");
    // No key at all.
    let mut bare = Gateway::command(&place.sim, &place.data(), &["vault.key_file="]);
    let bare = bare.arg("serve").output().expect("the binary runs");
    let said = String::from_utf8_lossy(&bare.stderr);
    assert!(!bare.status.success() && said.contains("sluice vault keygen --out FILE"), "{said}");

    place.keygen(&[]);
    let gateway = place.gateway();
    let key = gateway.user("olivia");
    search(&gateway, &key).await;
    gateway.stop();
    // Another key by the same number.
    let ours = fs::read(place.keys()).expect("readable");
    fs::remove_file(place.keys()).expect("removed");
    place.keygen(&[]);
    for command in [&["serve"][..], &["vault", "status"], &["user", "list"]] {
        let wrong = place.refused(command);
        assert!(wrong.contains("master key version 1 is another"), "{wrong}");
        assert!(wrong.contains("give that one"), "{wrong}");
    }
    // The right one, where it must not be.
    fs::write(place.keys(), &ours).expect("written");
    fs::copy(place.keys(), place.data().join("keys")).expect("copied");
    fs::remove_file(place.keys()).expect("removed");
    std::os::unix::fs::symlink(place.data().join("keys"), place.keys()).expect("linked");
    let within = place.refused(&["serve"]);
    assert!(within.contains("in the data directory"), "{within}");
    fs::rename(place.data().join("keys"), place.directory.path().join("moved")).expect("moved");
    fs::remove_file(place.keys()).expect("removed");
    fs::rename(place.directory.path().join("moved"), place.keys()).expect("moved");
    let gateway = place.gateway();
    search(&gateway, &key).await;
}

#[tokio::test]
async fn a_rotation_killed_in_its_midst_goes_on_and_users_are_served_all_the_while() {
    const USERS: u64 = 3_000;
    let place = Place::new();
    place.keygen(&[]);
    let gateway = place.gateway();
    let (count, out) = (USERS.to_string(), place.directory.path().join("user-keys"));
    let out = out.to_str().expect("UTF-8");
    let seed =
        ["user", "seed", "--count", &count, "--keys-out", out, "--refresh-token-prefix", "sim-refresh-"];
    place.done(&seed);
    let lines = fs::read_to_string(out).expect("readable");
    let api_keys: Vec<&str> = lines.lines().filter_map(|line| line.split('\t').nth(1)).collect();
    assert_eq!(under(&place.done(&["vault", "status"]), 1), USERS);
    assert!(place.refused(&["vault", "forget", "1"]).contains("current"));

    // The running gateway takes the new version when the rotation begins.
    place.keygen(&["--add"]);
    let rotation = ["vault", "rotate", "--rows", "50"];
    let mut rotating =
        place.command(&rotation).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("runs");
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(rotating.stdout.take().expect("piped")));
    let begun = lines.nth(3).expect("a part is done").expect("UTF-8");
    assert!(begun.contains("keys wrapped anew"), "{begun}");
    let gateway = gateway.crash_and_restart();
    drop(lines);
    assert!(!rotating.wait().expect("it was started").success(), "it ended before the kill");

    let status = place.done(&["vault", "status"]);
    let (old, new) = (under(&status, 1), under(&status, 2));
    assert!(old > 0 && new > 0 && old + new == USERS, "{status}");
    let refused = place.refused(&["vault", "forget", "1"]);
    assert!(refused.contains(&format!("{old} users' keys")), "{refused}");
    // Users of both kinds, some of them while the rotation goes on.
    for key in api_keys.iter().step_by(600) {
        search(&gateway, key).await;
    }
    let again = {
        let command = place.command(&["vault", "rotate", "--rows", "50"]).stdout(Stdio::piped()).spawn();
        let rotating = command.expect("runs");
        for key in api_keys.iter().skip(7).step_by(600) {
            search(&gateway, key).await;
        }
        let output = rotating.wait_with_output().expect("it was started");
        assert!(output.status.success());
        String::from_utf8(output.stdout).expect("UTF-8")
    };
    assert!(again.contains(&format!("{old} keys wrapped anew")), "{again}");
    assert!(again.contains("sluice vault forget 1"), "{again}");
    let status = place.done(&["vault", "status"]);
    assert_eq!((under(&status, 1), under(&status, 2)), (0, USERS), "{status}");
    // Until the old version is forgotten nobody may leave it out.
    let both = fs::read_to_string(place.keys()).expect("readable");
    let newest = both.lines().find(|line| line.starts_with("2:")).expect("a second version");
    gateway.stop();
    fs::write(place.keys(), format!("{newest}\n")).expect("written");
    assert!(place.refused(&["serve"]).contains("master key version 1 is missing (given: 2)"));
    fs::write(place.keys(), &both).expect("written");
    let gateway = place.gateway();
    place.done(&["vault", "forget", "1"]);
    gateway.stop();
    fs::write(place.keys(), format!("{newest}\n")).expect("written");
    let gateway = place.gateway();
    search(&gateway, api_keys[42]).await;
}

/// The archive of a connection as versions without a vault wrote it. All texts have 9 to 63 bytes, so that each stands
/// apart and its length is one byte.
fn connection_v1(user: &UserId, token: &str) -> Vec<u8> {
    let texts = ["olivia@example.com", token, "scopes of mail"];
    let mut value = texts.concat().into_bytes();
    value.resize(value.len().next_multiple_of(8), 0);
    value.extend_from_slice(user.as_bytes());
    value.extend_from_slice(&[1, 0, 0, 0]); // Google
    let mut start = 0;
    for text in texts {
        let length = u8::try_from(text.len()).expect("short");
        assert!((9..64).contains(&length));
        // Where it begins, from here; the archive is far below 2^31 bytes.
        let ahead = i32::try_from(start).expect("small") - i32::try_from(value.len()).expect("small");
        value.extend_from_slice(&[0x80 | length, 0, 0, 0]);
        value.extend_from_slice(&ahead.to_le_bytes());
        start += text.len();
    }
    value.extend_from_slice(&[1, 0, 0, 0]); // active
    value.resize(value.len().next_multiple_of(8), 0);
    value.extend_from_slice(&7u64.to_le_bytes());
    value.push(1); // schema
    value
}

fn open_store(data: &Path) -> Store {
    Store::open(StoreConfig::new(data, ShardCount::new(SHARDS).expect("a count"))).expect("a store")
}

/// Puts users' connections back to how older versions wrote them.
fn unseal(data: &Path, users: &[(UserId, &str)]) {
    let store = open_store(data);
    for (user, token) in users {
        let mut batch = Batch::new(ShardId::of(user, store.shard_count()));
        batch.put(&Key::connection(user, Provider::Google.number()), &connection_v1(user, token));
        store.write_blocking(vec![batch]).expect("written");
    }
}

#[tokio::test]
async fn tokens_that_an_older_version_left_as_they_are_work_and_get_sealed() {
    let place = Place::new();
    place.keygen(&[]);
    let gateway = place.gateway();
    let keys = ["olivia", "marco", "anna"].map(|name| (gateway.user(name), name));
    gateway.stop();
    let users: Vec<UserId> = keys.iter().map(|(key, _)| ApiKey::parse(key).expect("a key").user()).collect();
    let tokens = keys.each_ref().map(|(_, name)| format!("sim-refresh-{name}"));
    let plain: Vec<(UserId, &str)> = users.iter().copied().zip(tokens.iter().map(String::as_str)).collect();
    unseal(&place.data(), &plain);

    let gateway = place.gateway();
    let status = place.done(&["vault", "status"]);
    assert!(status.contains("not sealed   3"), "{status}");
    // One is sealed by being used, the others by the rotation.
    search(&gateway, &keys[0].0).await;
    let status = place.done(&["vault", "status"]);
    assert!(status.contains("not sealed   2"), "{status}");
    let rotated = place.done(&["vault", "rotate"]);
    assert!(rotated.contains("2 secrets sealed"), "{rotated}");
    let status = place.done(&["vault", "status"]);
    assert!(status.contains("not sealed   0"), "{status}");
    let gateway = gateway.stop_and_restart();
    for (key, _) in &keys {
        search(&gateway, key).await;
    }
    assert_eq!(gateway.page().await.sum("sluice_vault_opened_plain_total", &[]), 0);
    assert_eq!(gateway.page().await.sum("sluice_vault_refused_total", &[]), 0);
}

/// Everything that must not show, by what it is.
struct Planted(Vec<(String, Vec<u8>)>);

impl Planted {
    fn add(&mut self, what: &str, secret: &str) {
        assert!(secret.len() >= 12, "{secret:?} may be anywhere by chance");
        self.0.push((what.to_owned(), secret.as_bytes().to_vec()));
        // As it would stand in a form or an address.
        let encoded: String = secret
            .bytes()
            .map(|byte| match byte {
                b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                    char::from(byte).to_string()
                }
                _ => format!("%{byte:02X}"),
            })
            .collect();
        if encoded != secret {
            self.0.push((format!("{what}, encoded"), encoded.into_bytes()));
        }
    }

    /// The secret of a webhook, as its user has it and as the bytes that sign.
    fn add_signing(&mut self, secret: &str) {
        let digits = secret.strip_prefix("whsec_").expect("its form");
        self.add("the secret of a webhook", digits);
        self.0
            .push(("the secret of a webhook, its bytes".to_owned(), BASE64.decode(digits).expect("base64")));
    }

    /// Looks through something for all of them.
    fn assert_not_in(&self, place: &str, bytes: &[u8]) {
        for (what, secret) in &self.0 {
            let at = bytes.windows(secret.len()).position(|window| window == secret);
            assert!(at.is_none(), "{what} is in {place}, at byte {at:?}");
        }
    }
}

/// Every file below a directory.
fn files(directory: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).expect("readable") {
        let path = entry.expect("readable").path();
        let kind = fs::symlink_metadata(&path).expect("there").file_type();
        if kind.is_dir() {
            found.extend(files(&path));
        } else if kind.is_file() {
            let bytes = fs::read(&path).expect("readable");
            found.push((path, bytes));
        }
    }
    found
}

/// What RocksDB's compression may hide from a look at its files.
fn records(data: &Path) -> Vec<Vec<u8>> {
    let store = open_store(data);
    let mut found = Vec::new();
    for shard in store.shard_count().shards() {
        let mut next = Some(KeyRange::prefix(&[]));
        while let Some(range) = next {
            let page = store.scan_blocking(shard, range, usize::MAX, false).expect("readable");
            found.extend(page.rows.into_iter().map(|(_, value)| value.as_bytes().to_vec()));
            next = page.next;
        }
    }
    found
}

const OPENAI_KEY: &str = "sk-planted-0penai/key+4711";
const CLIENT_SECRET: &str = "GOCSPX-planted/client=secret+0815";

/// A run with everything in it that handles secrets, at the most talkative level of the log.
#[tokio::test]
async fn no_secret_shows_in_any_output_nor_in_any_file_of_the_data_directory() {
    let mut plan = tempfile::NamedTempFile::new().expect("a file");
    std::io::Write::write_all(&mut plan, b"[oauth]\nrotate_refresh_tokens = true\n").expect("written");
    let sim = Sim::start(&["--plan", plan.path().to_str().expect("UTF-8")]);
    let place = Place { sim, directory: tempfile::tempdir().expect("a temporary directory") };
    place.keygen(&[]);
    let mut planted = Planted(Vec::new());
    let secrets = |command: &mut Command| {
        command.env("SLUICE_OPENAI__API_KEY", OPENAI_KEY).env("SLUICE_GOOGLE__CLIENT_SECRET", CLIENT_SECRET);
    };
    planted.add("the OpenAI key", OPENAI_KEY);
    planted.add("the client secret", CLIENT_SECRET);
    let start = |log: &str| {
        let log = File::create(place.directory.path().join(log)).expect("a file");
        let options = place.options();
        let options: Vec<&str> = options.iter().map(String::as_str).chain(["log.level=trace"]).collect();
        Gateway::start_with(&place.sim, &place.data(), &options, &[], |command| {
            secrets(command);
            command.stderr(log);
        })
    };
    let gateway = start("first.log");
    let mut said = Vec::new();
    let (olivia, marco) = (gateway.user("olivia"), gateway.user("marco"));
    let caller = Caller::of(&gateway).await;
    caller.done(&olivia, SEARCH_MAIL).await;
    caller.done(&marco, "what's on my calendar tomorrow and show my unread mails").await;
    // Refusals of every kind, with their problem documents.
    let forged = format!("{}x", &olivia[..olivia.len() - 1]);
    for (method, path, key, body) in [
        ("POST", "/api/v1/command", forged.as_str(), "{}"),
        ("POST", "/api/v1/command", "sk_nonsense", "{}"),
        ("POST", "/api/v1/command", olivia.as_str(), "no JSON"),
        ("GET", "/api/v1/nowhere", olivia.as_str(), ""),
    ] {
        let fields =
            [("authorization", format!("Bearer {key}")), ("content-type", "application/json".to_owned())];
        let fields = fields.each_ref().map(|(name, value)| (*name, value.as_str()));
        let answer = caller.send(method, path, &fields, body.to_owned()).await;
        assert!(answer.status.is_client_error(), "{}", answer.status);
        said.push((format!("the answer to {method} {path}"), answer.body.to_vec()));
    }
    // A webhook, and an attempt at it: its secret is shown in the one answer that makes it.
    let fields = [("authorization", &*format!("Bearer {olivia}")), ("content-type", "application/json")];
    let webhook = json!({"url": "https://nowhere.invalid/", "events": ["task.done"]}).to_string();
    let made = caller.send("POST", "/api/v1/webhooks", &fields, webhook).await;
    assert_eq!(made.status.as_u16(), 201, "{:?}", made.body);
    let made = made.value();
    let path = format!("/api/v1/webhooks/{}", made["id"].as_str().expect("an id"));
    planted.add_signing(made["secret"].as_str().expect("a secret"));
    let rotated = caller.send("POST", &format!("{path}/rotate"), &fields, String::new()).await.value();
    planted.add_signing(rotated["secret"].as_str().expect("a secret"));
    caller.done(&olivia, SEARCH_MAIL).await;
    gateway
        .until("an attempt at the webhook", |page| page.sum("sluice_webhook_attempts_failed_total", &[]) > 0)
        .await;
    for path in [path.clone(), format!("{path}/deliveries"), "/api/v1/webhooks".to_owned()] {
        said.push((format!("the answer to {path}"), caller.get(&path, &olivia).await.body.to_vec()));
    }
    // Upstreams that fail and answer nonsense, with tokens fetched anew; and one that takes the grant back.
    gateway.stop();
    let gateway = start("second.log");
    let caller = Caller::of(&gateway).await;
    for service in ["oauth", "openai", "gmail"] {
        for fault in [
            json!({"kind": "garbage"}),
            json!({"kind": "status", "status": 500}),
            json!({"kind": "status", "status": 401}),
        ] {
            let mut fault = fault;
            fault["service"] = json!(service);
            fault["count"] = json!(-1);
            place.sim.fault(fault).await;
            let answer = caller.post(&olivia, &json!({ "command": SEARCH_MAIL })).await;
            said.push((format!("the answer while {service} fails"), answer.body.to_vec()));
            place.sim.clear_faults().await;
        }
    }
    // A session of a browser, and an account connected anew by one: cookies, the link, and what goes by Google.
    let begun = caller.send("POST", "/api/v1/browser-sessions", &fields, "{}").await;
    let cookie =
        begun.field("set-cookie").and_then(|cookie| cookie.split([';', '=']).nth(1)).expect("a cookie");
    planted.add("the cookie of a browser's session", cookie);
    let asked = json!({"services": ["mail"], "login_hint": "olivia"}).to_string();
    let link = caller.send("POST", "/api/v1/connections/google", &fields, asked).await.value();
    let link = link["authorization_url"].as_str().expect("a link").to_owned();
    planted.add("a link to connect an account", link.rsplit('/').next().expect("a part"));
    let mut browser = Browser::new(Caller::of(&gateway).await);
    let google = browser.press(&link).await.field("location").expect("a location").to_owned();
    let consent =
        browser.cookie.clone().and_then(|cookie| cookie.split_once('=').map(|(_, value)| value.to_owned()));
    planted.add("the cookie of a consent", &consent.expect("a cookie"));
    let callback = reqwest::Url::parse(&google_answers(&google, "").await).expect("a URL");
    for (name, value) in callback.query_pairs().filter(|(name, _)| matches!(&**name, "code" | "state")) {
        planted.add(&format!("the {name} of a consent"), &value);
    }
    let page = assert_page(&browser.look(callback.as_str()).await, 200);
    said.push(("the page of a consent".to_owned(), page.into_bytes()));
    place.sim.revoke("marco").await;
    let answer = caller.post(&marco, &json!({ "command": "show my unread mails" })).await;
    said.push(("the answer without a grant".to_owned(), answer.body.to_vec()));
    // Master keys: added, taken, refused; and then another by the same number.
    place.keygen(&["--add"]);
    for arguments in [
        &["vault", "rotate"][..],
        &["vault", "status"],
        &["vault", "forget", "2"],
        &["config", "print"],
        &["user", "list"],
    ] {
        let mut command = place.command(arguments);
        secrets(&mut command);
        let output = command.output().expect("the binary runs");
        said.push((format!("what {arguments:?} prints"), [output.stdout, output.stderr].concat()));
    }
    let gateway = {
        let page = gateway.page().await;
        assert!(page.sum("sluice_vault_sealed_total", &[]) > 0);
        said.push(("the metrics".to_owned(), page.text.into_bytes()));
        gateway.stop();
        start("third.log")
    };
    Caller::of(&gateway).await.done(&olivia, SEARCH_MAIL).await;
    said.push(("what the gateway prints".to_owned(), gateway.stop_and_read().into_bytes()));
    let ours = fs::read_to_string(place.keys()).expect("readable");
    fs::remove_file(place.keys()).expect("removed");
    place.keygen(&[]);
    let others = fs::read_to_string(place.keys()).expect("readable");
    said.push(("the refusal of another key".to_owned(), place.refused(&["serve"]).into_bytes()));
    fs::remove_file(place.keys()).expect("removed");

    for (what, keys) in [("a master key", &ours), ("another master key", &others)] {
        for line in keys.lines() {
            let digits = line.split_once(':').expect("version and key").1;
            planted.add(what, digits);
            let bytes = (0..64)
                .step_by(2)
                .map(|at| u8::from_str_radix(&digits[at..at + 2], 16).expect("hexadecimal"));
            planted.0.push((format!("{what}, its bytes"), bytes.collect()));
        }
    }
    for (name, key) in [("olivia's", &olivia), ("marco's", &marco)] {
        planted.add(&format!("{name} API key"), key);
        let secret = ApiKey::parse(key).expect("a key").secret().to_vec();
        planted.0.push((format!("{name} API key, its secret's bytes"), secret));
    }
    // All the simulator ever gave out begin so: refresh tokens as users were connected with, those that came in their place,
    // and access tokens.
    planted.add("a refresh token", "sim-refresh-");
    planted.0.push(("a refresh token that was given later".to_owned(), b"1//sim".to_vec()));
    planted.0.push(("such a token, encoded".to_owned(), b"1%2F%2Fsim".to_vec()));
    planted.0.push(("an access token".to_owned(), b"ya29.sim.".to_vec()));

    // That the look would find something is shown by what is there.
    let logs = ["first.log", "second.log", "third.log"];
    let logs = logs.map(|name| (name, fs::read(place.directory.path().join(name)).expect("readable")));
    let log_text = logs.each_ref().map(|(_, bytes)| String::from_utf8_lossy(bytes)).concat();
    for expected in ["vault opened", "master keys taken anew", "no access token", "DEBUG"] {
        assert!(log_text.contains(expected), "{expected} is not in the log");
    }
    // People are not named where operators look every day.
    let told = log_text.lines().filter(|line| !line.contains("DEBUG") && !line.contains("TRACE"));
    for line in told {
        assert!(!line.contains("@example.com"), "{line}");
    }
    let data = files(&place.data());
    let everything: Vec<u8> = data.iter().flat_map(|(_, bytes)| bytes).copied().collect();
    assert!(everything.windows(18).any(|window| window == b"olivia@example.com"));
    let records = records(&place.data());
    assert!(records.len() > 10);

    for (what, bytes) in &said {
        planted.assert_not_in(what, bytes);
    }
    for (name, bytes) in &logs {
        planted.assert_not_in(name, bytes);
    }
    for (path, bytes) in &data {
        planted.assert_not_in(&path.display().to_string(), bytes);
    }
    for (number, bytes) in records.iter().enumerate() {
        planted.assert_not_in(&format!("record {number}"), bytes);
    }
}

/// The line of a process's limits on core files: soft, then hard.
fn core_limits(pid: &str) -> Vec<String> {
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).expect("readable");
    let line = limits.lines().find_map(|line| line.strip_prefix("Max core file size"));
    line.expect("a line").split_whitespace().take(2).map(str::to_owned).collect()
}

#[test]
fn a_gateway_may_write_no_core_file_unless_it_is_told_to() {
    let place = Place::new();
    place.keygen(&[]);
    let gateway = place.gateway();
    assert_eq!(core_limits(&gateway.pid().to_string()), ["0", "0"]);
    gateway.stop();
    let options = place.options();
    let options: Vec<&str> = options.iter().map(String::as_str).chain(["vault.core_dumps=true"]).collect();
    let gateway = Gateway::start(&place.sim, &place.data(), &options);
    assert_eq!(core_limits(&gateway.pid().to_string()), core_limits("self"));
}
