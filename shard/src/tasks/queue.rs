//! The order in which one core runs its tasks. No IO, no clock.
//!
//! A lane is one session of one user. Invariants:
//! - a lane runs one task at a time, in the order they were pushed, so that a command finds what the one before it
//!   brought up;
//! - at most `running_max` tasks run, at most `running_per_user_max` of one user;
//! - at most `queued_max` tasks wait, reserved places included; recovered tasks alone may exceed that, for they were
//!   promised already;
//! - users take turns, and so do the lanes of a user: nobody who keeps a queue full starves another;
//! - a user who may run something is in `ready` exactly once.

use std::collections::VecDeque;

use hashbrown::HashMap;
use sluice_protocols::ids::{SessionId, TaskId, UserId};

/// A session of a user.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct LaneId {
    pub(crate) user: UserId,
    pub(crate) session: SessionId,
}

/// Bounds of a queue.
#[derive(Clone, Copy, Debug)]
pub(crate) struct QueueLimits {
    pub(crate) queued_max: usize,
    pub(crate) running_max: usize,
    pub(crate) running_per_user_max: usize,
}

/// No place is left; come again later.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Full;

/// See the module.
pub(crate) struct Queue {
    limits: QueueLimits,
    lanes: HashMap<LaneId, Lane, foldhash::fast::RandomState>,
    users: HashMap<UserId, UserLanes, foldhash::fast::RandomState>,
    /// Users who have a lane to run and may run one more.
    ready: VecDeque<UserId>,
    queued: usize,
    running: usize,
}

#[derive(Default)]
struct Lane {
    waiting: VecDeque<TaskId>,
    /// Places kept for tasks that are being written.
    reserved: usize,
    is_running: bool,
    /// The session was ended: what its tasks find is not remembered.
    is_ended: bool,
}

#[derive(Default)]
struct UserLanes {
    /// Lanes that have a task waiting and none running.
    ready: VecDeque<SessionId>,
    running: usize,
    /// Every lane of the user, ready or not.
    sessions: Vec<SessionId>,
    is_ready: bool,
}

impl Queue {
    pub(crate) fn new(limits: QueueLimits) -> Self {
        Self {
            limits,
            lanes: HashMap::default(),
            users: HashMap::default(),
            ready: VecDeque::new(),
            queued: 0,
            running: 0,
        }
    }

    /// Keeps a place for a task that is about to be written.
    pub(crate) fn reserve(&mut self, lane: LaneId) -> Result<(), Full> {
        if self.queued >= self.limits.queued_max {
            return Err(Full);
        }
        self.queued += 1;
        self.lane(lane).reserved += 1;
        Ok(())
    }

    /// Gives a place back: the task was not written.
    pub(crate) fn release(&mut self, lane: LaneId) {
        self.queued -= 1;
        self.lane(lane).reserved -= 1;
        self.retire(lane);
    }

    /// Puts a task into the place that was kept for it.
    pub(crate) fn push_reserved(&mut self, lane: LaneId, task: TaskId) {
        self.lane(lane).reserved -= 1;
        self.enqueue(lane, task);
    }

    /// Puts a task in whatever the bound: it was promised by an earlier process.
    pub(crate) fn push_recovered(&mut self, lane: LaneId, task: TaskId) {
        self.queued += 1;
        self.lane(lane);
        self.enqueue(lane, task);
    }

    /// The next task to run, if one may. Tell [`Self::finish`] when it has ended.
    pub(crate) fn next(&mut self) -> Option<(LaneId, TaskId)> {
        if self.running >= self.limits.running_max {
            return None;
        }
        let user = self.ready.pop_front()?;
        let lanes = self.users.get_mut(&user).expect("ready users have lanes");
        lanes.is_ready = false;
        let session = lanes.ready.pop_front().expect("ready users have a ready lane");
        lanes.running += 1;
        let lane = LaneId { user, session };
        let found = self.lanes.get_mut(&lane).expect("ready lanes exist");
        found.is_running = true;
        let task = found.waiting.pop_front().expect("ready lanes have a task");
        self.queued -= 1;
        self.running += 1;
        self.note_ready(user);
        Some((lane, task))
    }

