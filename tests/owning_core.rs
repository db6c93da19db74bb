//! Requests in a user's name are handled by the core that owns the user, whichever core the connection landed on:
//! proved by what each core counted and by `Alt-Svc`, which stands on answers that hopped and on no others. And one core
//! that is asked for more than it answers holds up nobody but those who ask it from another.

mod common;

use std::net::{SocketAddr, UdpSocket};

use common::h3::Answer;
use common::metrics::Metrics;
use common::scene::{Caller, SHARDS, Scene, guard};
use serde_json::json;
use sluice_protocols::ids::{ApiKey, ShardCount};
use sluice_shard::Placement;
use sluice_shard::peer::LANE_REQUESTS_MAX;
use tokio::task::JoinSet;

/// Never needs a call to Google, so that a thousand of them are quick.
const COMMAND: &str = "tell me a joke";
/// Users each core must own at least.
const USERS_PER_CORE: usize = 2;

struct User {
    key: String,
    owner: usize,
}

fn owner(key: &str, cores: usize) -> usize {
    let key = ApiKey::parse(key).expect("a key");
    let placement = Placement::dealt(ShardCount::new(SHARDS).expect("in bounds"), cores);
    placement.owner(placement.shard_of(&key.user())).index()
}

/// Adds users until every core owns some.
fn users(scene: &Scene, cores: usize) -> Vec<User> {
    let mut users: Vec<User> = Vec::new();
    for number in 0..100 {
        let owned = |core| users.iter().filter(|user| user.owner == core).count();
        if (0..cores).all(|core| owned(core) >= USERS_PER_CORE) {
            return users;
        }
        let name = format!("user{number}");
        scene.gateway.admin(&["user", "add", &name, "--email", &format!("{name}@example.com")]);
        let key = scene.gateway.admin(&["key", "add", &name]);
        users.push(User { owner: owner(&key, cores), key });
    }
    panic!("a hundred users, and a core owns none of them");
}

/// Connects, and finds out which core has the connection.
async fn land(scene: &Scene, to: SocketAddr, cores: usize) -> (Caller, usize) {
    let accepted = |page: &Metrics| page.by_core("sluice_ingress_connections_accepted_total", &[], cores);
    let before = accepted(&scene.gateway.page().await);
    let caller = Caller::at(&scene.gateway, to).await;
    let grown = |page: &Metrics| accepted(page).iter().sum::<u64>() > before.iter().sum();
    let after = accepted(&scene.gateway.until("the connection is counted", grown).await);
    let core = (0..cores).find(|core| after[*core] == before[*core] + 1).expect("one core has one more");
    assert_eq!(after.iter().sum::<u64>(), before.iter().sum::<u64>() + 1, "one connection on one core");
    (caller, core)
}

/// `Alt-Svc` names the owner's own port when the answer hopped, and is not there otherwise.
fn assert_alt_svc(scene: &Scene, answer: &Answer, landed: usize, owner: usize) {
    let expected = (landed != owner).then(|| format!("h3=\":{}\"; ma=3600", scene.gateway.core_ports[owner]));
    assert_eq!(answer.field("alt-svc"), expected.as_deref(), "landed on {landed}, owned by {owner}");
}

/// What each core must have counted.
struct Expected {
    commands: Vec<u64>,
    reads: Vec<u64>,
    hops_sent: Vec<u64>,
    hops_served: Vec<u64>,
}

impl Expected {
    fn nothing(cores: usize) -> Self {
        let zero = || vec![0; cores];
        Self { commands: zero(), reads: zero(), hops_sent: zero(), hops_served: zero() }
    }

    fn request(&mut self, landed: usize, owner: usize) {
        self.hops_sent[landed] += u64::from(landed != owner);
        self.hops_served[owner] += u64::from(landed != owner);
    }

