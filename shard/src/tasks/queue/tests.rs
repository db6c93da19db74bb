use std::collections::HashMap as Model;

use proptest::prelude::*;

use super::*;
use Priority::{Batch, High, Normal};

fn lane(user: u8, session: u8) -> LaneId {
    LaneId { user: UserId::from_bytes([user; 16]), session: SessionId::from_bytes([session; 16]) }
}

fn task(number: u64) -> TaskId {
    TaskId::new(number, [0; 10])
}

fn entry(priority: Priority, number: u64) -> Entry {
    Entry { task: task(number), priority, not_before_ms: 0 }
}

fn queue(queued_max: usize, running_max: usize, running_per_user_max: usize) -> Queue {
    Queue::new(QueueLimits { queued_max, running_max, running_per_user_max })
}

fn push_as(queue: &mut Queue, priority: Priority, lane: LaneId, number: u64) {
    queue.reserve(lane, priority).unwrap();
    queue.push_reserved(lane, entry(priority, number));
}

fn push(queue: &mut Queue, lane: LaneId, number: u64) {
    push_as(queue, Normal, lane, number);
}

fn started(queue: &mut Queue) -> Vec<(LaneId, TaskId)> {
    std::iter::from_fn(|| queue.next(0)).collect()
}

#[test]
fn a_session_runs_one_task_at_a_time_in_order() {
    let mut queue = queue(10, 10, 10);
    push(&mut queue, lane(1, 1), 1);
    push(&mut queue, lane(1, 1), 2);
    push(&mut queue, lane(1, 2), 3);
    assert_eq!(queue.next(0), Some((lane(1, 1), task(1))));
    assert_eq!(queue.next(0), Some((lane(1, 2), task(3))));
    assert_eq!(queue.next(0), None);
    queue.finish(lane(1, 1));
    assert_eq!(queue.next(0), Some((lane(1, 1), task(2))));
}

#[test]
fn a_user_with_many_sessions_leaves_room_for_others() {
    let mut queue = queue(100, 3, 2);
    for session in 0..10 {
        push(&mut queue, lane(1, session), u64::from(session));
    }
    push(&mut queue, lane(2, 1), 100);
    assert_eq!(started(&mut queue), [(lane(1, 0), task(0)), (lane(2, 1), task(100)), (lane(1, 1), task(1))]);
    queue.finish(lane(2, 1));
    // User 1 has two running, so nothing starts although a place is free.
    assert_eq!(queue.next(0), None);
}

#[test]
fn reserved_places_count_and_come_back() {
    let mut queue = queue(2, 1, 1);
    queue.reserve(lane(1, 1), Normal).unwrap();
    queue.reserve(lane(1, 2), Normal).unwrap();
    assert_eq!(queue.reserve(lane(2, 1), Normal), Err(Full));
    queue.release(lane(1, 2), Normal);
    assert!(!queue.has_lane(lane(1, 2)));
    assert_eq!(queue.reserve(lane(2, 1), Normal), Ok(()));
}

#[test]
fn promised_tasks_are_taken_beyond_the_bound() {
    let mut queue = queue(1, 1, 1);
    (0..5).for_each(|number| queue.push_promised(lane(1, 1), entry(Normal, number)));
    assert_eq!((queue.queued(), queue.reserve(lane(1, 1), High)), (5, Err(Full)));
}

#[test]
fn the_newest_session_still_at_work_is_found_until_it_is_ended() {
    let mut queue = queue(9, 9, 9);
    push(&mut queue, lane(1, 3), 1);
    push(&mut queue, lane(1, 7), 2);
    let user = UserId::from_bytes([1; 16]);
    assert_eq!(queue.newest_session(&user), Some(lane(1, 7).session));
    assert!(queue.set_ended(lane(1, 7), true) && queue.is_ended(lane(1, 7)));
    assert_eq!(queue.newest_session(&user), Some(lane(1, 3).session));
    assert!(!queue.set_ended(lane(1, 9), true));
}

#[test]
fn the_places_kept_from_others_are_the_stated_ones() {
    assert_eq!(shares(1_024), [1_024, 896, 768]);
    assert_eq!(shares(8), [8, 7, 6]);
    assert_eq!(shares(2), [2, 2, 1]);
    assert_eq!(shares(1), [1, 1, 1]);
}

