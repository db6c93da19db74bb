//! The writer against a disk that is a test.

use std::sync::Mutex;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use sluice_protocols::ids::{ShardCount, ShardId, UserId};

use super::*;
use crate::batch::Batch;

fn shard(index: u16) -> ShardId {
    ShardId::new(index, ShardCount::new(4).unwrap()).unwrap()
}

fn batch(index: u16) -> Batch {
    let mut batch = Batch::new(shard(index));
    batch.put(&Key::user(&UserId::from_bytes([1; 16])), b"value");
    batch
}

fn submission(shards: &[u16], ticket: u64, reply: &Arc<Inbox>) -> Submission {
    Submission::new(shards.iter().map(|index| Entry::new(batch(*index))).collect(), ticket, Arc::clone(reply))
}

/// Shard and sequence of each entry, by group.
type Groups = Arc<Mutex<Vec<Vec<(u16, u64)>>>>;

/// Says when a write begins, then waits to be told its outcome.
struct Gate {
    began: SyncSender<()>,
    outcome: Receiver<Result<(), String>>,
    groups: Groups,
}

struct Control {
    began: Receiver<()>,
    outcome: SyncSender<Result<(), String>>,
    groups: Groups,
}

impl Disk for Gate {
    fn write(&mut self, group: &[Submission]) -> Result<(), String> {
        // A test that is over has let go of its ends; the writer must not die of that.
        let _ = self.began.send(());
        let entries = group.iter().flat_map(|submission| &submission.entries);
        let group = entries.map(|entry| (entry.shard.index(), entry.sequence.number())).collect();
        self.groups.lock().unwrap().push(group);
        self.outcome.recv().unwrap_or(Ok(()))
    }
}

fn start(config: WriterConfig) -> (RocksCommitLog, Control, Arc<StoreStats>) {
    let (began_sender, began) = sync_channel(64);
    let (outcome, outcome_receiver) = sync_channel(64);
    let groups = Groups::default();
    let gate = Gate { began: began_sender, outcome: outcome_receiver, groups: Arc::clone(&groups) };
    let stats = Arc::new(StoreStats::new());
    let applied = [0, 10, 0, 0].map(Sequence::from_number).to_vec();
    let log = RocksCommitLog::start(config, gate, applied, Arc::clone(&stats)).unwrap();
    (log, Control { began, outcome, groups }, stats)
}

const ROOMY: WriterConfig = WriterConfig { queue_max: 16, queue_bytes_max: 1 << 20 };

fn sequences(receipt: &Receipt) -> Vec<u64> {
    receipt.outcome.as_ref().unwrap().iter().map(|sequence| sequence.number()).collect()
}

#[test]
fn what_waits_during_a_write_is_the_next_group_and_numbered_in_order() {
    let (log, control, stats) = start(ROOMY);
    let inboxes = [Inbox::new(), Inbox::new()];
    log.submit(submission(&[0], 0, &inboxes[0])).unwrap();
    control.began.recv().unwrap();
    log.submit(submission(&[0, 1], 1, &inboxes[0])).unwrap();
    log.submit(submission(&[1], 7, &inboxes[1])).unwrap();
    log.submit(submission(&[0], 2, &inboxes[0])).unwrap();
    control.outcome.send(Ok(())).unwrap();
    control.outcome.send(Ok(())).unwrap();
    assert_eq!(sequences(&inboxes[1].wait()), [12]);
    drop(log);
    let groups = control.groups.lock().unwrap().clone();
    assert_eq!(groups, [vec![(0, 1)], vec![(0, 2), (1, 11), (1, 12), (0, 3)]]);
    assert_eq!((stats.commit.groups.get(), stats.commit.batches.get()), (2, 5));
    assert_eq!(stats.commit.latency_us.snapshot().buckets.iter().map(|(_, count)| count).sum::<u64>(), 4);
}

#[test]
fn each_inbox_is_woken_once_a_group_and_gets_its_receipts_in_order() {
    let (log, control, _) = start(ROOMY);
    let inbox = Inbox::new();
    let (counter, waker) = crate::test_util::CountingWaker::new();
    let mut receipts = Vec::new();
    log.submit(submission(&[3], 99, &Inbox::new())).unwrap();
    control.began.recv().unwrap();
    for ticket in 0..3 {
        log.submit(submission(&[2], ticket, &inbox)).unwrap();
    }
    assert!(inbox.poll_take(&std::task::Context::from_waker(&waker), &mut receipts).is_pending());
    control.outcome.send(Ok(())).unwrap();
    control.outcome.send(Ok(())).unwrap();
    drop(log);
    assert_eq!(counter.count(), 1);
    assert!(inbox.poll_take(&std::task::Context::from_waker(&waker), &mut receipts).is_ready());
    assert_eq!(receipts.iter().map(|receipt| receipt.ticket).collect::<Vec<_>>(), [0, 1, 2]);
}

