//! Erasures that break off behind every step, and what is left of a user.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::path::Path;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc;
use std::time::Duration;

use sluice_net::egress::{Egress, EgressConfig, PerUpstream, UpstreamConfig};
use sluice_protocols::access::Role;
use sluice_protocols::api::{Identity, NewUser};
use sluice_protocols::ids::{SessionId, ShardCount, TaskId};
use sluice_store::record::{HistoryRecord, LimitRecord, PreferencesRecord, WorkflowRecord};
use sluice_store::vault::Keyring;
use sluice_store::{Store, StoreConfig, Vault, audit};

use zeroize::Zeroizing;

use super::super::{RevocationClient, Revoker};
use super::*;

/// In every text of the user's.
const MARK: &str = "zqxmarkzqx";

fn open(directory: &Path) -> Admin {
    let keys = "1:7f1c6f0d3a5b9e2480c1d7e6f5a4b3928170615243342516f708e9dacbbcad9e";
    let store = Store::open(StoreConfig::new(directory.join("data"), ShardCount::new(8).unwrap())).unwrap();
    let vault = Vault::open(&store, Keyring::parse(keys).unwrap()).unwrap();
    Admin::new(store, vault)
}

fn person(name: &str) -> NewUser {
    NewUser {
        name: name.to_owned(),
        email: format!("{name}@example.com"),
        time_zone: None,
        role: Role::User,
        identity: Some(Identity { issuer: "https://id.example.com".to_owned(), subject: name.to_owned() }),
    }
}

/// A user with records of many kinds.
fn plant(admin: &Admin, name: &str) -> UserId {
    let user = admin.make_user(&person(name)).unwrap().id;
    admin.create_key(&user, MARK).unwrap();
    admin.connect_google(&user, &format!("refresh-{MARK}"), &format!("{name}@example.com"), "").unwrap();
    admin.set_limit(&user, &LimitRecord { per_minute: Some(5), ..LimitRecord::default() }).unwrap();
    let mut batch = Batch::new(admin.shard_of(&user));
    let custom_json = format!("{{\"note\":\"{MARK}\"}}");
    let preferences = PreferencesRecord {
        user,
        updated_ms: 1,
        time_zone: None,
        language: None,
        priority: 0,
        confirm: Vec::new(),
        custom_json,
    };
    batch.put_record(&Key::preferences(&user), &preferences).unwrap();
    let workflow = WorkflowRecord {
        user,
        name: MARK.to_owned(),
        version: 1,
        created_ms: 1,
        updated_ms: 1,
        definition_json: "{}".to_owned(),
    };
    batch.put_record(&Key::workflow(&user, MARK).unwrap(), &workflow).unwrap();
    batch.put_record(&Key::workflow_version(&user, MARK, 1).unwrap(), &workflow).unwrap();
    // More than a page.
    for number in 0..600_u64 {
        let task = TaskId::new(1_000 + number, [7; 10]);
        let history = HistoryRecord {
            task,
            at_ms: 1_000 + number,
            command: format!("{MARK} {number}"),
            state: 3,
            answer: None,
            services: 0,
            operations: Vec::new(),
        };
        batch.put_record(&Key::history(&user, history.at_ms, &task), &history).unwrap();
    }
    // What cannot be read goes as well, and so does the copy that is made when somebody tries to.
    let damaged = Key::session(&user, &SessionId::from_bytes([5; 16]));
    // With a schema there is, behind bytes that are no record.
    batch.put(&damaged, &[MARK.as_bytes(), &[2]].concat());
    admin.store.write_blocking(vec![batch]).unwrap();
    let read =
        admin.store.load_blocking::<sluice_store::record::SessionRecord>(admin.shard_of(&user), &damaged);
    assert!(matches!(read, Err(ReadError::Quarantined { .. })), "{read:?}");
    user
}

/// How many records are a user's, whatever the kind.
fn left(admin: &Admin, user: &UserId, name: &str) -> usize {
    let mut left = 0;
    for shard in admin.store.shard_count().shards() {
        for kind in Kind::all() {
            let mut next = Some(KeyRange::kind(kind));
            while let Some(range) = next {
                let page = admin.store.scan_blocking(shard, range, 1_000, false).unwrap();
                left += page.rows.iter().filter(|(key, _)| key.owner() == Some(*user)).count();
                next = page.next;
            }
        }
    }
    let leads = [name.to_owned(), format!("{name}@example.com")];
    left + leads.iter().filter(|text| admin.find_user(text).unwrap().is_some()).count()
}

fn told(admin: &Admin, user: &UserId) -> Vec<(String, String, String)> {
    let page = audit::page(&admin.store, admin.shard_of(user), 0).unwrap();
    assert!(page.is_last);
    let events = page.entries.into_iter().map(|entry| entry.event);
    let erasures =
        events.filter(|event| event.act == "user.erase" && event.object.starts_with(&user.to_string()));
    erasures.map(|event| (event.actor, event.outcome, event.object)).collect()
}

