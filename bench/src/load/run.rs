//! The loops.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use bytes::Bytes;
use sluice_core::{CoreId, Reactor, ReactorConfig, now, sleep_until, spawn, timeout_at};
use sluice_net::CoreCount;
use sluice_net::client::{Client, ClientConnection, ClientError};
use sluice_net::tls::{Trust, client_crypto};
use sluice_protocols::http::RequestHead;

use super::report::{Outcome, Summary};
use super::{LoadArgs, Target};
use crate::cpu;

/// Most a request may take before it counts as failed.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);
/// An idle connection of a run is a mistake soon noticed.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);

/// Runs the load and sums up what all threads saw.
pub fn run_load(args: &LoadArgs) -> anyhow::Result<Summary> {
    let target = Target::parse(&args.url)?;
    let files: Vec<_> = args.ca.iter().cloned().collect();
    let trust = if files.is_empty() { Trust::AnyServer } else { Trust::Files(&files) };
    let tls = client_crypto(trust)?;
    let barrier = Arc::new(std::sync::Barrier::new(args.threads + 1));
    let threads: Vec<_> = (0..args.threads)
        .map(|index| {
            let (args, target, tls, barrier) =
                (args.clone(), target.clone(), Arc::clone(&tls), Arc::clone(&barrier));
            thread::spawn(move || worker(index, args, target, tls, &barrier))
        })
        .collect();
    barrier.wait();
    thread::sleep(args.warmup());
    let server_before = args.pid.map(cpu::process_time).transpose()?;
    let start = Instant::now();
    thread::sleep(args.duration());
    let elapsed = start.elapsed();
    let server_after = args.pid.map(cpu::process_time).transpose()?;
    let mut total = Outcome::default();
    for thread in threads {
        let outcome = thread.join().map_err(|_| anyhow!("a client thread panicked"))??;
        total.merge(outcome);
    }
    let server = server_after.zip(server_before).map(|(after, before)| after.saturating_sub(before));
    Ok(Summary::new(total, elapsed, args.threads, server))
}

struct Worker {
    args: LoadArgs,
    target: Target,
    client: Client,
    heads: Vec<RequestHead>,
    body: Bytes,
    /// Requests that start in this span are measured.
    measure: Cell<(Instant, Instant)>,
    outcome: RefCell<Outcome>,
    in_flight: Cell<usize>,
    next_key: Cell<usize>,
}

fn worker(
    index: usize,
    args: LoadArgs,
    target: Target,
    tls: Arc<rustls::ClientConfig>,
    barrier: &std::sync::Barrier,
) -> anyhow::Result<Outcome> {
    let config = ReactorConfig { cpu: args.cpu.map(|cpu| cpu + index), ..ReactorConfig::new(CoreId::new(0)) };
    let setup = || -> anyhow::Result<(Reactor, Vec<RequestHead>)> {
        Ok((Reactor::new(config)?, heads(&args, &target)?))
    };
    let made = setup();
    barrier.wait();
    let (reactor, heads) = made?;
    reactor.block_on(async move {
        let client = Client::start(tls, target.address, IDLE_TIMEOUT)?;
        let start = now() + args.warmup();
        let worker = Rc::new(Worker {
            body: args.body.clone().unwrap_or_default().into(),
            measure: Cell::new((start, start + args.duration())),
            target,
            client,
            heads,
            outcome: RefCell::default(),
            in_flight: Cell::new(0),
            next_key: Cell::new(index),
            args,
        });
        worker.run(index).await;
        let outcome = worker.outcome.take();
        anyhow::Ok(outcome)
    })?
}

fn heads(args: &LoadArgs, target: &Target) -> anyhow::Result<Vec<RequestHead>> {
    let base = RequestHead::try_build(&args.method, &args.path, &target.authority)
        .context("--method and --path make no valid request")?
        .try_with("user-agent", "sluice-bench")?;
    let base = if args.body.is_some() { base.try_with("content-type", "application/json")? } else { base };
    if args.keys.is_empty() {
        return Ok(vec![base]);
    }
    args.keys
        .iter()
        .map(|key| Ok(base.clone().try_with("authorization", &format!("Bearer {key}"))?))
        .collect()
}

impl Worker {
    async fn run(self: &Rc<Self>, index: usize) {
        let (start, end) = self.measure.get();
        let mine = share(self.args.connections, self.args.threads, index);
        let mut tasks = Vec::new();
        if let Some(rate) = self.args.rate {
            let connections = self.connect_all(mine, index).await;
            if !connections.is_empty() {
                #[allow(clippy::cast_precision_loss, reason = "a handful of threads")]
                let rate = rate / self.args.threads as f64;
                tasks.push(spawn(Rc::clone(self).open_loop(connections, rate)));
            }
        } else {
            for number in 0..mine {
                tasks.push(spawn(Rc::clone(self).closed_connection(index + number * self.args.threads)));
            }
        }
        sleep_until(start).await;
        let cpu_before = thread_time();
        sleep_until(end).await;
        let cpu = thread_time().saturating_sub(cpu_before);
        for task in tasks {
            task.await;
        }
        self.outcome.borrow_mut().client_cpu = cpu;
    }

