//! What the engine needs of whatever runs it: our reactor for HTTP/3, tokio for
//! HTTP/2 and HTTP/1.1, and a clock of the tests' own.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use sluice_core::TurnHook;

/// One thread's clock and tasks.
pub(super) trait Runtime: 'static {
    /// A timer may fire this late.
    const TICK: Duration;

    /// The time now, read anew.
    fn now() -> Instant;
    /// Waits, perhaps up to [`Self::TICK`] too long.
    fn sleep_until(at: Instant) -> impl Future<Output = ()>;
    /// Starts a task of this thread.
    fn spawn(future: impl Future<Output = ()> + 'static);
    /// Lets everything else run and the network be looked at, without sleeping.
    fn next_turn() -> impl Future<Output = ()>;
    /// `None` when `future` is not done by then.
    fn timeout_at<F: Future>(at: Instant, future: F) -> impl Future<Output = Option<F::Output>> {
        async move {
            let mut future = pin!(future);
            let mut sleep = pin!(Self::sleep_until(at));
            poll_fn(|cx| match future.as_mut().poll(cx) {
                Poll::Ready(output) => Poll::Ready(Some(output)),
                Poll::Pending => sleep.as_mut().poll(cx).map(|()| None),
            })
            .await
        }
    }
}

/// Our reactor.
pub(super) struct OnReactor;

impl Runtime for OnReactor {
    const TICK: Duration = Duration::from_micros(300);

    fn now() -> Instant {
        Instant::now()
    }

    fn sleep_until(at: Instant) -> impl Future<Output = ()> {
        sluice_core::sleep_until(at)
    }

    fn spawn(future: impl Future<Output = ()> + 'static) {
        drop(sluice_core::spawn(future));
    }

    async fn next_turn() {
        TURNS.with(Rc::clone).next().await;
    }
}

thread_local! {
    static TURNS: Rc<Turns> = Rc::default();
}

/// Wakes its waiters at the start of the reactor's next turn, and keeps it from
/// sleeping until then. (Waiting for the end of a turn would not do: what is woken
/// there runs in the same turn, before the kernel is asked for what has arrived.)
#[derive(Default)]
struct Turns {
    waiting: RefCell<Vec<Waker>>,
    is_hooked: Cell<bool>,
}