    /// The task that [`Self::next`] gave for this lane has ended.
    pub(crate) fn finish(&mut self, lane: LaneId) {
        self.running -= 1;
        let found = self.lanes.get_mut(&lane).expect("running lanes exist");
        found.is_running = false;
        let has_more = !found.waiting.is_empty();
        let lanes = self.users.get_mut(&lane.user).expect("running lanes have a user");
        lanes.running -= 1;
        if has_more {
            lanes.ready.push_back(lane.session);
        }
        self.note_ready(lane.user);
        self.retire(lane);
    }

    /// Whether the lane has a task, waiting, running or being written.
    pub(crate) fn has_lane(&self, lane: LaneId) -> bool {
        self.lanes.contains_key(&lane)
    }

    /// Marks the lane's session as ended, or takes that back; says whether there is such a lane.
    pub(crate) fn set_ended(&mut self, lane: LaneId, is_ended: bool) -> bool {
        self.lanes.get_mut(&lane).map(|lane| lane.is_ended = is_ended).is_some()
    }

    /// Whether the lane's session was ended.
    pub(crate) fn is_ended(&self, lane: LaneId) -> bool {
        self.lanes.get(&lane).is_some_and(|lane| lane.is_ended)
    }

    /// The newest session of a user that has a task and was not ended.
    pub(crate) fn newest_session(&self, user: &UserId) -> Option<SessionId> {
        let sessions = self.users.get(user)?.sessions.iter().copied();
        sessions.filter(|session| !self.is_ended(LaneId { user: *user, session: *session })).max()
    }

    /// Tasks waiting, reserved places included.
    pub(crate) fn queued(&self) -> usize {
        self.queued
    }

    /// Tasks running.
    pub(crate) fn running(&self) -> usize {
        self.running
    }

    fn lane(&mut self, lane: LaneId) -> &mut Lane {
        self.lanes.entry(lane).or_insert_with(|| {
            self.users.entry(lane.user).or_default().sessions.push(lane.session);
            Lane::default()
        })
    }

    fn enqueue(&mut self, lane: LaneId, task: TaskId) {
        let found = self.lanes.get_mut(&lane).expect("made before it is filled");
        found.waiting.push_back(task);
        if found.waiting.len() == 1 && !found.is_running {
            let lanes = self.users.get_mut(&lane.user).expect("lanes have a user");
            lanes.ready.push_back(lane.session);
            self.note_ready(lane.user);
        }
    }

    /// Puts a user among the ready when that is due.
    fn note_ready(&mut self, user: UserId) {
        let lanes = self.users.get_mut(&user).expect("noted while it has lanes");
        let may_run = !lanes.ready.is_empty() && lanes.running < self.limits.running_per_user_max;
        if may_run && !lanes.is_ready {
            lanes.is_ready = true;
            self.ready.push_back(user);
        }
    }