#[test]
fn batch_that_saturates_the_core_leaves_places_for_the_rest() {
    let mut queue = queue(1_000, 16, 16);
    for user in 0..30 {
        push_as(&mut queue, Batch, lane(user, 1), u64::from(user));
    }
    assert_eq!(started(&mut queue).len(), 12);
    (0..9).for_each(|user| push(&mut queue, lane(user, 2), 100 + u64::from(user)));
    assert_eq!(started(&mut queue).len(), 2);
    push_as(&mut queue, High, lane(3, 3), 200);
    assert_eq!(queue.next(0), Some((lane(3, 3), task(200))));
    assert_eq!((queue.running_of(Batch), queue.running_of(Normal), queue.running_of(High)), (12, 2, 1));
}

#[test]
fn batch_commands_that_fill_the_queue_leave_room_for_others() {
    let mut queue = queue(16, 1, 1);
    let mut admitted =
        |priority| (0..20).filter(|session| queue.reserve(lane(1, *session), priority).is_ok()).count();
    assert_eq!((admitted(Batch), admitted(Normal), admitted(High)), (12, 2, 2));
}

#[test]
fn starts_are_shared_sixteen_to_four_to_one() {
    let mut queue = queue(10_000, 1, 1);
    for number in 0..100 {
        for (user, priority) in (0..).zip(Priority::ALL) {
            push_as(&mut queue, priority, lane(user, number), u64::from(number));
        }
    }
    let mut counts = [0; PRIORITIES];
    for _ in 0..42 {
        let (lane, _) = queue.next(0).unwrap();
        counts[usize::from(lane.user.as_bytes()[0])] += 1;
        queue.finish(lane);
    }
    assert_eq!(counts, [32, 8, 2]);
}

#[test]
fn a_high_command_pulls_what_is_before_it_in_its_session() {
    let mut queue = queue(100, 8, 8);
    push_as(&mut queue, Batch, lane(1, 1), 1);
    (0..6).for_each(|session| push_as(&mut queue, Normal, lane(2, session), 10 + u64::from(session)));
    push_as(&mut queue, High, lane(1, 1), 2);
    assert_eq!(queue.next(0), Some((lane(1, 1), task(1))));
    queue.finish(lane(1, 1));
    assert_eq!(queue.next(0), Some((lane(1, 1), task(2))));
}

#[test]
fn a_task_that_waits_for_its_next_attempt_holds_its_session_only() {
    let mut queue = queue(100, 8, 8);
    push(&mut queue, lane(1, 1), 1);
    push(&mut queue, lane(1, 1), 2);
    push(&mut queue, lane(1, 2), 3);
    assert_eq!(queue.next(0), Some((lane(1, 1), task(1))));
    queue.put_back(lane(1, 1), Entry { not_before_ms: 500, ..entry(Normal, 1) });
    assert_eq!(queue.next(499), Some((lane(1, 2), task(3))));
    assert_eq!((queue.next(499), queue.due_ms(), queue.queued()), (None, Some(500), 2));
    assert_eq!(queue.next(500), Some((lane(1, 1), task(1))));
    assert_eq!(queue.due_ms(), None);
}

#[test]
fn what_is_taken_out_frees_the_session() {
    let mut queue = queue(100, 8, 8);
    queue.push_promised(lane(1, 1), Entry { not_before_ms: 500, ..entry(Normal, 1) });
    push(&mut queue, lane(1, 1), 2);
    assert_eq!(queue.remove(lane(1, 1), &task(1)), Some(Removed { next: Some(task(2)) }));
    assert_eq!(queue.remove(lane(1, 1), &task(1)), None);
    assert_eq!((queue.due_ms(), queue.oldest_of(Normal)), (None, Some(task(2))));
    assert_eq!(queue.remove(lane(1, 1), &task(2)), Some(Removed { next: None }));
    assert!(!queue.has_lane(lane(1, 1)) && queue.ready.iter().all(VecDeque::is_empty));
}

#[test]
fn what_is_taken_out_gives_its_turn_on_only_if_it_had_it() {
    let mut queue = queue(100, 8, 8);
    for number in 1..=4 {
        push(&mut queue, lane(1, 1), number);
    }
    // It waits behind another.
    assert_eq!(queue.remove(lane(1, 1), &task(2)), Some(Removed { next: None }));
    assert_eq!(queue.next(0), Some((lane(1, 1), task(1))));
    // It is the first of those that wait, but one runs.
    assert_eq!(queue.remove(lane(1, 1), &task(3)), Some(Removed { next: None }));
    queue.put_back(lane(1, 1), Entry { not_before_ms: 500, ..entry(Normal, 1) });
    assert_eq!(queue.remove(lane(1, 1), &task(1)), Some(Removed { next: Some(task(4)) }));
}

