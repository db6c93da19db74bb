//! The order in which one core runs its tasks. No IO, no clock: `now_ms` comes in where it matters.
//!
//! A lane is one session of one user. Invariants:
//! - a lane runs one task at a time, in the order they were promised, so that a command finds what the one before it
//!   brought up; a task that waits for its next attempt keeps its place, and so holds its lane until its deadline;
//! - a lane is as urgent as the most urgent task in it: a high command behind a batch one pulls that one forward;
//! - at most `running_max` tasks run, at most `running_per_user_max` of one user; of both, [`shares`] keeps an eighth
//!   of the places from all but high work and a quarter from batch work;
//! - at most `queued_max` tasks wait, reserved places included and shared out in the same way; recovered and retried
//!   tasks alone may exceed that, for they were promised already;
//! - within a priority users take turns, and so do the lanes of a user: nobody who keeps a queue full starves another;
//! - who may run something of a priority is in its `ready` exactly once.
//!
//! Starvation. Starts go round [`ROUND`]: 16 slots of high, 4 of normal, 1 of batch, the slots of a priority spread out.
//! A start takes the first slot from the cursor on whose priority has something to start and a place to run it, and
//! leaves the cursor behind that slot. So, as long as a priority has both, the cursor cannot pass a slot of it without
//! starting something of it; each start moves the cursor by at least one slot; hence fewer starts of others come before
//! its next one than there are slots between two of its own: at most 2 for high, 5 for normal and 20 for batch
//! ([`passed_over_max`]). A user among `n` who have something ready in it waits at most `n` times as long, since users of
//! a priority take turns. What was not used is not saved up: a priority that was idle has no claim on later slots.

use std::collections::{BTreeSet, VecDeque};

use hashbrown::HashMap;
use sluice_protocols::api::Priority;
use sluice_protocols::ids::{SessionId, TaskId, UserId};

/// How many priorities there are.
const PRIORITIES: usize = Priority::ALL.len();

/// The order in which priorities are asked for something to start.
const ROUND: [Priority; 21] = {
    use Priority::{Batch as B, High as H, Normal as N};
    [H, H, H, H, N, H, H, H, H, N, H, H, H, H, N, H, H, H, H, N, B]
};

/// How many starts of other priorities may come before the next one of this, while it has something to start and a
/// place to run it: the longest way between two of its slots, less one.
#[cfg(test)]
const fn passed_over_max(priority: Priority) -> usize {
    match priority {
        Priority::High => 2,
        Priority::Normal => 5,
        Priority::Batch => 20,
    }
}

/// A session of a user.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
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

/// How many of `places` a priority and those below it may take together: all for high, seven eighths for normal, three
/// quarters for batch, and at least one.
pub(crate) const fn shares(places: usize) -> [usize; PRIORITIES] {
    let (normal, batch) = (places - places / 8, places - places.div_ceil(4));
    [places, normal, if batch == 0 { places } else { batch }]
}

/// Places, and who has them.
#[derive(Clone, Copy, Debug)]
struct Places {
    shares: [usize; PRIORITIES],
    taken: [usize; PRIORITIES],
}

impl Places {
    const fn new(places: usize) -> Self {
        Self { shares: shares(places), taken: [0; PRIORITIES] }
    }

    fn taken(&self) -> usize {
        self.taken.iter().sum()
    }

    /// Whether there is a place: of the share of the priority, and of each that holds that one.
    fn has_room(&self, priority: Priority) -> bool {
        (0..=priority as usize).all(|from| self.taken[from..].iter().sum::<usize>() < self.shares[from])
    }
}

/// No place is left; come again later.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Full;

/// A task was taken out of its lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Removed {
    /// The one whose turn it is now, and was not before.
    pub(crate) next: Option<TaskId>,
}

/// A task that waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) task: TaskId,
    pub(crate) priority: Priority,
    /// It is not run before this moment, in milliseconds since 1970; 0 for at once.
    pub(crate) not_before_ms: u64,
}

