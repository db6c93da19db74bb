//! What is urgent comes first, and nothing starves, through the real binary.
//!
//! Nothing here looks at a clock: the simulator holds commands where a test wants them, and the order of starts is read from
//! the order in which events were made, one task running at a time. `./dev bench priority` measures the wait of urgent
//! commands on a core that batch work keeps busy.

mod common;

use common::Gateway;
use common::asker::{Asker, text};
use common::metrics::Metrics;
use common::scene::{Effects, Scene};
use serde_json::{Value, json};

/// Commands that run at once on the core, in the test of places, and what batch work may have of them.
const PLACES: u64 = 8;
const BATCH_PLACES: u64 = 6;

/// A user whose events all go to one account, so that their order is seen.
fn user_of_account(gateway: &Gateway, name: &str) -> String {
    let email = format!("{name}@example.com");
    gateway.admin(&["user", "add", name, "--email", &email, "--time-zone", "Europe/Berlin"]);
    gateway.admin(&["user", "connect", name, "--refresh-token", "sim-refresh-ada"]);
    gateway.admin(&["key", "add", name])
}

fn of(page: &Metrics, gauge: &str, priority: &str) -> u64 {
    page.sum(gauge, &[("priority", priority)])
}

#[tokio::test]
async fn starts_follow_the_stated_round_and_users_of_a_priority_take_turns() {
    // Each with its users, commands of each user, and how many starts of others may come before its next.
    const LOAD: [(&str, usize, usize, usize); 3] =
        [("high", 3, 10, 2), ("normal", 3, 4, 5), ("batch", 2, 3, 20)];
    let scene =
        Scene::start(1, &["limits.tasks_running_per_core_max=1", "limits.tasks_running_per_user_max=1"]);
    // The core's one place is taken until all have lined up.
    scene.sim.fault(json!({"service": "openai", "kind": "hang", "count": 1})).await;
    let gate = Asker::of(&scene.gateway, &scene.gateway.user("gate")).await;
    let first = gate.queue(&json!({"command": "find the file about the roadmap", "priority": "batch"})).await;
    gate.until(&first["id"], "running").await;
    let mut promised = Vec::new();
    for (priority, users, commands, _) in LOAD {
        for user in 0..users {
            let key = user_of_account(&scene.gateway, &format!("{priority}{user}"));
            let asker = Asker::of(&scene.gateway, &key).await;
            let mut tasks = Vec::new();
            for number in 0..commands {
                let command =
                    format!("create an event called Review {priority}{user}n{number} tomorrow at ten");
                tasks.push(
                    asker.queue(&json!({"command": command, "priority": priority})).await["id"].clone(),
                );
            }
            promised.push((asker, tasks));
        }
    }
    scene.sim.clear_faults().await;
    for (asker, tasks) in &promised {
        for task in tasks {
            assert_eq!(asker.ended(task).await["state"], "done");
        }
    }

    let (effects, record) = scene.sim.effects("ada").await;
    let all = LOAD.iter().map(|(_, users, commands, _)| users * commands).sum();
    assert_eq!(effects, Effects { inserts: all, ..Effects::default() });
    let events = record["inserts"].as_array().expect("inserts");
    let starts: Vec<&str> =
        events.iter().map(|event| text(&event["summary"]).trim_start_matches("Review ")).collect();
    for (priority, users, commands, passed_over_max) in LOAD {
        let own: Vec<usize> = (0..starts.len()).filter(|at| starts[*at].starts_with(priority)).collect();
        let mut next = 0;
        for at in &own {
            assert!(at - next <= passed_over_max, "{priority} was passed over too often: {starts:?}");
            next = at + 1;
        }
        // Round after round, each user's in their order.
        for (turn, at) in own.iter().enumerate() {
            let (_, number) = starts[*at].rsplit_once('n').expect("its name ends with its number");
            assert_eq!(number, (turn / users).to_string(), "{starts:?}");
        }
        for round in own.chunks(users) {
            let names: std::collections::BTreeSet<&str> = round.iter().map(|at| starts[*at]).collect();
            assert_eq!(names.len(), users, "{starts:?}");
        }
        assert_eq!(own.len(), users * commands);
    }
    // While there is work of every priority, it is shared out as said.
    let count = |priority: &str| starts[..21].iter().filter(|start| start.starts_with(priority)).count();
    assert_eq!((count("high"), count("normal"), count("batch")), (16, 4, 1), "{starts:?}");
}

#[tokio::test]
async fn batch_work_that_takes_all_it_may_have_holds_up_nothing_that_is_more_urgent() {
    let places = format!("limits.tasks_running_per_core_max={PLACES}");
    let scene = Scene::start(1, &[&places]);
    // Batch work asks for calendars, which hang; what is more urgent asks for mail.
    scene.sim.fault(json!({"service": "calendar", "kind": "hang"})).await;
    let mut batch: Vec<(Asker, Value)> = Vec::new();
    for number in 0..BATCH_PLACES + 3 {
        let asker = Asker::of(&scene.gateway, &scene.gateway.user(&format!("batch{number}"))).await;
        let command = json!({"command": "what's on my calendar tomorrow", "priority": "batch"});
        let task = asker.queue(&command).await["id"].clone();
        batch.push((asker, task));
    }
    let is_full = |page: &Metrics| {
        let gauges = ["sluice_tasks_at_work", "sluice_tasks_waiting"].map(|gauge| of(page, gauge, "batch"));
        gauges == [BATCH_PLACES, 3]
    };
    scene.gateway.until("batch work has all it may have", is_full).await;
    let ada = Asker::of(&scene.gateway, &scene.gateway.user("ada")).await;
    for priority in ["high", "normal", "high"] {
        let command = json!({"command": "find the mail from Anna about the budget", "priority": priority});
        assert_eq!(ada.expect(200, "POST", "/command", &command).await["state"], "done");
        assert!(is_full(&scene.gateway.page().await), "batch work neither grew nor moved");
    }
    let waits = |page: &Metrics, priority| of(page, "sluice_task_wait_seconds_count", priority);
    let page = scene.gateway.page().await;
    assert_eq!((waits(&page, "high"), waits(&page, "normal"), waits(&page, "batch")), (2, 1, BATCH_PLACES));
    scene.sim.clear_faults().await;
    for (asker, task) in &batch {
        assert_eq!(asker.ended(task).await["state"], "done");
    }
}