#[test]
fn recovered_tasks_keep_the_order_of_their_session_whatever_order_they_come_in() {
    let mut queue = queue(100, 8, 8);
    for (priority, number) in [(High, 3), (Normal, 1), (Batch, 2)] {
        queue.push_promised(lane(1, 1), entry(priority, number));
    }
    for number in 1..=3 {
        assert_eq!(queue.next(0), Some((lane(1, 1), task(number))));
        queue.finish(lane(1, 1));
    }
}

#[derive(Clone, Debug)]
enum Step {
    Push(Priority, u8, u8),
    Recover(Priority, u8, u8),
    Start,
    Finish(prop::sample::Index),
    PutBack(prop::sample::Index, u64),
    Remove(prop::sample::Index),
    Wait(u64),
}

fn priority() -> impl Strategy<Value = Priority> {
    prop::sample::select(&Priority::ALL[..])
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (priority(), 0u8..4, 0u8..3).prop_map(|(priority, user, session)| Step::Push(priority, user, session)),
        1 => (priority(), 0u8..4, 0u8..3).prop_map(|(priority, user, session)| Step::Recover(priority, user, session)),
        4 => Just(Step::Start),
        3 => any::<prop::sample::Index>().prop_map(Step::Finish),
        1 => (any::<prop::sample::Index>(), 1u64..9).prop_map(|(index, wait)| Step::PutBack(index, wait)),
        1 => any::<prop::sample::Index>().prop_map(Step::Remove),
        1 => (1u64..5).prop_map(Step::Wait),
    ]
}

/// What the queue should be, in the plainest form.
#[derive(Default)]
struct Plain {
    lanes: Model<LaneId, VecDeque<Entry>>,
    running: Vec<(LaneId, Entry)>,
}

impl Plain {
    fn waiting(&self, least: Priority) -> usize {
        self.lanes.values().flatten().filter(|entry| entry.priority >= least).count()
    }

    fn start(&mut self, queue: &mut Queue, now_ms: u64, running_max: usize, per_user: usize) -> bool {
        let Some((lane, task)) = queue.next(now_ms) else { return false };
        let entry = self.lanes.get_mut(&lane).and_then(VecDeque::pop_front).unwrap();
        assert!(entry.task == task && entry.not_before_ms <= now_ms);
        assert!(self.running.iter().all(|(other, _)| *other != lane));
        self.running.push((lane, entry));
        let of_user = self.running.iter().filter(|(other, _)| other.user == lane.user).count();
        assert!(self.running.len() <= running_max && of_user <= per_user);
        assert!(queue.running_of(Batch) <= shares(running_max)[Batch as usize]);
        true
    }
}