/// See the module.
pub(crate) struct Queue {
    lanes: HashMap<LaneId, Lane, foldhash::fast::RandomState>,
    users: HashMap<UserId, UserLanes, foldhash::fast::RandomState>,
    /// By priority: users who have a lane to run, and may have a place of their own for it.
    ready: [VecDeque<UserId>; PRIORITIES],
    /// Lanes whose first task is not due yet.
    delayed: BTreeSet<(u64, LaneId)>,
    /// By priority: the tasks that wait, oldest first.
    waiting: [BTreeSet<TaskId>; PRIORITIES],
    queued: Places,
    running: Places,
    running_per_user_max: usize,
    /// Where in [`ROUND`] the next start looks first.
    cursor: usize,
}

#[derive(Default)]
struct Lane {
    waiting: VecDeque<Entry>,
    /// Places kept for tasks that are being written.
    reserved: usize,
    /// What its running task counts as.
    running: Option<Priority>,
    /// The session was ended: what its tasks find is not remembered.
    is_ended: bool,
    place: Place,
}

/// Where a lane is listed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Place {
    /// Nowhere: it runs, or has nothing to run.
    #[default]
    Nowhere,
    /// Among its user's ready ones of this priority.
    Ready(Priority),
    /// Until this moment.
    Delayed(u64),
}

impl Lane {
    /// Where it should be listed.
    fn due_place(&self) -> Place {
        let urgency = self.waiting.iter().map(|entry| entry.priority).min();
        match (self.running, self.waiting.front(), urgency) {
            (None, Some(first), Some(urgency)) if first.not_before_ms == 0 => Place::Ready(urgency),
            (None, Some(first), _) => Place::Delayed(first.not_before_ms),
            _ => Place::Nowhere,
        }
    }
}

struct UserLanes {
    /// By priority: lanes that may run.
    ready: [VecDeque<SessionId>; PRIORITIES],
    running: Places,
    /// Every lane of the user, ready or not.
    sessions: Vec<SessionId>,
    is_ready: [bool; PRIORITIES],
}

impl UserLanes {
    fn new(running_max: usize) -> Self {
        Self {
            ready: Default::default(),
            running: Places::new(running_max),
            sessions: Vec::new(),
            is_ready: [false; PRIORITIES],
        }
    }

    fn may_start(&self, priority: Priority) -> bool {
        !self.ready[priority as usize].is_empty() && self.running.has_room(priority)
    }
}

impl Queue {
    pub(crate) fn new(limits: QueueLimits) -> Self {
        Self {
            lanes: HashMap::default(),
            users: HashMap::default(),
            ready: Default::default(),
            delayed: BTreeSet::new(),
            waiting: Default::default(),
            queued: Places::new(limits.queued_max),
            running: Places::new(limits.running_max),
            running_per_user_max: limits.running_per_user_max,
            cursor: 0,
        }
    }

    /// Keeps a place for a task that is about to be written.
    pub(crate) fn reserve(&mut self, lane: LaneId, priority: Priority) -> Result<(), Full> {
        if !self.queued.has_room(priority) {
            return Err(Full);
        }
        self.queued.taken[priority as usize] += 1;
        self.lane(lane).reserved += 1;
        Ok(())
    }

    /// Gives a place back: the task was not written.
    pub(crate) fn release(&mut self, lane: LaneId, priority: Priority) {
        self.queued.taken[priority as usize] -= 1;
        self.lane(lane).reserved -= 1;
        self.retire(lane);
    }

    /// Puts a task into the place that was kept for it.
    pub(crate) fn push_reserved(&mut self, lane: LaneId, entry: Entry) {
        let found = self.lane(lane);
        found.reserved -= 1;
        found.waiting.push_back(entry);
        self.waiting[entry.priority as usize].insert(entry.task);
        self.place(lane);
    }

    /// Puts a task in whatever the bound, where it belongs among its lane's by its id: it was promised before.
    pub(crate) fn push_promised(&mut self, lane: LaneId, entry: Entry) {
        self.queued.taken[entry.priority as usize] += 1;
        let found = self.lane(lane);
        let at = found.waiting.partition_point(|other| other.task < entry.task);
        found.waiting.insert(at, entry);
        self.waiting[entry.priority as usize].insert(entry.task);
        self.place(lane);
    }