    fn assert_counted(&self, page: &Metrics, cores: usize) {
        let by_core = |name, labels: &[(&str, &str)]| page.by_core(name, labels, cores);
        let requests = |route| by_core("sluice_requests_total", &[("route", route)]);
        assert_eq!(requests("command"), self.commands);
        assert_eq!(by_core("sluice_commands_accepted_total", &[]), self.commands);
        assert_eq!(by_core("sluice_tasks_ended_total", &[("state", "declined")]), self.commands);
        let reads: Vec<u64> =
            requests("session_get").iter().zip(requests("task_get")).map(|(a, b)| a + b).collect();
        assert_eq!(reads, self.reads);
        assert_eq!(by_core("sluice_hops_sent_total", &[]), self.hops_sent);
        assert_eq!(by_core("sluice_hops_served_total", &[]), self.hops_served);
        let lane = [("lane", "requests")];
        assert_eq!(by_core("sluice_mailbox_sent_total", &lane), self.hops_sent);
        assert_eq!(by_core("sluice_mailbox_received_total", &lane), self.hops_served);
        assert_eq!(by_core("sluice_mailbox_replies_total", &lane), self.hops_sent);
        for name in ["sluice_hops_refused_total", "sluice_hops_unanswered_total"] {
            assert_eq!(by_core(name, &[]), vec![0; cores], "{name}");
        }
        assert_eq!(by_core("sluice_mailbox_refused_total", &lane), vec![0; cores]);
    }
}

async fn every_port_leads_to_the_owner(cores: usize) {
    let scene = Scene::start(cores, &[]);
    let users = users(&scene, cores);
    let mut expected = Expected::nothing(cores);
    let own_ports = (0..cores).map(|core| (scene.gateway.core_address(core), Some(core)));
    let ports: Vec<_> = own_ports.chain([(scene.gateway.address, None)]).collect();
    for user in &users {
        for (port, own) in &ports {
            let (caller, landed) = land(&scene, *port, cores).await;
            assert!(own.is_none_or(|own| own == landed), "the port of core {own:?} led to core {landed}");
            let answer = caller.post(&user.key, &json!({ "command": COMMAND })).await;
            assert_eq!(answer.status.as_u16(), 200, "{:?}", answer.body);
            assert_alt_svc(&scene, &answer, landed, user.owner);
            let task = answer.value();
            let (id, session) =
                (task["id"].as_str().expect("an id"), task["session"].as_str().expect("an id"));
            for path in [format!("/api/v1/tasks/{id}"), format!("/api/v1/sessions/{session}")] {
                let answer = caller.get(&path, &user.key).await;
                assert_eq!(answer.status.as_u16(), 200, "{path}");
                assert_alt_svc(&scene, &answer, landed, user.owner);
                expected.reads[user.owner] += 1;
                expected.request(landed, user.owner);
            }
            expected.commands[user.owner] += 1;
            expected.request(landed, user.owner);
        }
    }
    assert!(expected.hops_sent.iter().all(|hops| *hops > 0), "every core passed something on");
    expected.assert_counted(&scene.gateway.page().await, cores);
}

#[tokio::test]
async fn every_port_of_two_cores_leads_to_the_owner() {
    every_port_leads_to_the_owner(2).await;
}

#[tokio::test]
async fn every_port_of_four_cores_leads_to_the_owner() {
    every_port_leads_to_the_owner(4).await;
}