#[test]
fn a_failed_write_stops_the_log_for_good() {
    let (log, control, stats) = start(ROOMY);
    let (first, second) = (Inbox::new(), Inbox::new());
    log.submit(submission(&[0], 0, &first)).unwrap();
    control.began.recv().unwrap();
    log.submit(submission(&[0], 0, &second)).unwrap();
    control.outcome.send(Err("no space left".to_owned())).unwrap();
    let reason: Arc<str> = "no space left".into();
    assert_eq!(first.wait().outcome, Err(CommitError::Unknown { reason: Arc::clone(&reason) }));
    assert_eq!(second.wait().outcome, Err(CommitError::Stopped { reason: Arc::clone(&reason) }));
    let rejected = log.submit(submission(&[1], 0, &first)).unwrap_err();
    assert_eq!(rejected.error, CommitError::Stopped { reason: Arc::clone(&reason) });
    assert_eq!(log.stopped(), Some(reason));
    drop(log);
    assert_eq!(control.groups.lock().unwrap().len(), 1, "nothing was written after the failure");
    assert_eq!((stats.commit.failures.get(), stats.commit.refused_stopped.get()), (1, 2));
    assert_eq!(stats.commit.batches.get(), 0);
}

#[test]
fn a_full_queue_gives_the_submission_back_and_counts() {
    let (log, control, stats) = start(WriterConfig { queue_max: 2, queue_bytes_max: 1 << 20 });
    let inbox = Inbox::new();
    log.submit(submission(&[0], 0, &inbox)).unwrap();
    control.began.recv().unwrap();
    log.submit(submission(&[0], 1, &inbox)).unwrap();
    log.submit(submission(&[0], 2, &inbox)).unwrap();
    assert_eq!(log.depth(), 2);
    let rejected = log.submit(submission(&[0], 3, &inbox)).unwrap_err();
    assert_eq!((rejected.error, rejected.submission.ticket), (CommitError::Overloaded, 3));
    assert_eq!(stats.commit.refused_full.get(), 1);
    (0..2).for_each(|_| control.outcome.send(Ok(())).unwrap());
}

#[test]
fn queued_bytes_are_bounded_and_freed_again() {
    let bytes = submission(&[0], 0, &Inbox::new()).bytes();
    let (log, control, stats) = start(WriterConfig { queue_max: 16, queue_bytes_max: bytes });
    let inbox = Inbox::new();
    for ticket in 0..3 {
        log.submit(submission(&[0], ticket, &inbox)).unwrap();
        control.began.recv().unwrap();
        control.outcome.send(Ok(())).unwrap();
        inbox.wait();
    }
    let rejected = log.submit(submission(&[0, 1], 9, &inbox)).unwrap_err();
    assert_eq!(rejected.error, CommitError::Overloaded);
    assert_eq!(stats.commit.refused_full.get(), 1);
}

#[test]
fn closing_writes_and_answers_what_was_taken() {
    let (log, control, _) = start(ROOMY);
    let inbox = Inbox::new();
    (0..5).for_each(|ticket| log.submit(submission(&[0], ticket, &inbox)).unwrap());
    (0..5).for_each(|_| control.outcome.send(Ok(())).unwrap());
    drop(log);
    assert_eq!(control.groups.lock().unwrap().concat(), (1..=5).map(|n| (0, n)).collect::<Vec<_>>());
}

#[test]
fn no_wake_is_lost_between_push_and_sleep() {
    struct Instantly;
    impl Disk for Instantly {
        fn write(&mut self, _: &[Submission]) -> Result<(), String> {
            Ok(())
        }
    }
    let stats = Arc::new(StoreStats::new());
    let log = RocksCommitLog::start(ROOMY, Instantly, vec![Sequence::ZERO; 4], stats).unwrap();
    // Each submission waits for the one before, so the writer falls asleep around every push.
    thread::scope(|scope| {
        for index in 0..4 {
            let log = &log;
            scope.spawn(move || {
                let inbox = Inbox::new();
                for expected in 1..=2_000 {
                    log.submit(submission(&[index], 0, &inbox)).unwrap();
                    assert_eq!(sequences(&inbox.wait()), [expected]);
                }
            });
        }
    });
}