    /// The next task to run, if one may. Tell [`Self::finish`] when it has ended.
    pub(crate) fn next(&mut self, now_ms: u64) -> Option<(LaneId, TaskId)> {
        self.release_due(now_ms);
        let mut has_none = [false; PRIORITIES];
        for step in 0..ROUND.len() {
            let slot = (self.cursor + step) % ROUND.len();
            let priority = ROUND[slot];
            if has_none[priority as usize] {
                continue;
            }
            if let Some(found) = self.take(priority) {
                self.cursor = (slot + 1) % ROUND.len();
                return Some(found);
            }
            has_none[priority as usize] = true;
        }
        None
    }

    /// Starts something of a priority.
    fn take(&mut self, priority: Priority) -> Option<(LaneId, TaskId)> {
        if !self.running.has_room(priority) {
            return None;
        }
        let class = priority as usize;
        while let Some(user) = self.ready[class].pop_front() {
            let lanes = self.users.get_mut(&user).expect("ready users have lanes");
            lanes.is_ready[class] = false;
            // Another of the user's tasks may have taken the place; its end notes the user again.
            if !lanes.may_start(priority) {
                continue;
            }
            let session = *lanes.ready[class].front().expect("who may start has a lane");
            lanes.running.taken[class] += 1;
            self.running.taken[class] += 1;
            let lane = LaneId { user, session };
            let found = self.lanes.get_mut(&lane).expect("ready lanes exist");
            found.running = Some(priority);
            let entry = found.waiting.pop_front().expect("ready lanes have a task");
            self.forget_waiting(&entry);
            self.place(lane);
            self.note_ready(user);
            return Some((lane, entry.task));
        }
        None
    }

    /// The task that [`Self::next`] gave for this lane has ended. Gives the one whose turn it is now.
    pub(crate) fn finish(&mut self, lane: LaneId) -> Option<TaskId> {
        self.stop(lane);
        let next = self.lanes.get(&lane).and_then(|found| found.waiting.front()).map(|entry| entry.task);
        self.retire(lane);
        next
    }

    /// The task that [`Self::next`] gave for this lane is to be run again, before the others of the lane.
    pub(crate) fn put_back(&mut self, lane: LaneId, entry: Entry) {
        self.queued.taken[entry.priority as usize] += 1;
        self.waiting[entry.priority as usize].insert(entry.task);
        self.lanes.get_mut(&lane).expect("running lanes exist").waiting.push_front(entry);
        self.stop(lane);
    }

    /// Takes a task that waits out of its lane; `None` when it was not there.
    pub(crate) fn remove(&mut self, lane: LaneId, task: &TaskId) -> Option<Removed> {
        let found = self.lanes.get_mut(&lane)?;
        let at = found.waiting.iter().position(|entry| entry.task == *task)?;
        let entry = found.waiting.remove(at).expect("found at this place");
        let has_turn = at == 0 && found.running.is_none();
        let next = found.waiting.front().filter(|_| has_turn).map(|entry| entry.task);
        self.forget_waiting(&entry);
        self.place(lane);
        self.retire(lane);
        Some(Removed { next })
    }

    /// When the next lane is due that is not yet.
    pub(crate) fn due_ms(&self) -> Option<u64> {
        self.delayed.first().map(|(due_ms, _)| *due_ms)
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
        self.sessions(user).max()
    }

    /// The sessions of a user that have a task and were not ended.
    pub(crate) fn sessions<'a>(&'a self, user: &'a UserId) -> impl Iterator<Item = SessionId> + 'a {
        let sessions = self.users.get(user).into_iter().flat_map(|lanes| lanes.sessions.iter().copied());
        sessions.filter(|session| !self.is_ended(LaneId { user: *user, session: *session }))
    }

    /// Tasks waiting, reserved places included.
    pub(crate) fn queued(&self) -> usize {
        self.queued.taken()
    }