impl Turns {
    async fn next(self: Rc<Self>) {
        if !self.is_hooked.replace(true) {
            sluice_core::add_turn_hook(Rc::clone(&self) as Rc<dyn TurnHook>);
        }
        let mut is_waiting = false;
        poll_fn(|cx| {
            if std::mem::replace(&mut is_waiting, true) {
                return Poll::Ready(());
            }
            self.waiting.borrow_mut().push(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }
}

impl TurnHook for Turns {
    fn poll(&self) {
        let waiting = std::mem::take(&mut *self.waiting.borrow_mut());
        waiting.into_iter().for_each(Waker::wake);
    }

    fn has_pending(&self) -> bool {
        !self.waiting.borrow().is_empty()
    }

    fn flush(&self) {}
}

/// A tokio runtime of one thread, within a `LocalSet`.
pub(super) struct OnTokio;

impl Runtime for OnTokio {
    // Its timers count milliseconds and round up.
    const TICK: Duration = Duration::from_micros(1_200);

    fn now() -> Instant {
        Instant::now()
    }

    fn sleep_until(at: Instant) -> impl Future<Output = ()> {
        tokio::time::sleep_until(at.into())
    }

    fn spawn(future: impl Future<Output = ()> + 'static) {
        drop(tokio::task::spawn_local(future));
    }

    fn next_turn() -> impl Future<Output = ()> {
        tokio::task::yield_now()
    }
}

#[cfg(test)]
pub(super) mod virtual_time {
    //! A runtime whose clock jumps to the next timer when nothing else is to do, so
    //! that a test of minutes takes milliseconds and always goes the same way.

    use std::cell::RefCell;
    use std::collections::BTreeMap;
    use std::pin::Pin;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::sync::{Arc, LazyLock};
    use std::task::{Context, Wake};

    use super::*;

    static EPOCH: LazyLock<Instant> = LazyLock::new(Instant::now);

    #[derive(Default)]
    struct World {
        elapsed: Duration,
        timers: BTreeMap<(Duration, u64), Waker>,
        timer_number: u64,
        spawned: Vec<LocalFuture>,
    }

    type LocalFuture = Pin<Box<dyn Future<Output = ()>>>;

    thread_local! {
        static WORLD: RefCell<World> = RefCell::default();
    }

    struct Flag(AtomicBool);

    impl Wake for Flag {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Ordering::Relaxed);
        }
    }

    pub(in super::super) struct Virtual;

    impl Runtime for Virtual {
        const TICK: Duration = Duration::from_micros(300);

        fn now() -> Instant {
            *EPOCH + WORLD.with_borrow(|world| world.elapsed)
        }

        fn sleep_until(at: Instant) -> impl Future<Output = ()> {
            let at = at.saturating_duration_since(*EPOCH);
            poll_fn(move |cx| {
                WORLD.with_borrow_mut(|world| {
                    if world.elapsed >= at {
                        return Poll::Ready(());
                    }
                    world.timer_number += 1;
                    let number = world.timer_number;
                    world.timers.insert((at, number), cx.waker().clone());
                    Poll::Pending
                })
            })
        }

        fn spawn(future: impl Future<Output = ()> + 'static) {
            WORLD.with_borrow_mut(|world| world.spawned.push(Box::pin(future)));
        }

        // Looking takes time, as it does in reality.
        fn next_turn() -> impl Future<Output = ()> {
            Self::sleep_until(Self::now() + Duration::from_micros(5))
        }
    }

    impl Virtual {
        /// The thread works for so long, during which nothing else of it runs.
        pub(in super::super) fn work(time: Duration) {
            WORLD.with_borrow_mut(|world| world.elapsed += time);
        }

        /// Runs until `future` is done; the other tasks are then dropped.
        pub(in super::super) fn run<T: 'static>(future: impl Future<Output = T> + 'static) -> T {
            WORLD.with_borrow_mut(|world| *world = World::default());
            let output = Rc::new(RefCell::new(None));
            let slot = Rc::clone(&output);
            let mut tasks: Vec<(LocalFuture, Arc<Flag>)> = Vec::new();
            Self::spawn(async move {
                let made = future.await;
                *slot.borrow_mut() = Some(made);
            });
            loop {
                for new in WORLD.with_borrow_mut(|world| std::mem::take(&mut world.spawned)) {
                    tasks.push((new, Arc::new(Flag(AtomicBool::new(true)))));
                }
                let mut is_quiet = true;
                tasks.retain_mut(|(task, flag)| {
                    if !flag.0.swap(false, Ordering::Relaxed) {
                        return true;
                    }
                    is_quiet = false;
                    let waker = Waker::from(Arc::clone(flag));
                    task.as_mut().poll(&mut Context::from_waker(&waker)).is_pending()
                });
                if let Some(made) = output.borrow_mut().take() {
                    return made;
                }
                if is_quiet && WORLD.with_borrow(|world| world.spawned.is_empty()) {
                    WORLD.with_borrow_mut(|world| {
                        let ((at, _), waker) = world.timers.pop_first().expect("every task is stuck");
                        world.elapsed = world.elapsed.max(at);
                        waker.wake();
                    });
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What every runtime has to do, seen from within.
    async fn conforms<R: Runtime>() {
        let start = R::now();
        let ran = Rc::new(Cell::new(false));
        let seen = Rc::clone(&ran);
        R::spawn(async move { seen.set(true) });
        for _ in 0..3 {
            R::next_turn().await;
        }
        assert!(ran.get());
        let at = start + Duration::from_millis(5);
        R::sleep_until(at).await;
        assert!(R::now() >= at);
        let soon = R::now() + Duration::from_millis(2);
        assert_eq!(R::timeout_at(soon, std::future::pending::<()>()).await, None);
        assert_eq!(R::timeout_at(soon, std::future::ready(7)).await, Some(7));
    }

    #[test]
    fn all_runtimes_keep_the_contract() {
        virtual_time::Virtual::run(conforms::<virtual_time::Virtual>());
        let config = sluice_core::ReactorConfig::new(sluice_core::CoreId::new(0));
        sluice_core::Reactor::new(config).unwrap().block_on(conforms::<OnReactor>()).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        tokio::task::LocalSet::new().block_on(&runtime, conforms::<OnTokio>());
    }
}
