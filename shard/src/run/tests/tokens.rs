//! Access tokens: one refresh for all, rotation on disk first, dead and refused tokens.

use super::*;

fn kind(view: &TaskView) -> ProblemKind {
    view.error.as_ref().expect("an error").kind()
}

#[test]
fn one_refresh_serves_everyone_who_waits_for_it() {
    let rig = Rig::planning(json!([search("s1", "", 1)]));
    let (first, second) = (rig.accept(1), rig.accept(2));
    let shard = rig.shard;
    let counted = rig.on_core(async move |env| {
        let env = Rc::new(env);
        let other = Rc::clone(&env);
        let handle = sluice_core::spawn(async move {
            run(&other, shard, second, &Recent::default(), &Cancel::default()).await
        });
        let first = run(&env, shard, first, &Recent::default(), &Cancel::default()).await;
        let second = handle.await;
        assert!(matches!((first, second), (RunEnd::Final(..), RunEnd::Final(..))));
        (env.stats.token_refreshes.get(), env.tokens.len())
    });
    assert_eq!(counted, (1, 1));
    assert_eq!(rig.fake.count("POST /token"), 1);
}

#[test]
fn a_rotated_refresh_token_is_on_disk_before_the_access_token_is_used() {
    let rig = Rig::planning(json!([search("s1", "", 1)]));
    let (store, vault, shard, place) = (rig.store.clone(), rig.vault.clone(), rig.shard, rig.place());
    {
        let mut world = rig.fake.world();
        world.rotates = true;
        world.watch = Some(Box::new(move || {
            let loaded = store.load_blocking::<ConnectionRecord>(shard, place.key()).expect("read");
            let stored = loaded.expect("there").to_record().refresh_token;
            vault.open_blocking(&place, &stored).expect("it opens").expose().to_owned()
        }));
    }
    assert_eq!(rig.run().state, TaskState::Done);
    assert_eq!(rig.fake.world().watched.first().map(String::as_str), Some("refresh-1"));
    // Another core, or the next start, goes on with the new one.
    let view = view_of(&rig.run_after(rig.accept(2), Vec::new()));
    assert_eq!(view.state, TaskState::Done, "{:?}", view.error);
    assert_eq!(rig.refresh_token(), "refresh-2");
}

#[test]
fn a_dead_connection_is_marked_and_not_tried_again() {
    let rig = Rig::planning(json!([search("s1", "", 1)]));
    rig.fake.world().refresh_token = "another".to_owned();
    for number in 1..3 {
        let view = view_of(&rig.run_after(rig.accept(number), Vec::new()));
        assert_eq!((view.state, kind(&view)), (TaskState::Failed, ProblemKind::NeedsReauth));
    }
    assert_eq!(rig.connection().state, ConnectionState::NeedsReauth);
    assert_eq!(rig.fake.count("POST /token"), 1);
}

#[test]
fn a_newer_refresh_token_on_disk_gets_its_chance() {
    let rig = Rig::planning(json!([search("s1", "", 1)]));
    rig.fake.world().refresh_token = "newer".to_owned();
    let (store, shard, key) = (rig.store.clone(), rig.shard, rig.connection_key());
    let newer = rig.vault.seal_blocking(&rig.place(), "newer").expect("sealed");
    let newer = ConnectionRecord { refresh_token: newer, ..rig.connection() };
    // The user connects anew while the old token is being refused.
    rig.fake.world().on_refresh = Some(Box::new(move || {
        let mut batch = Batch::new(shard);
        batch.put(&key, encode(&newer).expect("encoded").as_bytes());
        store.write_blocking(vec![batch]).expect("written");
    }));
    let view = rig.run();
    assert_eq!(view.state, TaskState::Done, "{:?}", view.error);
    assert_eq!(rig.fake.count("POST /token"), 2);
    assert_eq!(rig.connection().state, ConnectionState::Active);
}

#[test]
fn an_account_that_was_never_connected_is_named() {
    let rig = Rig::planning(json!([search("s1", "", 1)]));
    let mut batch = Batch::new(rig.shard);
    batch.delete(&rig.connection_key());
    rig.store.write_blocking(vec![batch]).expect("written");
    let view = rig.run();
    assert_eq!((view.state, kind(&view)), (TaskState::Failed, ProblemKind::NotConnected));
    assert_eq!(rig.fake.count("POST /token"), 0);
}

#[test]
fn a_refused_access_token_is_replaced_once() {
    let rig = Rig::planning(json!([search("s1", "", 1), send("s2", &["s1"], "a@example.com")]));
    rig.fake.fault("POST /gmail/v1/users/me/drafts/send", 1, Fault::Status(401, json!({})));
    let view = rig.run();
    assert_eq!(view.state, TaskState::Done, "{:?}", view.error);
    assert_eq!((rig.fake.count("POST /token"), rig.fake.world().sent().len()), (2, 1));
    rig.fake.fault("GET /gmail", 9, Fault::Status(401, json!({})));
    let view = view_of(&rig.run_after(rig.accept(2), Vec::new()));
    assert_eq!((view.state, kind(&view)), (TaskState::Failed, ProblemKind::NeedsReauth));
    assert_eq!(rig.fake.count("POST /token"), 4, "one refresh, one retry, no loop");
}

#[test]
fn a_failing_token_endpoint_is_told_as_what_it_is() {
    for (status, body, wanted) in [
        (500, json!({}), ProblemKind::UpstreamUnavailable),
        (401, json!({"error": "invalid_client"}), ProblemKind::UpstreamRefused),
        (200, json!({"access_token": ""}), ProblemKind::UpstreamInvalid),
    ] {
        let rig = Rig::planning(json!([search("s1", "", 1)]));
        rig.fake.fault("POST /token", 9, Fault::Status(status, body));
        let view = rig.run();
        assert_eq!((view.state, kind(&view)), (TaskState::Failed, wanted));
        assert_eq!(rig.connection().state, ConnectionState::Active);
    }
}

#[test]
fn the_cache_keeps_no_more_tokens_than_it_may() {
    let mut rig = Rig::planning(json!([search("s1", "", 1)]));
    rig.config.tokens_max = 2;
    let shard = rig.shard;
    let connection = rig.connection();
    for number in 0..5 {
        let user = UserId::from_bytes([number; 16]);
        let mut batch = Batch::new(shard);
        let place = Place::refresh_token(&user, Provider::Google);
        let refresh_token = rig.vault.seal_blocking(&place, "refresh-0").expect("sealed");
        let record = ConnectionRecord { user, refresh_token, ..connection.clone() };
        batch.put_record(place.key(), &record).expect("encoded");
        rig.store.write_blocking(vec![batch]).expect("written");
    }
    let tasks: Vec<TaskRecord> =
        (0..5).map(|number| TaskRecord { user: UserId::from_bytes([number; 16]), ..rig.accept(1) }).collect();
    let counted = rig.on_core(async move |env| {
        for task in tasks {
            assert!(matches!(
                run(&env, shard, task, &Recent::default(), &Cancel::default()).await,
                RunEnd::Final(..)
            ));
        }
        (env.tokens.len(), env.stats.tokens_evicted.get())
    });
    assert_eq!(counted, (2, 3));
}
