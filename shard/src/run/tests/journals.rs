//! The journal under a commit queue that is full for a moment.

use super::*;

/// The least there may be: room for one batch of the largest size.
const QUEUE_BYTES: usize = 8 << 20;

/// Steps run side by side and write down what they are about to do each for itself: what one of them could write must not be
/// taken back by another that could not when it first tried.
#[test]
fn an_entry_that_comes_again_takes_nothing_back() {
    let rig = Rig::new();
    let directory = tempfile::tempdir().expect("a directory");
    let mut config = StoreConfig::new(directory.path().join("data"), ShardCount::new(2).expect("a count"));
    config.commit_queue_bytes_max = QUEUE_BYTES;
    let store = Store::open(config).expect("a store");
    let (vault, egress, run_config) = (rig.vault.clone(), rig.egress.clone(), rig.config.clone());
    let (shard, mut task, own) = (rig.shard, rig.accept(1), store.clone());
    task.steps = vec![StepRecord::new("s1".to_owned(), 2), StepRecord::new("s2".to_owned(), 2)];
    let key = Key::task_pending(&task.user, &task.id);
    let reactor = Reactor::new(ReactorConfig::new(CoreId::new(0))).expect("a reactor");
    let run = async move {
        let env = Env::new(CoreStore::new(&own), vault, egress, run_config, Clock::manual(NOW_MS));
        let (meter, cancel) = (Meter::default(), Cancel::default());
        let journal = Journal::new(&env, shard, &meter, &cancel, task);
        let mut filling = Batch::new(shard);
        for number in 0..4 {
            // With their keys there is less room left than any task takes.
            let key = Key::idempotency(&UserId::from_bytes([1; 16]), &[number; 32]);
            filling.put(&key, &vec![0; QUEUE_BYTES / 4 - 100]);
        }
        let filling = env.store.commit(filling);

        journal.write_step(0, |step| step.intent = Some("label:1".to_owned()));
        let mut first = pin!(journal.commit());
        let is_pending = poll_fn(|cx| Poll::Ready(first.as_mut().poll(cx).is_pending())).await;
        assert!(is_pending);
        assert_eq!(own.stats().commit.refused_full.get(), 1, "there was no room for it");
        filling.await.expect("committed");

        journal.write_step(1, |step| step.intent = Some("file:1".to_owned()));
        journal.commit().await.expect("the other step may make its file now");
        first.await.expect("there is room again");
    };
    reactor.block_on(run).expect("the ring works");
    let journaled = store.load_blocking::<TaskRecord>(shard, &key).expect("read").expect("there").to_record();
    let intents: Vec<_> = journaled.steps.into_iter().map(|step| step.intent).collect();
    assert_eq!(intents, [Some("label:1".to_owned()), Some("file:1".to_owned())]);
}