proptest! {
    #[test]
    fn bounds_and_order_hold_and_everything_runs(
        steps in prop::collection::vec(step(), 1..200), running_max in 1usize..6, per_user in 1usize..4,
    ) {
        let mut queue = queue(20, running_max, per_user);
        let mut plain = Plain::default();
        let (mut number, mut now_ms) = (0, 1);
        for step in steps {
            match step {
                Step::Push(priority, user, session) => {
                    let lane = lane(user, session);
                    let limits = shares(20);
                    let has_room = Priority::ALL.into_iter().filter(|least| *least <= priority)
                        .all(|least| plain.waiting(least) < limits[least as usize]);
                    prop_assert_eq!(queue.reserve(lane, priority).is_ok(), has_room);
                    if has_room {
                        number += 1;
                        queue.push_reserved(lane, entry(priority, number));
                        plain.lanes.entry(lane).or_default().push_back(entry(priority, number));
                    }
                }
                Step::Recover(priority, user, session) => {
                    number += 1;
                    queue.push_promised(lane(user, session), entry(priority, number));
                    plain.lanes.entry(lane(user, session)).or_default().push_back(entry(priority, number));
                }
                Step::Start => drop(plain.start(&mut queue, now_ms, running_max, per_user)),
                Step::Finish(index) if !plain.running.is_empty() => {
                    let (lane, _) = plain.running.swap_remove(index.index(plain.running.len()));
                    queue.finish(lane);
                }
                Step::PutBack(index, wait) if !plain.running.is_empty() => {
                    let (lane, entry) = plain.running.swap_remove(index.index(plain.running.len()));
                    let entry = Entry { not_before_ms: now_ms + wait, ..entry };
                    queue.put_back(lane, entry);
                    plain.lanes.entry(lane).or_default().push_front(entry);
                }
                Step::Remove(index) if plain.waiting(High) > 0 => {
                    let mut all: Vec<_> = plain.lanes.iter()
                        .flat_map(|(lane, entries)| entries.iter().map(|entry| (entry.task, *lane))).collect();
                    all.sort_unstable();
                    let (task, lane) = all[index.index(all.len())];
                    prop_assert!(queue.remove(lane, &task).is_some());
                    plain.lanes.get_mut(&lane).unwrap().retain(|entry| entry.task != task);
                }
                Step::Wait(ms) => now_ms += ms,
                Step::Finish(_) | Step::PutBack(..) | Step::Remove(_) => {}
            }
            prop_assert_eq!(queue.queued(), plain.waiting(High));
            prop_assert_eq!(queue.running(), plain.running.len());
            for priority in Priority::ALL {
                let oldest = plain.lanes.values().flatten().filter(|entry| entry.priority == priority)
                    .map(|entry| entry.task).min();
                prop_assert_eq!(queue.oldest_of(priority), oldest);
            }
        }
        // Whatever happened before: nothing is forgotten.
        loop {
            now_ms += 100;
            while plain.start(&mut queue, now_ms, running_max, per_user) {}
            let Some((lane, _)) = plain.running.pop() else { break };
            queue.finish(lane);
        }
        prop_assert!(plain.lanes.values().all(VecDeque::is_empty));
        prop_assert!(queue.lanes.is_empty() && queue.users.is_empty() && queue.delayed.is_empty());
        prop_assert!(queue.ready.iter().all(VecDeque::is_empty) && queue.waiting.iter().all(BTreeSet::is_empty));
    }

    /// The bound of the module's documentation: whatever the others do, and wherever the cursor stands.
    #[test]
    fn no_priority_is_passed_over_more_often_than_stated(
        before in prop::collection::vec(priority(), 0..40),
        loads in prop::collection::vec((priority(), 0u8..6), 1..60),
    ) {
        let mut queue = queue(100_000, 1, 1);
        let mut number = 0u8;
        let mut push_next = |queue: &mut Queue, priority: Priority, user: u8| {
            number = number.wrapping_add(1);
            push_as(queue, priority, lane(user, number), u64::from(number));
        };
        for priority in before {
            push_next(&mut queue, priority, 9);
            let (lane, _) = queue.next(0).unwrap();
            queue.finish(lane);
        }
        let watched = Priority::ALL;
        for priority in watched {
            push_next(&mut queue, priority, 7);
        }
        let mut passed = [0; PRIORITIES];
        for round in 0..100 {
            let (load, user) = loads[round % loads.len()];
            push_next(&mut queue, load, user);
            let before: Vec<_> = watched.iter().map(|priority| queue.queued_of(*priority)).collect();
            let (lane, _) = queue.next(0).unwrap();
            for (class, priority) in watched.into_iter().enumerate() {
                if queue.queued_of(priority) < before[class] {
                    passed[class] = 0;
                    if queue.queued_of(priority) == 0 {
                        push_next(&mut queue, priority, 7);
                    }
                } else {
                    passed[class] += 1;
                }
                prop_assert!(passed[class] <= passed_over_max(priority), "{priority:?}");
            }
            queue.finish(lane);
        }
    }

    /// Within a priority users take turns: of `n` users, one who has something ready is served in `n` starts.
    #[test]
    fn no_user_waits_longer_than_the_others_have_turns(greedy in prop::collection::vec(0u8..5, 1..80)) {
        let mut queue = queue(1_000, 1, 1);
        for (number, user) in (0..).zip(&greedy) {
            push(&mut queue, lane(*user, number), u64::from(number));
        }
        push(&mut queue, lane(99, 0), 1_000);
        let mut users: Vec<_> = greedy.clone();
        users.sort_unstable();
        users.dedup();
        let mut starts = 0;
        loop {
            let (lane, _) = queue.next(0).unwrap();
            starts += 1;
            queue.finish(lane);
            if lane.user.as_bytes()[0] == 99 {
                break;
            }
        }
        prop_assert!(starts <= users.len() + 1);
    }
}
