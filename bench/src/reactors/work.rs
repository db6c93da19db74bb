//! What the runtimes share: where threads run, what their CPU time is, and the work that needs no more of a
//! runtime than a future or two.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::Poll;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, ensure};
use hdrhistogram::Histogram;
use rand::rngs::SmallRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};

use super::Figures;

/// Bytes of a datagram, as in QUIC's first packets.
pub(super) const DATAGRAM_BYTES: usize = 1_200;
/// Datagrams of a train.
pub(super) const TRAIN_LEN: usize = 16;
/// Datagrams in flight: 64 times 2,304 bytes of kernel memory fit the default socket buffer of 208 KiB.
pub(super) const WINDOW: usize = 64;
/// Receives that are outstanding at once where each is an operation of its own.
pub(super) const ECHO_TASKS: usize = 32;
/// Messages a queue between cores holds.
pub(super) const QUEUE_LEN: usize = 1_024;
/// Cores that send in the fan-in.
pub(super) const PRODUCERS: u16 = 3;
/// Timers alive at once.
const TIMERS: u64 = 100_000;
/// Tasks that share them: glommio counts the wakers of a task in 15 bits and aborts beyond.
const TIMER_TASKS: u64 = 8;

/// Where threads run.
#[derive(Debug, Clone, Copy)]
pub struct Places {
    /// CPU of the thread under test.
    pub tested: Option<usize>,
    /// CPU of what drives it.
    pub driver: Option<usize>,
}

/// Wherever the scheduler puts them: for tests.
pub const PLACES_NONE: Places = Places { tested: None, driver: None };

impl Places {
    /// CPU 0 and CPU 1.
    pub const PINNED: Self = Self { tested: Some(0), driver: Some(1) };
}

/// Pins the calling thread.
pub(super) fn pin(cpu: Option<usize>) -> anyhow::Result<()> {
    let Some(cpu) = cpu else { return Ok(()) };
    ::monoio::utils::bind_to_cpu_set([cpu]).map_err(|error| anyhow!("cannot pin to CPU {cpu}: {error}"))
}

/// CPU time of the calling thread, from the kernel's accounting in nanoseconds (proc(5), `schedstat`).
pub(super) fn thread_time() -> anyhow::Result<Duration> {
    // The figure is brought up to date when the thread goes through the scheduler.
    std::thread::yield_now();
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").context("no schedstat")?;
    let nanos = text.split_whitespace().next().context("empty schedstat")?;
    Ok(Duration::from_nanos(nanos.parse().with_context(|| format!("odd schedstat {text:?}"))?))
}

/// What a thread of a two-sided measurement brings back.
#[derive(Debug, Clone, Copy)]
pub(super) struct Spent {
    pub(super) units: u64,
    pub(super) cpu: Duration,
    pub(super) elapsed: Duration,
}

impl Spent {
    /// Since `start`, when the thread had used `cpu`.
    pub(super) fn since(units: u64, start: Instant, cpu: Duration) -> anyhow::Result<Self> {
        let elapsed = start.elapsed();
        Ok(Self { units, cpu: thread_time()?.saturating_sub(cpu), elapsed })
    }

    pub(super) fn figures(self, latency: Option<&Histogram<u64>>) -> anyhow::Result<Figures> {
        ensure!(self.units > 0, "nothing was done");
        #[allow(clippy::cast_precision_loss, reason = "counts stay far below 2^52")]
        let units = self.units as f64;
        #[allow(clippy::cast_precision_loss, reason = "nanoseconds of a measurement stay far below 2^52")]
        let percentile = |quantile| latency.map(|nanos| nanos.value_at_quantile(quantile) as f64 / 1e3);
        Ok(Figures {
            cpu_us: self.cpu.as_secs_f64() * 1e6 / units,
            per_s: units / self.elapsed.as_secs_f64(),
            units: self.units,
            p50_us: percentile(0.5),
            p99_us: percentile(0.99),
        })
    }
}

/// Nanoseconds up to a minute, three digits.
pub(super) fn histogram() -> Histogram<u64> {
    Histogram::new_with_max(60_000_000_000, 3).expect("constant bounds that are in order")
}

pub(super) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Joins a thread of a measurement.
pub(super) fn join<T>(thread: std::thread::JoinHandle<anyhow::Result<T>>) -> anyhow::Result<T> {
    thread.join().map_err(|_| anyhow!("a thread of the measurement panicked"))?
}

// ---- timers ----

/// One round after another for about `duration`, on a thread of its own.
pub(super) fn measure_timers(
    run: fn(Places, Duration) -> anyhow::Result<Timed>,
    duration: Duration,
    places: Places,
) -> anyhow::Result<Figures> {
    let timed = join(std::thread::spawn(move || run(places, duration)))?;
    timed.spent.figures(Some(&timed.lateness))
}

/// What all tasks of a runtime did with their timers.
pub(super) struct Timed {
    spent: Spent,
    lateness: Histogram<u64>,
}

/// One task's part of the timers.
pub(super) type TimerShare = (u64, Histogram<u64>);

/// Runs [`TIMER_TASKS`] tasks, which the runtime spawns, and adds up what they did.
pub(super) async fn all_timers<J: Future<Output = TimerShare>>(
    spawn: impl Fn(u64) -> J,
) -> anyhow::Result<Timed> {
    let start = Instant::now();
    let cpu = thread_time()?;
    let tasks: Vec<J> = (0..TIMER_TASKS).map(spawn).collect();
    let (mut timers, mut lateness) = (0, histogram());
    for task in tasks {
        let (count, share) = task.await;
        timers += count;
        lateness.add(share)?;
    }
    Ok(Timed { spent: Spent::since(timers, start, cpu)?, lateness })
}

/// One task: sets its part of [`TIMERS`] timers, cancels half and waits for the others, again and again until
/// `duration` is over. To be run by the runtime that `sleep_until` belongs to.
pub(super) async fn timer_rounds<S: Future>(
    duration: Duration,
    seed: u64,
    sleep_until: impl Fn(Instant) -> S,
) -> TimerShare {
    let mut random = SmallRng::seed_from_u64(seed);
    let mut lateness = histogram();
    let mut timers = 0;
    let start = Instant::now();
    while timers == 0 || start.elapsed() < duration {
        timers += timer_round(&mut random, &mut lateness, &sleep_until).await;
    }
    (timers, lateness)
}

async fn timer_round<S: Future>(
    random: &mut SmallRng,
    lateness: &mut Histogram<u64>,
    sleep_until: impl Fn(Instant) -> S,
) -> u64 {
    // All are set before the first is due.
    let start = Instant::now() + Duration::from_millis(250);
    let count = TIMERS / TIMER_TASKS;
    let mut live: Vec<(Instant, Pin<Box<S>>)> = (0..count)
        .map(|_| {
            let at = start + Duration::from_micros(random.random_range(0..300_000));
            (at, Box::pin(sleep_until(at)))
        })
        .collect();
    // Polled once, each is set, and wakes this task.
    poll_fn(|cx| {
        for (_, timer) in &mut live {
            let _ = timer.as_mut().poll(cx);
        }
        Poll::Ready(())
    })
    .await;
    live.shuffle(random);
    live.truncate(live.len() / 2);
    live.sort_by_key(|(at, _)| *at);
    let mut next = 0;
    poll_fn(|cx| {
        let now = Instant::now();
        while let Some((at, timer)) = live.get_mut(next) {
            if timer.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            // Early, on a clock that is rounded up, counts as in time.
            lateness.saturating_record(nanos(now.saturating_duration_since(*at)));
            next += 1;
        }
        Poll::Ready(())
    })
    .await;
    count
}