    /// Tasks waiting of a priority, reserved places included.
    pub(crate) fn queued_of(&self, priority: Priority) -> usize {
        self.queued.taken[priority as usize]
    }

    /// The oldest task of a priority that waits.
    pub(crate) fn oldest_of(&self, priority: Priority) -> Option<TaskId> {
        self.waiting[priority as usize].first().copied()
    }

    /// Tasks running.
    pub(crate) fn running(&self) -> usize {
        self.running.taken()
    }

    /// Tasks running that count as of a priority.
    pub(crate) fn running_of(&self, priority: Priority) -> usize {
        self.running.taken[priority as usize]
    }

    fn lane(&mut self, lane: LaneId) -> &mut Lane {
        self.lanes.entry(lane).or_insert_with(|| {
            let user = self.users.entry(lane.user);
            user.or_insert_with(|| UserLanes::new(self.running_per_user_max)).sessions.push(lane.session);
            Lane::default()
        })
    }

    fn forget_waiting(&mut self, entry: &Entry) {
        self.queued.taken[entry.priority as usize] -= 1;
        self.waiting[entry.priority as usize].remove(&entry.task);
    }

    /// Makes what was delayed ready when its time has come.
    fn release_due(&mut self, now_ms: u64) {
        while let Some((due_ms, lane)) = self.delayed.first().copied()
            && due_ms <= now_ms
        {
            let found = self.lanes.get_mut(&lane).expect("delayed lanes exist");
            found.waiting.front_mut().expect("delayed lanes have a task").not_before_ms = 0;
            self.place(lane);
        }
    }

    fn stop(&mut self, lane: LaneId) {
        let found = self.lanes.get_mut(&lane).expect("running lanes exist");
        let class = found.running.take().expect("stopped while it runs") as usize;
        self.running.taken[class] -= 1;
        self.users.get_mut(&lane.user).expect("lanes have a user").running.taken[class] -= 1;
        self.place(lane);
        self.note_ready(lane.user);
    }

    /// Lists a lane where it should be.
    fn place(&mut self, lane: LaneId) {
        let found = self.lanes.get_mut(&lane).expect("placed while it exists");
        let place = found.due_place();
        let before = std::mem::replace(&mut found.place, place);
        if before == place {
            return;
        }
        let lanes = self.users.get_mut(&lane.user).expect("lanes have a user");
        match before {
            Place::Nowhere => {}
            Place::Ready(priority) => lanes.ready[priority as usize].retain(|other| *other != lane.session),
            Place::Delayed(until_ms) => drop(self.delayed.remove(&(until_ms, lane))),
        }
        match place {
            Place::Nowhere => {}
            Place::Ready(priority) => {
                lanes.ready[priority as usize].push_back(lane.session);
                self.note_ready(lane.user);
            }
            Place::Delayed(until_ms) => drop(self.delayed.insert((until_ms, lane))),
        }
    }

    /// Puts a user among the ready of each priority when that is due.
    fn note_ready(&mut self, user: UserId) {
        let lanes = self.users.get_mut(&user).expect("noted while it has lanes");
        for priority in Priority::ALL {
            let class = priority as usize;
            if !lanes.is_ready[class] && lanes.may_start(priority) {
                lanes.is_ready[class] = true;
                self.ready[class].push_back(user);
            }
        }
    }

    /// Drops a lane that has nothing left, and a user who has no lane left.
    fn retire(&mut self, lane: LaneId) {
        let found = &self.lanes[&lane];
        if found.running.is_some() || found.reserved > 0 || !found.waiting.is_empty() {
            return;
        }
        self.lanes.remove(&lane);
        let lanes = self.users.get_mut(&lane.user).expect("lanes have a user");
        lanes.sessions.retain(|session| *session != lane.session);
        if lanes.sessions.is_empty() {
            let lanes = self.users.remove(&lane.user).expect("found above");
            // A task that was taken out may have left its user listed.
            for class in (0..PRIORITIES).filter(|class| lanes.is_ready[*class]) {
                self.ready[class].retain(|user| *user != lane.user);
            }
        }
    }
}

#[cfg(test)]
mod tests;
