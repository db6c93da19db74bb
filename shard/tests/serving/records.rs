//! Sessions begun on their own, preferences and the history, on a real core and store.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use crate::common::{DAY_MS, Gateway, START_MS, User, World, body, config, problem};
use serde_json::{Value, json};
use sluice_protocols::http::Response;
use sluice_protocols::problem::ProblemKind;
use sluice_shard::ShardConfig;
use sluice_store::{KeyRange, Kind};

const SESSIONS: &str = "/api/v1/sessions";
const PREFERENCES: &str = "/api/v1/preferences";
const HISTORY: &str = "/api/v1/history";

fn copy(user: &User) -> User {
    User { id: user.id, key: user.key.clone() }
}

impl Gateway {
    async fn begin(&self, user: &User) -> String {
        let response = self.send(user.head("POST", SESSIONS), "").await;
        assert_eq!(response.status, 201, "{response:?}");
        let id = body(&response)["id"].as_str().unwrap().to_owned();
        assert_eq!(response.header("location"), Some(&*format!("{SESSIONS}/{id}")));
        id
    }

    async fn prefer(&self, user: &User, fields: &[(&str, &str)], patch: &Value) -> Response {
        let head = user.head("PATCH", PREFERENCES).with("content-type", "application/merge-patch+json");
        let head = fields.iter().fold(head, |head, (name, value)| head.with(name, value));
        self.send(head, &patch.to_string()).await
    }

    /// All of a list, page by page: the value of a member of each entry, and the number of pages.
    async fn pages(&self, user: &User, path: &str, list: &str, member: &str) -> (Vec<String>, usize) {
        let (mut all, mut pages, mut next) = (Vec::new(), 0, Some(path.to_owned()));
        while let Some(path) = next {
            let response = self.get(user, &path).await;
            assert_eq!(response.status, 200, "{path}: {response:?}");
            let page = body(&response);
            all.extend(
                page[list].as_array().unwrap().iter().map(|entry| entry[member].as_str().unwrap().to_owned()),
            );
            let link = response.header("link").map(|link| {
                let link = link.strip_prefix('<').unwrap().strip_suffix(">; rel=\"next\"").unwrap();
                assert!(link.ends_with(page["next"].as_str().unwrap()), "{link}");
                link.to_owned()
            });
            assert_eq!(link.is_some(), page["next"].is_string());
            pages += 1;
            next = link;
        }
        (all, pages)
    }
}

#[test]
fn a_session_that_was_begun_outlives_a_kill_and_is_the_one_that_commands_go_on_with() {
    let world = World::new();
    let anna = world.user("anna");
    let again = copy(&anna);
    let begun = Rc::new(RefCell::new(String::new()));
    let seen = Rc::clone(&begun);
    world.run(config(), |gateway| async move {
        let old = body(&gateway.command(&anna, json!({"command": "one"})).await)["session"].clone();
        let new = gateway.begin(&anna).await;
        let view = body(&gateway.get(&anna, &format!("{SESSIONS}/{new}")).await);
        assert_eq!((&view["id"], &view["turns"]), (&json!(new), &json!([])));
        let next = body(&gateway.command(&anna, json!({"command": "two"})).await);
        assert_eq!((&next["session"], &next["answer"]), (&json!(new), &json!("after []")));
        // The old one goes on when it is named.
        let named = body(&gateway.command(&anna, json!({"command": "three", "session": old})).await);
        assert_eq!(named["answer"], "after [one]");
        *seen.borrow_mut() = gateway.begin(&anna).await;
    });
    world.run(config(), |gateway| async move {
        let next = body(&gateway.command(&again, json!({"command": "four"})).await);
        assert_eq!(next["session"], begun.take());
    });
}