/// Whether a text stands in any file.
fn is_in_files(directory: &Path, text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(is_in_files(&path, text));
        } else if std::fs::read(&path).unwrap().windows(text.len()).any(|window| window == text.as_bytes()) {
            found.push(path.display().to_string());
        }
    }
    found
}

#[test]
fn an_erasure_that_breaks_off_behind_any_step_is_done_to_its_end_by_the_next_start() {
    let steps = [Step::Mark, Step::GiveBack, Step::DataKey, Step::Names]
        .into_iter()
        .chain([Kind::User, Kind::Session, Kind::History, Kind::Limit].map(|kind| Step::Records(kind.byte())))
        .chain([Step::User, Step::Files, Step::Proof]);
    for step in steps {
        let directory = tempfile::tempdir().unwrap();
        let admin = open(directory.path());
        let anna = plant(&admin, "anna");
        let bert = plant(&admin, "bert");
        let berts = left(&admin, &bert, "bert");
        admin.erase_up_to(&anna, " ANNA", step).unwrap();
        drop(admin);
        let admin = open(directory.path());
        if step < Step::User {
            let found = admin.find_user("anna").unwrap();
            assert!(found.is_none_or(|anna| anna.disabled), "{step:?}");
            let refused = admin.create_key(&anna, "");
            assert!(matches!(refused, Err(AdminError::Erasing { .. })), "{step:?}: {refused:?}");
        }
        assert_eq!(admin.resume_erasures().unwrap(), usize::from(step < Step::Proof), "{step:?}");
        assert_eq!(admin.resume_erasures().unwrap(), 0);
        assert_eq!(left(&admin, &anna, "anna"), 0, "{step:?}");
        assert_eq!(left(&admin, &bert, "bert"), berts, "{step:?}");
        assert!(matches!(admin.erase_user(&anna, "anna"), Err(AdminError::NoSuchUser { .. })));
        let told = told(&admin, &anna);
        let [(asker, begun, _), (prover, done, proof)] = &*told else { panic!("{step:?}: {told:?}") };
        let last = if step == Step::Proof { "operator" } else { "gateway" };
        assert_eq!((&**asker, &**begun, &**prover, &**done), ("operator", "begun", last, "done"));
        // Each record was counted once, whichever process removed it.
        let counted = "user=1 key=1 connection=1 session=1 history=600 name=2 workflow=1 workflow-version=1 \
             preferences=1 data-key=1 identity=1 limit=1 quarantine=1 unrevoked=1";
        assert_eq!(*proof, format!("{anna} {counted}"), "{step:?}");
        for shard in admin.store.shard_count().shards() {
            assert_eq!(audit::verify(&admin.store, shard, &[]).unwrap().fault, None);
        }
        // The name and the identity are free.
        let again = admin.make_user(&person("anna")).unwrap().id;
        assert_ne!(again, anna);
    }
}

#[test]
fn nothing_of_a_user_is_written_or_found_in_any_file_after_their_erasure() {
    let directory = tempfile::tempdir().unwrap();
    let admin = open(directory.path());
    let anna = plant(&admin, MARK);
    let wrong = admin.erase_user(&anna, "bert");
    assert!(matches!(wrong, Err(AdminError::OtherName)), "{wrong:?}");
    assert!(told(&admin, &anna).is_empty());
    admin.store.flush_blocking().unwrap();
    assert!(!is_in_files(directory.path(), MARK).is_empty(), "there is something to be found");
    admin.erase_user(&anna, MARK).unwrap();
    // What a core had in hand comes late.
    let mut late = Batch::new(admin.shard_of(&anna));
    late.put(&Key::session(&anna, &SessionId::from_bytes([6; 16])), MARK.as_bytes());
    admin.store.write_blocking(vec![late]).unwrap();
    assert_eq!(admin.store.stats().commit.held_back.get(), 1);
    assert_eq!(left(&admin, &anna, MARK), 0);
    drop(admin);
    // Keys at the edges of tables stand in the manifest until the next start writes it anew.
    let beside = is_in_files(directory.path(), MARK);
    assert!(beside.iter().all(|path| path.contains("MANIFEST")), "{beside:?}");
    drop(open(directory.path()));
    assert_eq!(is_in_files(directory.path(), MARK), [""; 0]);
}

