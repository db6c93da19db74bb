//! Runs a trial: starts the client threads, watches the server meanwhile, tells how it
//! goes, and puts together what all saw.

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use sluice_core::{CoreId, Reactor, ReactorConfig};
use sluice_net::tls::{Trust, client_crypto};

use super::engine::Worker;
use super::h3::H3;
use super::plan::{Load, Plan, Protocol};
use super::record::{Outcome, Slice};
use super::result::{Second, per_request_us};
use super::runtime::{OnReactor, OnTokio, Runtime};
use super::tcp::{H1, H2};
use super::transport::Transport;
use crate::cpu;

/// From when all threads are ready until the warm-up begins.
const HEAD_START: Duration = Duration::from_millis(20);
const FAREWELL: Duration = Duration::from_millis(5);
const READY_POLL: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
/// Lines of progress when nobody watches a terminal: one in this many seconds.
const PROGRESS_EVERY_S: i64 = 10;

/// All that came of one trial.
#[derive(Debug)]
pub(super) struct Trial {
    pub(super) outcome: Outcome,
    pub(super) seconds: Vec<Second>,
    /// Seconds since measuring began, and the server's resident bytes.
    pub(super) rss: Vec<(f64, u64)>,
    /// The server's CPU time in the measured time.
    pub(super) server_cpu: Option<Duration>,
    pub(super) duration: Duration,
    pub(super) threads: usize,
}

impl Trial {
    /// Completed requests a second, of those that were completed in the measured time.
    #[allow(clippy::cast_precision_loss, reason = "counts far below 2^53")]
    pub(super) fn rate(&self) -> f64 {
        self.outcome.completed_in_time as f64 / self.duration.as_secs_f64()
    }

    /// The server's CPU time a request, in microseconds.
    pub(super) fn server_cpu_us(&self) -> Option<f64> {
        per_request_us(self.server_cpu?, self.outcome.completed_in_time)
    }

    /// Share of the time the client's threads worked, on average.
    #[allow(clippy::cast_precision_loss, reason = "a handful of threads")]
    pub(super) fn client_busy(&self) -> f64 {
        self.outcome.client_cpu.as_secs_f64() / self.duration.as_secs_f64() / self.threads as f64
    }

    /// Why the figures say more of the client than of the server; empty when they do not.
    pub(super) fn client_limits(&self) -> Vec<String> {
        let mut signs = Vec::new();
        let busy = self.client_busy();
        if busy > CLIENT_BUSY_MAX {
            signs.push(format!(
                "the client's threads were busy {:.0} % of the time (limit {:.0} %); give it more with --cores",
                busy * 100.0,
                CLIENT_BUSY_MAX * 100.0
            ));
        }
        let lag = Duration::from_nanos(self.outcome.lag.value_at_quantile(0.99));
        if lag > CLIENT_LAG_MAX {
            signs.push(format!(
                "1 % of the starts came {:.1} ms or more after their time (limit {} ms)",
                lag.as_secs_f64() * 1e3,
                CLIENT_LAG_MAX.as_millis()
            ));
        }
        signs
    }
}

/// Above this share of busy time the client is taken to be the limit.
const CLIENT_BUSY_MAX: f64 = 0.9;
/// And above this lag of the starts' 99th percentile.
const CLIENT_LAG_MAX: Duration = Duration::from_millis(1);

enum Message {
    Ready,
    Failed(anyhow::Error),
    Slice(Box<Slice>),
    Done(Box<Outcome>),
}

/// Runs a trial; `label` stands before its progress.
pub(super) fn run(plan: &Plan, label: &str) -> anyhow::Result<Trial> {
    let plan = Arc::new(plan.clone());
    let trust = if plan.authorities.is_empty() { Trust::AnyServer } else { Trust::Files(&plan.authorities) };
    let tls = client_crypto(trust)?;
    let base = Arc::new(OnceLock::new());
    let (sender, receiver) = mpsc::channel();
    let threads: Vec<_> = (0..plan.threads)
        .map(|index| {
            let (plan, tls, base, sender) =
                (Arc::clone(&plan), Arc::clone(&tls), Arc::clone(&base), sender.clone());
            thread::Builder::new().name(format!("load-{index}")).spawn(move || {
                let link = Link { plan, index, base, sender };
                if let Err(error) = link.clone().serve(&tls) {
                    // The receiver is gone only when the run was given up already.
                    drop(link.sender.send(Message::Failed(error)));
                }
            })
        })
        .collect::<Result<_, _>>()
        .context("cannot start a client thread")?;
    drop(sender);
    let mut watch = Watch::new(&plan, label);
    let result = watch.follow(&receiver, &base);
    // Threads that still run after a failure end when the process does.
    if result.is_ok() {
        for thread in threads {
            thread.join().map_err(|_| anyhow!("a client thread panicked"))?;
        }
    }
    result
}