    /// Drops a lane that has nothing left, and a user who has no lane left.
    fn retire(&mut self, lane: LaneId) {
        let found = &self.lanes[&lane];
        if found.is_running || found.reserved > 0 || !found.waiting.is_empty() {
            return;
        }
        self.lanes.remove(&lane);
        let lanes = self.users.get_mut(&lane.user).expect("lanes have a user");
        lanes.sessions.retain(|session| *session != lane.session);
        if lanes.sessions.is_empty() {
            self.users.remove(&lane.user);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap as Model;

    use proptest::prelude::*;

    use super::*;

    fn lane(user: u8, session: u8) -> LaneId {
        LaneId { user: UserId::from_bytes([user; 16]), session: SessionId::from_bytes([session; 16]) }
    }

    fn task(number: u64) -> TaskId {
        TaskId::new(number, [0; 10])
    }

    fn queue(queued_max: usize, running_max: usize, running_per_user_max: usize) -> Queue {
        Queue::new(QueueLimits { queued_max, running_max, running_per_user_max })
    }

    fn push(queue: &mut Queue, lane: LaneId, number: u64) {
        queue.reserve(lane).unwrap();
        queue.push_reserved(lane, task(number));
    }

    #[test]
    fn a_session_runs_one_task_at_a_time_in_order() {
        let mut queue = queue(10, 10, 10);
        push(&mut queue, lane(1, 1), 1);
        push(&mut queue, lane(1, 1), 2);
        push(&mut queue, lane(1, 2), 3);
        assert_eq!(queue.next(), Some((lane(1, 1), task(1))));
        assert_eq!(queue.next(), Some((lane(1, 2), task(3))));
        assert_eq!(queue.next(), None);
        queue.finish(lane(1, 1));
        assert_eq!(queue.next(), Some((lane(1, 1), task(2))));
    }

    #[test]
    fn a_user_with_many_sessions_leaves_room_for_others() {
        let mut queue = queue(100, 3, 2);
        for session in 0..10 {
            push(&mut queue, lane(1, session), u64::from(session));
        }
        push(&mut queue, lane(2, 1), 100);
        let started: Vec<_> = std::iter::from_fn(|| queue.next()).collect();
        assert_eq!(started, [(lane(1, 0), task(0)), (lane(2, 1), task(100)), (lane(1, 1), task(1))]);
        queue.finish(lane(2, 1));
        // User 1 has two running, so nothing starts although a place is free.
        assert_eq!(queue.next(), None);
    }

    #[test]
    fn reserved_places_count_and_come_back() {
        let mut queue = queue(2, 1, 1);
        queue.reserve(lane(1, 1)).unwrap();
        queue.reserve(lane(1, 2)).unwrap();
        assert_eq!(queue.reserve(lane(2, 1)), Err(Full));
        queue.release(lane(1, 2));
        assert!(!queue.has_lane(lane(1, 2)));
        assert_eq!(queue.reserve(lane(2, 1)), Ok(()));
    }

    #[test]
    fn promised_tasks_are_taken_beyond_the_bound() {
        let mut queue = queue(1, 1, 1);
        (0..5).for_each(|number| queue.push_recovered(lane(1, 1), task(number)));
        assert_eq!((queue.queued(), queue.reserve(lane(1, 1))), (5, Err(Full)));
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

    #[derive(Clone, Debug)]
    enum Step {
        Push(u8, u8),
        Recover(u8, u8),
        Start,
        Finish(prop::sample::Index),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0u8..4, 0u8..3).prop_map(|(user, session)| Step::Push(user, session)),
            1 => (0u8..4, 0u8..3).prop_map(|(user, session)| Step::Recover(user, session)),
            4 => Just(Step::Start),
            3 => any::<prop::sample::Index>().prop_map(Step::Finish),
        ]
    }

    proptest! {
        #[test]
        fn bounds_and_order_hold_and_everything_runs(
            steps in prop::collection::vec(step(), 1..200), running_max in 1usize..6, per_user in 1usize..4,
        ) {
            let mut queue = queue(20, running_max, per_user);
            let mut model: Model<LaneId, VecDeque<TaskId>> = Model::new();
            let mut running: Vec<LaneId> = Vec::new();
            let mut number = 0;
            let start = |queue: &mut Queue, model: &mut Model<LaneId, VecDeque<TaskId>>, running: &mut Vec<LaneId>| {
                let Some((lane, task)) = queue.next() else { return false };
                assert_eq!(model.get_mut(&lane).and_then(VecDeque::pop_front), Some(task));
                assert!(!running.contains(&lane));
                running.push(lane);
                assert!(running.len() <= running_max);
                assert!(running.iter().filter(|other| other.user == lane.user).count() <= per_user);
                true
            };
            for step in steps {
                match step {
                    Step::Push(user, session) => {
                        let lane = lane(user, session);
                        let waiting: usize = model.values().map(VecDeque::len).sum();
                        prop_assert_eq!(queue.reserve(lane).is_ok(), waiting < 20);
                        if waiting < 20 {
                            number += 1;
                            queue.push_reserved(lane, task(number));
                            model.entry(lane).or_default().push_back(task(number));
                        }
                    }
                    Step::Recover(user, session) => {
                        number += 1;
                        queue.push_recovered(lane(user, session), task(number));
                        model.entry(lane(user, session)).or_default().push_back(task(number));
                    }
                    Step::Start => { start(&mut queue, &mut model, &mut running); }
                    Step::Finish(index) if !running.is_empty() => {
                        queue.finish(running.swap_remove(index.index(running.len())));
                    }
                    Step::Finish(_) => {}
                }
                prop_assert_eq!(queue.queued(), model.values().map(VecDeque::len).sum::<usize>());
                prop_assert_eq!(queue.running(), running.len());
            }
            // Whatever happened before: nothing is forgotten.
            loop {
                while start(&mut queue, &mut model, &mut running) {}
                let Some(lane) = running.pop() else { break };
                queue.finish(lane);
            }
            prop_assert!(model.values().all(VecDeque::is_empty));
            prop_assert!(queue.lanes.is_empty() && queue.users.is_empty() && queue.ready.is_empty());
        }
    }
}
