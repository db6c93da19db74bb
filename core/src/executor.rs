//! Local tasks: a slab of futures, a ready queue, and the end-of-turn queue.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use slab::Slab;

use crate::reactor::Inner;
use crate::remote::{self, TaskRef};

thread_local! {
    static CURRENT: RefCell<Option<Rc<Inner>>> = const { RefCell::new(None) };
    /// The running reactor's number, so that a wake can tell at a glance
    /// whether it is local; `u8::MAX` when none runs.
    static CURRENT_NUMBER: Cell<u8> = const { Cell::new(u8::MAX) };
}

/// Makes `inner` the thread's reactor until the guard is dropped.
pub(crate) fn enter(inner: &Rc<Inner>) -> EnterGuard {
    CURRENT.with_borrow_mut(|current| {
        assert!(current.is_none(), "a reactor already runs on this thread");
        *current = Some(Rc::clone(inner));
    });
    CURRENT_NUMBER.set(inner.number);
    EnterGuard(())
}

pub(crate) struct EnterGuard(());

impl Drop for EnterGuard {
    fn drop(&mut self) {
        CURRENT_NUMBER.set(u8::MAX);
        CURRENT.with_borrow_mut(|current| *current = None);
    }
}

pub(crate) fn try_with_inner<R>(f: impl FnOnce(&Rc<Inner>) -> R) -> Option<R> {
    CURRENT.try_with(|current| current.try_borrow().ok().and_then(|c| c.as_ref().map(f))).ok().flatten()
}

pub(crate) fn with_inner<R>(f: impl FnOnce(&Rc<Inner>) -> R) -> R {
    CURRENT.with_borrow(|current| f(current.as_ref().expect("called outside a reactor")))
}

type LocalFuture = Pin<Box<dyn Future<Output = ()>>>;

struct Task {
    /// `None` while the task is being polled.
    future: Option<LocalFuture>,
    generation: u32,
    queued: bool,
}

/// The tasks of one reactor.
#[derive(Default)]
pub(crate) struct Tasks {
    slots: RefCell<Slab<Task>>,
    ready: RefCell<VecDeque<u32>>,
    at_end_of_turn: RefCell<Vec<Waker>>,
    generation: Cell<u32>,
}

impl Tasks {
    pub(crate) fn spawn(&self, reactor: u8, future: LocalFuture) -> TaskRef {
        let generation = self.generation.get().wrapping_add(1) & TaskRef::GENERATION_MASK;
        self.generation.set(generation);
        let task = Task { future: Some(future), generation, queued: true };
        let slot = u32::try_from(self.slots.borrow_mut().insert(task)).expect("fewer than 2^32 tasks");
        self.ready.borrow_mut().push_back(slot);
        TaskRef { reactor, generation, slot }
    }

    /// Puts a task on the ready queue unless it is there or gone.
    pub(crate) fn wake(&self, task: TaskRef) {
        let mut slots = self.slots.borrow_mut();
        if let Some(found) = slots.get_mut(task.slot as usize)
            && found.generation == task.generation
            && !found.queued
        {
            found.queued = true;
            self.ready.borrow_mut().push_back(task.slot);
        }
    }

    pub(crate) fn has_ready(&self) -> bool {
        !self.ready.borrow().is_empty() || !self.at_end_of_turn.borrow().is_empty()
    }

    /// Polls ready tasks, and when none is left those that wait for the end of
    /// the turn, until all is quiet or `budget` polls are spent.
    pub(crate) fn run(&self, reactor: u8, budget: usize) -> usize {
        let mut polls = 0;
        while polls < budget {
            let next = self.ready.borrow_mut().pop_front();
            match next {
                Some(slot) => {
                    self.poll(reactor, slot);
                    polls += 1;
                }
                None => {
                    let waiting = std::mem::take(&mut *self.at_end_of_turn.borrow_mut());
                    if waiting.is_empty() {
                        break;
                    }
                    waiting.into_iter().for_each(Waker::wake);
                }
            }
        }
        polls
    }