#[test]
fn the_list_has_the_living_sessions_alone_newest_first_and_page_by_page() {
    let world = World::new();
    let (anna, bert) = (world.user("anna"), world.user("bert"));
    world.run(config(), |gateway| async move {
        let over = gateway.begin(&anna).await;
        gateway.clock.set(START_MS + DAY_MS);
        let mut begun = Vec::new();
        for _ in 0..5 {
            begun.insert(0, gateway.begin(&anna).await);
        }
        let ended = begun.remove(2);
        let path = format!("{SESSIONS}/{ended}");
        assert_eq!(gateway.send(anna.head("DELETE", &path), "").await.status, 204);
        gateway.begin(&bert).await;
        let (all, pages) = gateway.pages(&anna, &format!("{SESSIONS}?limit=3"), "sessions", "id").await;
        assert_eq!((all, pages), (begun.clone(), 2));
        assert!(!begun.contains(&over));
        // One whose first command is on its way is there, and one whose command has ended counts it.
        let newest = begun[0].clone();
        gateway.command(&anna, json!({"command": "x", "session": newest})).await;
        gateway.accepted(&bert, "hold it").await;
        let page = body(&gateway.get(&anna, SESSIONS).await);
        assert_eq!((&page["sessions"][0]["commands"], &page["next"]), (&json!(1), &Value::Null));
        // Another's cursor, and another list's, are none.
        let cursor = body(&gateway.get(&anna, &format!("{SESSIONS}?limit=1")).await)["next"].clone();
        let cursor = cursor.as_str().unwrap();
        let foreign = gateway.get(&bert, &format!("{SESSIONS}?cursor={cursor}")).await;
        assert_eq!(problem(&foreign).errors()[0].pointer, "/cursor");
        assert_eq!(gateway.get(&anna, &format!("/api/v1/tasks?cursor={cursor}")).await.status, 422);
        assert_eq!(gateway.get(&anna, &format!("{SESSIONS}?state=done")).await.status, 422);
    });
}

#[test]
fn a_session_whose_first_command_is_on_its_way_is_in_the_list() {
    let world = World::new();
    let anna = world.user("anna");
    world.run(config(), |gateway| async move {
        let (_, session) = gateway.accepted(&anna, "hold it").await;
        let page = body(&gateway.get(&anna, SESSIONS).await);
        assert_eq!(
            (&page["sessions"][0]["id"], &page["sessions"][0]["commands"]),
            (&json!(session), &json!(0))
        );
    });
}

#[test]
fn sessions_are_begun_up_to_a_hundred_even_at_once_and_no_further() {
    let world = World::new();
    let anna = world.user("anna");
    world.run(config(), |gateway| async move {
        let answers: Vec<_> = (0..105).map(|_| gateway.send(anna.head("POST", SESSIONS), "")).collect();
        let mut statuses = Vec::new();
        for answer in answers {
            statuses.push(answer.await.status);
        }
        assert_eq!(statuses.iter().filter(|status| **status == 201).count(), 100, "{statuses:?}");
        let refused = gateway.send(anna.head("POST", SESSIONS), "").await;
        assert_eq!(problem(&refused).kind(), ProblemKind::Conflict);
        assert_eq!(gateway.metric("sluice_sessions_refused_total{core=\"0\"}"), 6);
        // Commands are not refused, and those that expire make room and leave nothing behind.
        assert_eq!(gateway.command(&anna, json!({"command": "x"})).await.status, 200);
        gateway.clock.set(START_MS + DAY_MS);
        gateway.begin(&anna).await;
        gateway.settle().await;
    });
    let shards = world.store.shard_count().shards();
    let rows =
        shards.map(|shard| world.store.scan_blocking(shard, KeyRange::kind(Kind::Session), 999, false));
    assert_eq!(rows.map(|page| page.unwrap().rows.len()).sum::<usize>(), 1);
}

#[test]
fn preferences_outlive_a_kill_and_are_changed_only_by_who_saw_them_last() {
    let world = World::new();
    let anna = world.user("anna");
    let again = copy(&anna);
    world.run(config(), |gateway| async move {
        let unset = gateway.get(&anna, PREFERENCES).await;
        assert_eq!(
            body(&unset),
            json!({"time_zone": null, "language": null, "priority": null, "confirm": [], "custom": {}, "updated": null})
        );
        let first = unset.header("etag").unwrap().to_owned();
        let patch = json!({"time_zone": "Asia/Tokyo", "custom": {"theme": {"dark": true}, "a": 1}});
        let changed = gateway.prefer(&anna, &[("if-match", &first)], &patch).await;
        assert_eq!(changed.status, 200, "{changed:?}");
        let second = changed.header("etag").unwrap().to_owned();
        assert_ne!(first, second);
        // Who saw the state before is refused, and nothing of theirs is written.
        let late = gateway.prefer(&anna, &[("if-match", &first)], &json!({"time_zone": null})).await;
        assert_eq!(problem(&late).kind(), ProblemKind::PreconditionFailed);
        // What changes nothing leaves the version as it is.
        let same = gateway.prefer(&anna, &[("if-match", &second)], &json!({"custom": {"a": 1, "b": null}})).await;
        assert_eq!((same.status, same.header("etag")), (200, Some(&*second)));
        let known = gateway.send(anna.head("GET", PREFERENCES).with("if-none-match", &second), "").await;
        assert_eq!((known.status, known.body.len(), known.header("etag")), (304, 0, Some(&*second)));
    });
    world.run(config(), |gateway| async move {
        let view = body(&gateway.get(&again, PREFERENCES).await);
        assert_eq!(view["time_zone"], "Asia/Tokyo");
        assert_eq!(view["custom"], json!({"theme": {"dark": true}, "a": 1}));
    });
}