/// A client thread's end of things.
#[derive(Clone)]
struct Link {
    plan: Arc<Plan>,
    index: usize,
    base: Arc<OnceLock<Instant>>,
    sender: mpsc::Sender<Message>,
}

impl Link {
    fn serve(self, tls: &rustls::ClientConfig) -> anyhow::Result<()> {
        let plan = Arc::clone(&self.plan);
        let cpu = plan.cpu.map(|cpu| cpu + self.index);
        match plan.protocol {
            Protocol::H3 => {
                let core = CoreId::new(u16::try_from(self.index)?);
                let reactor = Reactor::new(ReactorConfig { cpu, ..ReactorConfig::new(core) })?;
                let tls = tls.clone();
                reactor.block_on(async move {
                    let transport = H3::start(plan, &tls)?;
                    self.work::<OnReactor, _>(transport).await
                })?
            }
            Protocol::H2 => {
                let transport = H2::new(plan, tls)?;
                on_tokio(cpu, self.work::<OnTokio, _>(transport))
            }
            Protocol::H1 => {
                let transport = H1::new(plan, tls)?;
                on_tokio(cpu, self.work::<OnTokio, _>(transport))
            }
        }
    }

    async fn work<R: Runtime, T: Transport>(self, transport: T) -> anyhow::Result<()> {
        let worker = Worker::new(Arc::clone(&self.plan), self.index, transport);
        worker
            .prepare::<R>()
            .await
            .map_err(|failure| anyhow!(failure.detail))
            .with_context(|| format!("cannot connect to {}", self.plan.target.authority))?;
        self.sender.send(Message::Ready).context("the run was given up")?;
        let base = loop {
            match self.base.get() {
                Some(base) => break *base,
                None => R::sleep_until(R::now() + READY_POLL).await,
            }
        };
        let slices = self.sender.clone();
        let flush = move |slice| drop(slices.send(Message::Slice(Box::new(slice))));
        let outcome = worker.run::<R>(base, flush).await;
        // The connections were dropped with the worker; their farewells still have to leave.
        R::sleep_until(R::now() + FAREWELL).await;
        self.sender.send(Message::Done(Box::new(outcome))).context("the run was given up")
    }
}

fn on_tokio(cpu: Option<usize>, work: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    if let Some(cpu) = cpu {
        cpu::pin_thread(cpu)?;
    }
    // The network is looked at after every task, as the reactor does it.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().event_interval(1).build()?;
    tokio::task::LocalSet::new().block_on(&runtime, work)
}

/// What the starting thread sees.
struct Watch<'a> {
    plan: &'a Plan,
    label: &'a str,
    outcome: Outcome,
    /// Seconds that not all threads have told of.
    slices: BTreeMap<i64, (usize, Slice)>,
    /// Those of the measured time that all have.
    seconds: Vec<Second>,
    rss: Vec<(f64, u64)>,
    /// The server's CPU time at the beginning of each second.
    server_cpu: BTreeMap<i64, Duration>,
    is_terminal: bool,
}

impl<'a> Watch<'a> {
    fn new(plan: &'a Plan, label: &'a str) -> Self {
        Self {
            plan,
            label,
            outcome: Outcome::new(plan.mix.scenarios.len()),
            slices: BTreeMap::new(),
            seconds: Vec::new(),
            rss: Vec::new(),
            server_cpu: BTreeMap::new(),
            is_terminal: std::io::stderr().is_terminal(),
        }
    }