    fn poll(&self, reactor: u8, slot: u32) {
        let taken = {
            let mut slots = self.slots.borrow_mut();
            let Some(task) = slots.get_mut(slot as usize) else { return };
            task.queued = false;
            task.future.take().map(|future| (future, task.generation))
        };
        let Some((mut future, generation)) = taken else { return };
        let waker = remote::waker(TaskRef { reactor, generation, slot });
        let done = future.as_mut().poll(&mut Context::from_waker(&waker)).is_ready();
        let mut slots = self.slots.borrow_mut();
        if done {
            slots.remove(slot as usize);
            // The future's own drop may spawn or wake, so the slab is let go first.
            drop(slots);
            drop(future);
        } else if let Some(task) = slots.get_mut(slot as usize) {
            task.future = Some(future);
        }
    }

    /// Drops every task; those their drops spawn are dropped too.
    pub(crate) fn clear(&self) {
        loop {
            let task = {
                let mut slots = self.slots.borrow_mut();
                let Some(slot) = slots.iter().next().map(|(slot, _)| slot) else { break };
                slots.remove(slot)
            };
            drop(task);
        }
        self.ready.borrow_mut().clear();
        self.at_end_of_turn.borrow_mut().clear();
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.slots.borrow().len()
    }
}

/// Wakes the task when it lives on this thread's reactor; false otherwise.
pub(crate) fn wake_local(task: TaskRef) -> bool {
    if CURRENT_NUMBER.try_with(Cell::get).unwrap_or(u8::MAX) != task.reactor {
        return false;
    }
    try_with_inner(|inner| inner.tasks.wake(task)).is_some()
}

/// The clock of this turn: read once, after the reactor woke.
///
/// # Panics
/// Outside a reactor.
pub fn now() -> Instant {
    with_inner(|inner| inner.now())
}

struct JoinState<T> {
    output: Option<T>,
    waiter: Option<Waker>,
    finished: bool,
}

/// Waits for a spawned task. Dropping it lets the task go on unobserved.
pub struct JoinHandle<T> {
    state: Rc<RefCell<JoinState<T>>>,
}

impl<T> Future for JoinHandle<T> {
    type Output = T;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        let mut state = self.state.borrow_mut();
        match state.output.take() {
            Some(output) => Poll::Ready(output),
            None => {
                state.waiter = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl<T> JoinHandle<T> {
    /// Whether the task has run to its end.
    pub fn is_finished(&self) -> bool {
        self.state.borrow().finished
    }

    pub(crate) fn take(&self) -> Option<T> {
        self.state.borrow_mut().output.take()
    }
}

/// Starts a task on this thread's reactor. It is first polled in this turn,
/// after the tasks that are ready now.
///
/// # Panics
/// Outside a reactor.
pub fn spawn<F>(future: F) -> JoinHandle<F::Output>
where
    F: Future + 'static,
{
    with_inner(|inner| spawn_on(inner, future))
}

pub(crate) fn spawn_on<F>(inner: &Rc<Inner>, future: F) -> JoinHandle<F::Output>
where
    F: Future + 'static,
{
    let state = Rc::new(RefCell::new(JoinState { output: None, waiter: None, finished: false }));
    let handle = JoinHandle { state: Rc::clone(&state) };
    inner.tasks.spawn(
        inner.number,
        Box::pin(async move {
            let output = future.await;
            let waiter = {
                let mut state = state.borrow_mut();
                state.output = Some(output);
                state.finished = true;
                state.waiter.take()
            };
            if let Some(waiter) = waiter {
                waiter.wake();
            }
        }),
    );
    handle
}

/// Resumes at the end of the turn: when no other task is ready, and before the
/// reactor enters the kernel. What is gathered over a turn (packets to send,
/// changes to commit) is handed on after this.
pub async fn quiesce() {
    let mut waited = false;
    std::future::poll_fn(|cx| {
        if waited {
            return Poll::Ready(());
        }
        waited = true;
        with_inner(|inner| inner.tasks.at_end_of_turn.borrow_mut().push(cx.waker().clone()));
        Poll::Pending
    })
    .await;
}

/// Lets every other ready task run first.
pub async fn yield_now() {
    let mut yielded = false;
    std::future::poll_fn(|cx| {
        if yielded {
            return Poll::Ready(());
        }
        yielded = true;
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}