#[tokio::test]
async fn a_client_that_follows_alt_svc_needs_no_hop_any_more() {
    let cores = 4;
    let scene = Scene::start(cores, &[]);
    for user in users(&scene, cores) {
        let elsewhere = (user.owner + 1) % cores;
        let far = Caller::at(&scene.gateway, scene.gateway.core_address(elsewhere)).await;
        let answer = far.post(&user.key, &json!({ "command": COMMAND })).await;
        let alt_svc = answer.field("alt-svc").expect("the answer hopped");
        let port = alt_svc.strip_prefix("h3=\":").and_then(|rest| rest.split('"').next());
        let port = port.and_then(|port| port.parse().ok()).unwrap_or_else(|| panic!("a port in {alt_svc}"));
        let hops = |page: &Metrics| page.sum("sluice_hops_sent_total", &[]);
        let before = hops(&scene.gateway.page().await);
        let near = Caller::at(&scene.gateway, SocketAddr::new(scene.gateway.address.ip(), port)).await;
        let answer = near.post(&user.key, &json!({ "command": COMMAND })).await;
        assert_eq!((answer.status.as_u16(), answer.field("alt-svc")), (200, None));
        assert_eq!(hops(&scene.gateway.page().await), before);
    }
}

/// Many connections, each carrying requests of every user side by side.
#[tokio::test]
async fn users_who_share_connections_are_each_served_by_their_own_core() {
    let cores = 4;
    let scene = Scene::start(cores, &[]);
    let users = users(&scene, cores);
    let mut callers = Vec::new();
    let mut expected = Expected::nothing(cores);
    let mut sessions = Vec::new();
    let first = Caller::at(&scene.gateway, scene.gateway.core_address(0)).await;
    for user in &users {
        let task = first.command(&user.key, COMMAND).await;
        sessions.push(format!("/api/v1/sessions/{}", task["session"].as_str().expect("an id")));
        expected.commands[user.owner] += 1;
        expected.request(0, user.owner);
    }
    for number in 0..16 {
        callers.push(
            land(
                &scene,
                [scene.gateway.address, scene.gateway.core_address(number % cores)][number % 2],
                cores,
            )
            .await,
        );
    }
    let mut calls = JoinSet::new();
    for (caller, landed) in &callers {
        for (user, path) in users.iter().zip(&sessions) {
            let (http, key, path) = (caller.http.clone(), user.key.clone(), path.clone());
            calls
                .spawn(async move { guard(http.get(&path, &key)).await.expect("an answer").status.as_u16() });
            expected.reads[user.owner] += 1;
            expected.request(*landed, user.owner);
        }
    }
    while let Some(status) = guard(calls.join_next()).await {
        assert_eq!(status.expect("no panic"), 200);
    }
    expected.assert_counted(&scene.gateway.page().await, cores);
}

fn move_to_new_address(caller: &Caller) {
    let before = caller.client.endpoint.local_addr().expect("bound");
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    caller.client.endpoint.rebind(socket).expect("rebound");
    assert_ne!(caller.client.endpoint.local_addr().expect("bound"), before);
}

/// With a new address the kernel would choose any core; the connection's ID leads back to its own.
#[tokio::test]
async fn a_client_that_changes_its_address_stays_with_its_core() {
    let cores = 4;
    let scene = Scene::start(cores, &[]);
    let user = &users(&scene, cores)[0];
    for number in 0..12 {
        let port = if number < 4 { scene.gateway.core_address(number) } else { scene.gateway.address };
        let (caller, landed) = land(&scene, port, cores).await;
        let task = caller.command(&user.key, COMMAND).await;
        let path = format!("/api/v1/tasks/{}", task["id"].as_str().expect("an id"));
        let before = scene.gateway.page().await;
        for _ in 0..3 {
            move_to_new_address(&caller);
            let answer = caller.get(&path, &user.key).await;
            assert_eq!(answer.status.as_u16(), 200);
            assert_alt_svc(&scene, &answer, landed, user.owner);
        }
        let after = scene.gateway.page().await;
        for core in 0..cores {
            let grown = |name| after.of_core(name, core) - before.of_core(name, core);
            let expected = if core == landed { 3 } else { 0 };
            assert_eq!(grown("sluice_ingress_requests_total"), expected, "core {core}, landed on {landed}");
            assert_eq!(grown("sluice_ingress_connections_accepted_total"), 0, "no new connection");
            assert_eq!(grown("sluice_ingress_forwarded_lost_total"), 0);
        }
    }
}