    fn follow(
        &mut self,
        receiver: &mpsc::Receiver<Message>,
        base: &OnceLock<Instant>,
    ) -> anyhow::Result<Trial> {
        for _ in 0..self.plan.threads {
            match receiver.recv().context("a client thread ended")? {
                Message::Ready => {}
                Message::Failed(error) => return Err(error),
                Message::Slice(_) | Message::Done(_) => bail!("a client thread began too early"),
            }
        }
        let begin = *base.get_or_init(|| Instant::now() + HEAD_START);
        let start = begin + self.plan.warmup;
        let seconds = i64::try_from(self.plan.duration.as_millis().div_ceil(1000))?;
        let (mut next_s, mut done) = (0, 0);
        while done < self.plan.threads || next_s <= seconds {
            let due = start + (SECOND * u32::try_from(next_s)?).min(self.plan.duration);
            let wait = if next_s <= seconds { due.saturating_duration_since(Instant::now()) } else { SECOND };
            if wait.is_zero() {
                self.observe(next_s, due.saturating_duration_since(start))?;
                next_s += 1;
                continue;
            }
            match receiver.recv_timeout(wait) {
                Ok(Message::Slice(slice)) => self.take_slice(*slice),
                Ok(Message::Done(outcome)) => {
                    self.outcome.merge(*outcome);
                    done += 1;
                }
                Ok(Message::Failed(error)) => return Err(error),
                Ok(Message::Ready) | Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => bail!("a client thread panicked"),
            }
        }
        self.end_line();
        Ok(self.sum_up(seconds))
    }

    /// A second begins (or the last one ends): look at the server.
    fn observe(&mut self, at_s: i64, since: Duration) -> anyhow::Result<()> {
        let Some(pid) = self.plan.pid else { return Ok(()) };
        let lost = || format!("the server (process {pid}) is gone");
        self.server_cpu.insert(at_s, cpu::process_time(pid).with_context(lost)?);
        self.rss.push((since.as_secs_f64(), cpu::resident_bytes(pid).with_context(lost)?));
        Ok(())
    }

    fn take_slice(&mut self, slice: Slice) {
        let at_s = slice.at_s;
        let threads = self.plan.threads;
        let entry = self.slices.entry(at_s).or_insert_with(|| (0, Slice::new(at_s)));
        entry.0 += 1;
        entry.1.merge(&slice);
        if entry.0 < threads {
            return;
        }
        if let Some((_, slice)) = self.slices.remove(&at_s) {
            self.tell(at_s, &progress(self.label, &slice, self.plan));
            if at_s >= 0 {
                self.seconds.push(second(at_s, &slice));
            }
        }
    }

    fn tell(&self, at_s: i64, text: &str) {
        if !self.plan.is_quiet {
            // Progress that cannot be shown is no reason to stop.
            let _ = show(&mut std::io::stderr().lock(), self.is_terminal, at_s, text);
        }
    }

    fn end_line(&self) {
        if !self.plan.is_quiet && self.is_terminal {
            eprint!("\r\x1b[K");
        }
    }

    fn sum_up(&mut self, seconds: i64) -> Trial {
        let mut rows = std::mem::take(&mut self.seconds);
        rows.sort_by_key(|row| row.at_s);
        for row in &mut rows {
            let at_s = i64::from(row.at_s);
            let (before, after) = (self.server_cpu.get(&at_s), self.server_cpu.get(&(at_s + 1)));
            let used = after.zip(before).map(|(after, before)| after.saturating_sub(*before));
            row.server_cpu_us = used.and_then(|used| per_request_us(used, row.completed));
        }
        let server_cpu = self
            .server_cpu
            .get(&seconds)
            .zip(self.server_cpu.get(&0))
            .map(|(after, before)| after.saturating_sub(*before));
        Trial {
            outcome: std::mem::replace(&mut self.outcome, Outcome::new(0)),
            seconds: rows,
            rss: std::mem::take(&mut self.rss),
            server_cpu,
            duration: self.plan.duration,
            threads: self.plan.threads,
        }
    }
}

/// Shows how it goes: on a terminal in place of what stood there, elsewhere a line now and then.
fn show(out: &mut impl Write, is_terminal: bool, at_s: i64, text: &str) -> std::io::Result<()> {
    if is_terminal {
        write!(out, "\r\x1b[K{text}")?;
        out.flush()
    } else if at_s % PROGRESS_EVERY_S == 0 {
        writeln!(out, "{text}")
    } else {
        Ok(())
    }
}

#[allow(clippy::cast_precision_loss, reason = "latencies below a minute fit 53 bits")]
fn micros(slice: &Slice, quantile: f64) -> f64 {
    if slice.latency.is_empty() { 0.0 } else { slice.latency.value_at_quantile(quantile) as f64 / 1e3 }
}

fn second(at_s: i64, slice: &Slice) -> Second {
    Second {
        at_s: u32::try_from(at_s).unwrap_or(0),
        intended: slice.intended,
        completed: slice.completed,
        errors: slice.errors,
        dropped: slice.dropped,
        p50_us: micros(slice, 0.5),
        p99_us: micros(slice, 0.99),
        max_us: micros(slice, 1.0),
        server_cpu_us: None,
    }
}