#[test]
fn changes_at_the_same_moment_all_count() {
    let world = World::new();
    let anna = world.user("anna");
    world.run(config(), |gateway| async move {
        let gateway_of = |number: usize| {
            let head = anna.head("PATCH", PREFERENCES).with("content-type", "application/merge-patch+json");
            let mut custom = serde_json::Map::new();
            custom.insert(format!("n{number}"), json!(number));
            gateway.send(head, &json!({"custom": custom}).to_string())
        };
        let answers: Vec<_> = (0..20).map(gateway_of).collect();
        for answer in answers {
            assert_eq!(answer.await.status, 200);
        }
        let view = body(&gateway.get(&anna, PREFERENCES).await);
        assert_eq!(view["custom"].as_object().unwrap().len(), 20, "{view}");
    });
}

#[test]
fn what_is_no_preference_is_refused_with_its_place() {
    let world = World::new();
    let anna = world.user("anna");
    world.run(config(), |gateway| async move {
        let patch = json!({"time_zone": "Europe/Atlantis", "language": "de"});
        let refused = problem(&gateway.prefer(&anna, &[], &patch).await);
        assert_eq!((refused.status(), &*refused.errors()[0].pointer), (422, "/time_zone"));
        let unknown = problem(&gateway.prefer(&anna, &[], &json!({"colour": "red", "confirm": ["x"]})).await);
        let pointers: Vec<_> = unknown.errors().iter().map(|error| error.pointer.as_str()).collect();
        assert_eq!(pointers, ["/colour", "/confirm/0"]);
        let head = anna.head("PATCH", PREFERENCES).with("content-type", "text/plain");
        assert_eq!(gateway.send(head, "{}").await.status, 415);
        // Nothing of what was refused is there.
        assert_eq!(body(&gateway.get(&anna, PREFERENCES).await)["updated"], Value::Null);
    });
}

#[test]
fn a_command_that_does_not_say_takes_what_its_user_prefers_at_once_and_after_an_hour() {
    let world = World::new();
    let (anna, bert) = (world.user("anna"), world.user("bert"));
    let mut config = config();
    // So that the cache forgets at once.
    config.run.preferences_life = Duration::ZERO;
    let config: ShardConfig = config;
    let again = copy(&anna);
    let run = |config: ShardConfig, anna: User, bert: User| {
        world.run(config, |gateway| async move {
            let task = async |user: &User, fields: Value| {
                let response = gateway.command(user, fields).await;
                assert_eq!(response.status, 202, "{response:?}");
                body(&response)["id"].as_str().unwrap().to_owned()
            };
            // Read before it is changed, so that what was remembered would be wrong.
            task(&anna, json!({"command": "x", "mode": "async"})).await;
            let patch = json!({"time_zone": "Asia/Tokyo", "priority": "batch"});
            assert_eq!(gateway.prefer(&anna, &[], &patch).await.status, 200);
            let plain = json!({"command": "hold it", "mode": "async"});
            let said = json!({"command": "hold it", "mode": "async", "priority": "high", "time_zone": "UTC"});
            for (user, fields, priority) in
                [(&anna, &plain, "batch"), (&anna, &said, "high"), (&bert, &plain, "normal")]
            {
                let task = task(user, fields.clone()).await;
                let view = body(&gateway.get(user, &format!("/api/v1/tasks/{task}")).await);
                assert_eq!(view["priority"], priority);
            }
            let batch = json!({"commands": [{"command": "hold it"}]}).to_string();
            let head = anna.head("POST", "/api/v1/commands").with("content-type", "application/json");
            let item = body(&gateway.send(head, &batch).await)["items"][0]["task"]["id"].clone();
            let view = body(&gateway.get(&anna, &format!("/api/v1/tasks/{}", item.as_str().unwrap())).await);
            assert_eq!(view["priority"], "batch");
            assert_eq!(
                gateway.prefer(&anna, &[], &json!({"priority": null, "time_zone": null})).await.status,
                200
            );
        });
    };
    run(crate::common::config(), anna, copy(&bert));
    run(config, again, bert);
    let zones: Vec<_> = world
        .tasks_on_disk(Kind::TaskPending)
        .into_iter()
        .filter(|task| task.command == "hold it")
        .map(|task| task.time_zone)
        .collect();
    let count = |zone: &str| zones.iter().filter(|known| *known == zone).count();
    assert_eq!((count("Asia/Tokyo"), count("UTC"), count("Europe/Berlin")), (4, 2, 2), "{zones:?}");
}