/// An endpoint that answers each request with this status, or with nothing, and tells the bodies of those that came.
fn endpoint(status: Option<u16>) -> (String, mpsc::Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (tell, told) = mpsc::channel();
    std::thread::spawn(move || {
        let mut open = Vec::new();
        while let Ok((mut stream, _)) = listener.accept() {
            let mut text = String::new();
            let mut piece = [0; 4_096];
            while !text.contains("client_secret=") {
                match stream.read(&mut piece) {
                    Ok(count) if count > 0 => text += &String::from_utf8_lossy(&piece[..count]),
                    _ => break,
                }
            }
            let _ = tell.send(text.rsplit("\r\n").next().unwrap_or_default().to_owned());
            if let Some(status) = status {
                let _ =
                    write!(stream, "HTTP/1.1 {status} X\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
            } else {
                // It is left without an answer.
                open.push(stream);
            }
        }
    });
    (url, told)
}

/// Operations that tell this endpoint.
fn telling(admin: Admin, url: &str) -> (Admin, Egress) {
    let upstream = || UpstreamConfig::new(url);
    let config = EgressConfig::new(PerUpstream {
        openai: upstream(),
        oauth: UpstreamConfig::new(format!("{url}/token")),
        gmail: upstream(),
        calendar: upstream(),
        drive: upstream(),
    });
    let egress = Egress::start(config).unwrap();
    let client = RevocationClient {
        url: format!("{url}/revoke"),
        client_id: "client".to_owned(),
        client_secret: Zeroizing::new("secret".to_owned()),
    };
    (admin.with_revoker(Revoker::new(egress.clone(), client)), egress)
}

#[test]
fn what_a_user_connected_is_given_back_before_it_cannot_be_any_more() {
    let (url, asked) = endpoint(Some(200));
    let directory = tempfile::tempdir().unwrap();
    let (admin, egress) = telling(open(directory.path()), &url);
    let anna = plant(&admin, "anna");
    let user = admin.user(&anna).unwrap().unwrap();
    let erased = admin.erase_user(&anna, &user.name).unwrap();
    assert_eq!(erased.revoked, Revoked { done: 1, failed: 0 });
    let form = asked.try_recv().unwrap();
    assert!(form.starts_with(&format!("token=refresh-{MARK}&")), "{form}");
    assert!(asked.try_recv().is_err(), "once");
    let told = told(&admin, &anna);
    assert!(told[1].2.ends_with(" revoked=1"), "{told:?}");
    let stats = admin.revoker_stats();
    assert_eq!((stats.revoked.load(Relaxed), stats.unrevoked.load(Relaxed)), (1, 0));
    egress.shutdown(Duration::ZERO);
}

#[test]
fn an_erasure_goes_on_when_google_fails_or_says_nothing() {
    for status in [Some(503), None] {
        let (url, asked) = endpoint(status);
        let directory = tempfile::tempdir().unwrap();
        let (admin, egress) = telling(open(directory.path()), &url);
        let anna = plant(&admin, "anna");
        let erased = admin.erase_user(&anna, "anna").unwrap();
        assert_eq!(erased.revoked, Revoked { done: 0, failed: 1 }, "{status:?}");
        assert!(asked.try_recv().is_ok(), "it was tried");
        assert_eq!(left(&admin, &anna, "anna"), 0);
        assert!(told(&admin, &anna)[1].2.ends_with(" unrevoked=1"));
        assert_eq!(admin.revoker_stats().unrevoked.load(Relaxed), 1);
        egress.shutdown(Duration::ZERO);
    }
}

#[test]
fn an_erasure_that_broke_off_behind_its_giving_back_does_not_tell_google_again() {
    let (url, asked) = endpoint(Some(200));
    let directory = tempfile::tempdir().unwrap();
    let (admin, egress) = telling(open(directory.path()), &url);
    let anna = plant(&admin, "anna");
    admin.erase_up_to(&anna, "anna", Step::GiveBack).unwrap();
    assert_eq!(admin.resume_erasures().unwrap(), 1);
    assert_eq!(asked.try_iter().count(), 1);
    assert!(told(&admin, &anna)[1].2.ends_with(" revoked=1"));
    egress.shutdown(Duration::ZERO);
}

#[test]
fn an_export_holds_everything_and_no_secret() {
    let directory = tempfile::tempdir().unwrap();
    let admin = open(directory.path());
    let (anna, bert) = (plant(&admin, "anna"), plant(&admin, "bert"));
    let key = admin.create_key(&anna, "another").unwrap();
    let (mut place, mut lines) = (None, String::new());
    loop {
        let page = admin.export_page(&anna, place).unwrap();
        lines.push_str(&page.lines);
        match page.next {
            Some(next) => place = Some(next),
            None => break,
        }
    }
    let lines: Vec<serde_json::Value> =
        lines.lines().map(|line| serde_json::from_str(line).expect("a JSON line")).collect();
    let count = |kind: &str| lines.iter().filter(|line| line["kind"] == kind).count();
    assert_eq!((&lines[0]["kind"], &lines.last().unwrap()["kind"]), (&"export".into(), &"end".into()));
    assert_eq!((count("history"), count("key"), count("identity"), count("workflow")), (600, 2, 1, 1));
    assert!(lines.iter().any(|line| line["kind"] == "session" && line["unreadable"].is_string()));
    let text = format!("{lines:?}");
    assert!(!text.contains("refresh-") && !text.contains(&bert.to_string()) && !text.contains("bert"));
    let hash: String = crate::auth::secret_hash(&key).iter().map(|byte| format!("{byte:02x}")).collect();
    assert!(!text.contains(&hash) && !text.contains(&key.expose()[..40]));
    let exports =
        |page: audit::AuditPage| page.entries.iter().filter(|entry| entry.event.act == "user.export").count();
    assert_eq!(exports(audit::page(&admin.store, admin.shard_of(&anna), 0).unwrap()), 1);
}