fn progress(label: &str, slice: &Slice, plan: &Plan) -> String {
    let phase = if slice.at_s < 0 { "warm-up" } else { "" };
    let total = plan.duration.as_secs();
    let shown = slice.at_s + 1;
    let lost = match plan.load {
        Load::Open { .. } => format!("{} dropped", slice.dropped),
        Load::Closed => String::new(),
    };
    format!(
        "{label}{phase}{shown:>5}/{total} s  {:>8}/s  p50 {:>8.2} ms  p99 {:>8.2} ms  {} errors  {lost}",
        slice.completed,
        micros(slice, 0.5) / 1e3,
        micros(slice, 0.99) / 1e3,
        slice.errors,
    )
}

#[cfg(test)]
mod tests {
    use super::super::plan::tests::plan;
    use super::super::schedule::Segment;
    use super::*;

    #[test]
    fn progress_tells_a_second_of_it() {
        let mut slice = Slice::new(3);
        for micros in [2_000, 2_000, 50_000] {
            slice.complete(Duration::from_micros(micros));
        }
        (slice.errors, slice.dropped) = (4, 5);
        let closed = Plan { duration: SECOND * 30, ..plan() };
        let told = progress("step 1/2  ", &slice, &closed);
        for part in ["step 1/2  ", " 4/30 s ", " 3/s ", "p50     2.0", "p99    50.", "4 errors"] {
            assert!(told.contains(part), "{part:?} in {told:?}");
        }
        // A closed loop leaves nothing out.
        assert!(!told.contains("dropped") && !told.contains("warm-up"), "{told:?}");
        let segments = vec![Segment::constant(SECOND, 1.0)];
        let open = Plan { load: Load::Open { segments, is_random: false }, ..closed };
        assert!(progress("", &slice, &open).ends_with("5 dropped"));
        let nothing = progress("", &Slice::new(-1), &open);
        assert!(nothing.starts_with("warm-up ") && nothing.contains(" 0/s "), "{nothing:?}");
    }

    #[test]
    fn progress_is_written_over_on_a_terminal_and_rare_elsewhere() {
        let shown = |is_terminal: bool| {
            let mut out = Vec::new();
            for at_s in -1..21 {
                show(&mut out, is_terminal, at_s, &format!("<{at_s}>")).unwrap();
            }
            String::from_utf8(out).unwrap()
        };
        assert_eq!(shown(false), "<0>\n<10>\n<20>\n");
        let terminal = shown(true);
        assert!(!terminal.contains('\n') && terminal.ends_with("\r\x1b[K<20>"), "{terminal:?}");
        assert_eq!(terminal.matches("\r\x1b[K").count(), 22);
    }

    /// A trial of two threads and a second, in which the client's threads worked this long in all, and of a hundred
    /// starts this many came late by as much.
    fn trial(client_cpu: Duration, late: u64, by: Duration) -> Trial {
        let mut outcome = Outcome::new(1);
        outcome.client_cpu = client_cpu;
        for start in 0..100 {
            let lag = if start < late { by } else { Duration::from_micros(20) };
            super::super::record::lag_of(&mut outcome, lag);
        }
        Trial { outcome, seconds: vec![], rss: vec![], server_cpu: None, duration: SECOND, threads: 2 }
    }

    #[test]
    fn a_client_with_time_to_spare_was_not_the_limit() {
        // The last of a hundred may be late: what is looked at is the 99th.
        let at_ease = trial(SECOND * 2 * 9 / 10, 1, SECOND);
        assert_eq!(at_ease.client_limits(), Vec::<String>::new());
    }

    #[test]
    fn a_client_that_worked_nearly_all_the_time_was_the_limit_and_says_so() {
        let [sign] = &trial(Duration::from_millis(1_900), 0, Duration::ZERO).client_limits()[..] else {
            panic!("one sign")
        };
        assert!(sign.contains("busy 95 %") && sign.contains("--cores"), "{sign}");
    }

    #[test]
    fn a_client_that_starts_late_was_the_limit_and_says_so() {
        let [sign] = &trial(Duration::ZERO, 2, Duration::from_millis(7)).client_limits()[..] else {
            panic!("one sign")
        };
        assert!(sign.contains("7.0 ms"), "{sign}");
        let both = trial(SECOND * 2, 50, Duration::from_millis(2)).client_limits();
        assert_eq!(both.len(), 2, "{both:?}");
    }
}