#[test]
fn the_history_is_told_newest_first_over_months_and_no_entry_twice() {
    let world = World::new();
    let (anna, bert) = (world.user("anna"), world.user("bert"));
    let again = copy(&anna);
    world.run(config(), |gateway| async move {
        let mut expected = Vec::new();
        for month in 0..4_u64 {
            gateway.clock.set(START_MS + month * 30 * DAY_MS);
            for number in 0..3 {
                let command = format!("month{month} number {number}");
                assert_eq!(gateway.command(&anna, json!({"command": command})).await.status, 200);
                expected.insert(0, command);
            }
        }
        gateway.command(&bert, json!({"command": "mine"})).await;
        let (all, pages) = gateway.pages(&anna, &format!("{HISTORY}?limit=5"), "entries", "command").await;
        assert_eq!((all, pages), (expected.clone(), 3));
        // A span of time, whose edges are exact.
        let at = |ms: u64| jiff::Timestamp::from_millisecond(i64::try_from(ms).unwrap()).unwrap();
        let (from, to) = (at(START_MS + 30 * DAY_MS), at(START_MS + 60 * DAY_MS));
        let read = gateway.metric("sluice_history_read_total{core=\"0\"}");
        let span = format!("{HISTORY}?from={from}&to={to}");
        let (months, _) = gateway.pages(&anna, &span, "entries", "command").await;
        assert_eq!(months, expected[6..9]);
        assert_eq!(
            gateway.metric("sluice_history_read_total{core=\"0\"}") - read,
            3,
            "other months are not looked at"
        );
        let (words, _) =
            gateway.pages(&anna, &format!("{HISTORY}?text=NUMBER+2&limit=1"), "entries", "command").await;
        assert_eq!(words, [&*expected[0], &expected[3], &expected[6], &expected[9]]);
        // A cursor is good for its filter and user alone.
        let cursor = body(&gateway.get(&anna, &format!("{HISTORY}?limit=1")).await)["next"].clone();
        let cursor = cursor.as_str().unwrap();
        assert_eq!(gateway.get(&anna, &format!("{HISTORY}?text=x&cursor={cursor}")).await.status, 422);
        assert_eq!(gateway.get(&bert, &format!("{HISTORY}?cursor={cursor}")).await.status, 422);
        assert_eq!(body(&gateway.get(&bert, HISTORY).await)["entries"].as_array().unwrap().len(), 1);
    });
    world.run(config(), |gateway| async move {
        let (all, _) = gateway.pages(&again, &format!("{HISTORY}?state=done"), "entries", "command").await;
        assert_eq!(all.len(), 12);
        assert!(
            gateway.pages(&again, &format!("{HISTORY}?state=failed"), "entries", "task").await.0.is_empty()
        );
    });
}

#[test]
fn a_search_of_what_is_rare_looks_at_a_bounded_number_of_entries_and_goes_on() {
    let world = World::new();
    let anna = world.user("anna");
    // More than one page looks at (1,024), written as the end of a task writes them.
    let shard = sluice_protocols::ids::ShardId::of(&anna.id, world.store.shard_count());
    let mut batch = sluice_store::Batch::new(shard);
    for number in 0..1_200_u64 {
        let task = sluice_protocols::ids::TaskId::new(START_MS + number, [1; 10]);
        let record = sluice_store::record::HistoryRecord {
            task,
            at_ms: START_MS + number,
            command: if number == 3 { "the needle".to_owned() } else { "hay".to_owned() },
            state: 3,
            answer: None,
            services: if number == 3 { 2 } else { 1 },
            operations: vec![if number == 3 { "calendar.create" } else { "gmail.search" }.to_owned()],
        };
        batch.put_record(&sluice_store::Key::history(&anna.id, START_MS + number, &task), &record).unwrap();
    }
    world.store.write_blocking(vec![batch]).unwrap();
    world.run(config(), |gateway| async move {
        for filter in ["text=needle", "intent=calendar.create", "service=calendar"] {
            let read = gateway.metric("sluice_history_read_total{core=\"0\"}");
            let first = body(&gateway.get(&anna, &format!("{HISTORY}?{filter}")).await);
            assert_eq!(first["entries"], json!([]));
            assert_eq!(gateway.metric("sluice_history_read_total{core=\"0\"}") - read, 1_024);
            let path = format!("{HISTORY}?{filter}&cursor={}", first["next"].as_str().unwrap());
            let second = body(&gateway.get(&anna, &path).await);
            assert_eq!(
                (&second["entries"][0]["command"], &second["next"]),
                (&json!("the needle"), &Value::Null)
            );
            assert_eq!(second["entries"][0]["services"], json!(["calendar"]));
            assert_eq!(second["entries"][0]["operations"], json!(["calendar.create"]));
        }
    });
}