#[tokio::test]
async fn a_client_that_changes_its_address_while_it_waits_gets_its_answer() {
    let cores = 4;
    let scene = Scene::start(cores, &[]);
    let user = &users(&scene, cores)[0];
    for number in 0..4 {
        let caller = scene.caller().await;
        scene.sim.fault(json!({"service": "openai", "kind": "slow", "ms": 300, "count": 1})).await;
        let moving = async {
            let begun = |page: &Metrics| page.sum("sluice_commands_accepted_total", &[]) == number + 1;
            scene.gateway.until("the command is accepted", begun).await;
            move_to_new_address(&caller);
        };
        let (task, ()) = tokio::join!(caller.command(&user.key, COMMAND), moving);
        assert_eq!(task["state"], "declined");
    }
    let page = scene.gateway.page().await;
    assert_eq!(page.sum("sluice_ingress_responses_undeliverable_total", &[]), 0);
    assert_eq!(page.of_core("sluice_commands_accepted_total", user.owner), 4);
}

/// A client that lets as many requests wait at another core as may wait there: the next is refused at once and counted,
/// what goes another way is served meanwhile, and those that waited are answered.
#[tokio::test]
async fn a_lane_full_of_requests_that_wait_refuses_the_next_and_no_others() {
    const WAITS_EACH: usize = 64;
    let cores = 2;
    let scene = Scene::start(cores, &[]);
    let users = users(&scene, cores);
    let of = |core| users.iter().find(|user| user.owner == core).expect("every core owns some");
    let (near, far) = (of(0), of(1));
    scene.sim.fault(json!({"service": "openai", "kind": "hang", "count": -1})).await;
    let land_first = || Caller::at(&scene.gateway, scene.gateway.core_address(0));
    let first = land_first().await;
    let task = first.queue(&far.key, COMMAND).await;
    let mut waits = JoinSet::new();
    let mut callers = vec![];
    for _ in 0..LANE_REQUESTS_MAX / WAITS_EACH {
        let caller = land_first().await;
        for _ in 0..WAITS_EACH {
            let (http, key, task) = (caller.http.clone(), far.key.clone(), task.clone());
            waits.spawn(async move { guard(http.get_waiting(&task, &key, 60)).await.expect("an answer") });
        }
        callers.push(caller);
    }
    let lane = [("lane", "requests")];
    let unanswered = |page: &Metrics| {
        let count = |name| page.by_core(name, &lane, cores)[0];
        count("sluice_mailbox_sent_total") - count("sluice_mailbox_replies_total")
    };
    scene.gateway.until("the lane is full", |page| unanswered(page) == LANE_REQUESTS_MAX as u64).await;

    let refused = first.get(&task, &far.key).await;
    let problem = refused.problem(503, "overloaded");
    assert_eq!((&problem["retryable"], &problem["retry_after_s"]), (&json!(true), &json!(1)));
    let page = scene.gateway.page().await;
    assert_eq!(page.by_core("sluice_mailbox_refused_total", &lane, cores), [1, 0]);
    assert_eq!(page.by_core("sluice_hops_refused_total", &[], cores), [1, 0]);
    let straight = Caller::at(&scene.gateway, scene.gateway.core_address(1)).await;
    for (caller, user) in [(&first, near), (&straight, far), (&straight, near)] {
        let answer = caller.get("/api/v1/preferences", &user.key).await;
        assert_eq!(answer.status.as_u16(), 200, "{:?}", answer.body);
    }

    scene.sim.clear_faults().await;
    while let Some(answer) = guard(waits.join_next()).await {
        let answer = answer.expect("no panic");
        assert_eq!(answer.status.as_u16(), 200, "{:?}", answer.body);
    }
    assert_eq!(first.get(&task, &far.key).await.status.as_u16(), 200);
    assert_eq!(unanswered(&scene.gateway.page().await), 0);
}
