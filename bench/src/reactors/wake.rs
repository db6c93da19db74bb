//! A plain thread wakes a task of a runtime that sleeps. The task's side is the same code everywhere; the
//! runtime brings its waker and its way to sleep and to be woken.

use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use super::Figures;
use super::work::{Places, Spent, histogram, join, nanos, pin, thread_time};

/// How long the runtime is left alone before each wake, so that it sleeps.
const PAUSE: Duration = Duration::from_micros(100);

/// What the two threads share. One wake is outstanding at a time.
#[derive(Debug, Default)]
pub(super) struct Wait {
    waker: Mutex<Option<Waker>>,
    /// When the wake was sent, in nanoseconds since the start; 0: none.
    sent: AtomicU64,
    taken: AtomicU64,
    over: AtomicBool,
}

/// The woken task, with what it needs to measure itself.
pub(super) struct Task {
    wait: Arc<Wait>,
    origin: Instant,
}

impl Task {
    /// Takes wakes until they are over.
    pub(super) async fn run(self) -> anyhow::Result<(Spent, Histogram<u64>)> {
        let mut latency = histogram();
        let mut count = 0;
        let start = Instant::now();
        let cpu = thread_time()?;
        while let Some(sent) = self.next().await {
            latency.saturating_record(nanos(self.origin.elapsed()).saturating_sub(sent));
            count += 1;
            self.wait.taken.store(count, Ordering::Release);
        }
        Ok((Spent::since(count, start, cpu)?, latency))
    }

    async fn next(&self) -> Option<u64> {
        poll_fn(|cx| {
            let mut waker = self.wait.waker.lock().unwrap_or_else(PoisonError::into_inner);
            match self.wait.sent.swap(0, Ordering::AcqRel) {
                0 if self.wait.over.load(Ordering::Acquire) => Poll::Ready(None),
                0 => {
                    *waker = Some(cx.waker().clone());
                    Poll::Pending
                }
                sent => Poll::Ready(Some(sent)),
            }
        })
        .await
    }
}

/// Runs the task that is woken, and says what that took.
type BlockOn = fn(Places, Task) -> anyhow::Result<(Spent, Histogram<u64>)>;

/// Wakes the task that `block_on` runs, again and again, for `duration`.
pub(super) fn measure(block_on: BlockOn, duration: Duration, places: Places) -> anyhow::Result<Figures> {
    let origin = Instant::now();
    let wait = Arc::new(Wait::default());
    let task = Task { wait: Arc::clone(&wait), origin };
    let tested = std::thread::spawn(move || block_on(places, task));
    let driver = std::thread::spawn(move || {
        pin(places.driver)?;
        drive(&wait, origin, duration, || tested.is_finished());
        join(tested)
    });
    let (spent, latency) = join(driver)?;
    spent.figures(Some(&latency))
}

fn drive(wait: &Wait, origin: Instant, duration: Duration, is_gone: impl Fn() -> bool) {
    let mut sent = 0;
    while origin.elapsed() < duration || sent == 0 {
        pause();
        let Some(waker) = take_waker(wait) else {
            if is_gone() {
                return;
            }
            continue;
        };
        wait.sent.store(nanos(origin.elapsed()).max(1), Ordering::Release);
        waker.wake();
        sent += 1;
        while wait.taken.load(Ordering::Acquire) < sent {
            if is_gone() {
                return;
            }
            std::thread::yield_now();
        }
    }
    wait.over.store(true, Ordering::Release);
    while !is_gone() {
        if let Some(waker) = take_waker(wait) {
            waker.wake();
        }
        pause();
    }
}

/// Not by sleeping: a driver that has to be woken itself would be late with the next wake's clock.
fn pause() {
    let start = Instant::now();
    while start.elapsed() < PAUSE {
        std::thread::yield_now();
    }
}

fn take_waker(wait: &Wait) -> Option<Waker> {
    wait.waker.lock().unwrap_or_else(PoisonError::into_inner).take()
}