    async fn connect(&self, number: usize) -> Result<ClientConnection, ClientError> {
        let core = self.args.server_cores.and_then(CoreCount::new).map(|cores| {
            let core = u16::try_from(number % cores.get()).expect("at most 256 cores");
            (CoreId::new(core), cores)
        });
        let connection = self.client.connect(self.target.address, &self.target.host, core).await?;
        if self.is_measured(now()) {
            self.outcome.borrow_mut().connections += 1;
        }
        Ok(connection)
    }

    async fn connect_all(&self, count: usize, index: usize) -> Vec<Rc<ClientConnection>> {
        let mut connections = Vec::with_capacity(count);
        for number in 0..count {
            match self.connect(index + number * self.args.threads).await {
                Ok(connection) => connections.push(Rc::new(connection)),
                Err(error) => {
                    self.outcome.borrow_mut().fail(|| error.to_string());
                    break;
                }
            }
        }
        connections
    }

    fn is_over(&self) -> bool {
        now() >= self.measure.get().1
    }

    fn is_measured(&self, at: Instant) -> bool {
        let (start, end) = self.measure.get();
        at >= start && at < end
    }

    async fn closed_connection(self: Rc<Self>, number: usize) {
        while !self.is_over() {
            let connection = match self.connect(number).await {
                Ok(connection) => Rc::new(connection),
                Err(error) => return self.outcome.borrow_mut().fail(|| error.to_string()),
            };
            let left = Rc::new(Cell::new(self.args.requests_per_connection.unwrap_or(u64::MAX)));
            let streams: Vec<_> = (0..self.args.streams)
                .map(|_| {
                    let (worker, connection, left) =
                        (Rc::clone(&self), Rc::clone(&connection), Rc::clone(&left));
                    spawn(async move {
                        while !worker.is_over() && left.get() > 0 {
                            left.set(left.get() - 1);
                            let at = Instant::now();
                            if !worker.request(&connection, at).await {
                                return false;
                            }
                        }
                        true
                    })
                })
                .collect();
            let mut is_fine = true;
            for stream in streams {
                is_fine &= stream.await;
            }
            if !is_fine {
                return;
            }
        }
    }

    async fn open_loop(self: Rc<Self>, connections: Vec<Rc<ClientConnection>>, rate: f64) {
        let interval = Duration::from_secs_f64(1.0 / rate);
        let mut intended = now();
        let mut turn = 0;
        let mut tasks = Vec::new();
        while !self.is_over() {
            while intended <= now() {
                if self.in_flight.get() >= self.args.in_flight_max / self.args.threads {
                    if self.is_measured(intended) {
                        self.outcome.borrow_mut().dropped += 1;
                    }
                } else {
                    let connection = Rc::clone(&connections[turn % connections.len()]);
                    turn += 1;
                    self.in_flight.set(self.in_flight.get() + 1);
                    let worker = Rc::clone(&self);
                    let at = intended;
                    tasks.push(spawn(async move {
                        worker.request(&connection, at).await;
                        worker.in_flight.set(worker.in_flight.get() - 1);
                    }));
                }
                intended += interval;
            }
            tasks.retain(|task| !task.is_finished());
            sleep_until(intended).await;
        }
        for task in tasks {
            task.await;
        }
    }

    /// Makes one request; false when the connection is of no further use.
    async fn request(&self, connection: &ClientConnection, intended: Instant) -> bool {
        let key = self.next_key.get();
        self.next_key.set(key.wrapping_add(1));
        let head = &self.heads[key % self.heads.len()];
        let started = Instant::now();
        let result = timeout_at(now() + REQUEST_TIMEOUT, connection.request(head, self.body.clone())).await;
        let ended = Instant::now();
        if !self.is_measured(intended) {
            return matches!(result, Ok(Ok(_)));
        }
        let mut outcome = self.outcome.borrow_mut();
        match result {
            Ok(Ok(response)) if response.head.status() == self.args.expect => {
                outcome.note(ended - intended, ended - started);
                true
            }
            Ok(Ok(response)) => {
                let status = response.head.status();
                outcome.fail(|| format!("status {status}: {}", String::from_utf8_lossy(&response.body)));
                true
            }
            Ok(Err(error)) => {
                outcome.fail(|| error.to_string());
                false
            }
            Err(_) => {
                outcome.fail(|| format!("no answer within {REQUEST_TIMEOUT:?}"));
                false
            }
        }
    }
}

/// How many of `total` fall to worker `index` of `workers`.
fn share(total: usize, workers: usize, index: usize) -> usize {
    total / workers + usize::from(index < total % workers)
}

/// CPU time of this thread (`/proc/thread-self/schedstat`).
fn thread_time() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanos = text.split_whitespace().next().and_then(|first| first.parse().ok());
    Duration::from_nanos(nanos.unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::share;

    #[test]
    fn shares_add_up() {
        for (total, workers) in [(16, 1), (16, 3), (7, 7), (256, 5)] {
            assert_eq!((0..workers).map(|index| share(total, workers, index)).sum::<usize>(), total);
        }
    }
}
