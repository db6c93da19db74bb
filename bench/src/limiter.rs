//! `sluice-bench limiter`: what the limits on requests cost, and how exact they are where cores share them.
//!
//! - *a check*: a core's limiter with a table of so many users, asked for users by chance: nanoseconds for one that is
//!   let in, for one with the text of its `RateLimit` field, and for one that is refused. Users by chance are the worst
//!   case: each is two misses of the cache.
//! - *an address*: the same for the buckets that cores share, from one thread and from several at once.
//! - *exactness*: requests from one address reach 2, 4 and 8 cores by chance, in simulated time. Every core takes its
//!   time from a clock it reads at the beginning of a turn, as the real ones do, so requests are decided out of order and
//!   with clocks that differ. Beside it the exact model takes each request at the moment it came. Told is by how many
//!   requests the two ever differ.

use std::hint::black_box;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use serde::Serialize;
use sluice_net::Network;
use sluice_protocols::ids::{KeyId, UserId};
use sluice_shard::limit::{Addresses, Allowance, Class, LimitConfig, Limiter, Limits, RatePair, Who};

use crate::cpu::resident_bytes;

const SECOND_NS: u64 = 1_000_000_000;
const MINUTE_NS: u64 = 60 * SECOND_NS;

/// Options of `limiter`.
#[derive(Debug, Clone, clap::Args)]
pub struct LimiterArgs {
    /// Users in the table of one core
    #[arg(long, default_value_t = 1_000_000)]
    users: u64,
    /// Checks for each figure
    #[arg(long, default_value_t = 4_000_000)]
    checks: u64,
    /// What chance is drawn from
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// All figures.
#[derive(Debug, Serialize)]
struct Report {
    users: u64,
    /// Users for whom there was no row.
    untracked: u64,
    /// Memory of the table, by user.
    bytes_a_user: f64,
    let_in_ns: f64,
    let_in_and_told_ns: f64,
    refused_ns: f64,
    address_ns: f64,
    /// By number of threads that take from one address at once: nanoseconds of each thread for one that is let in.
    address_shared_ns: Vec<(usize, f64)>,
    exactness: Vec<Exactness>,
}

/// One simulated run.
#[derive(Debug, Serialize)]
struct Exactness {
    cores: usize,
    /// Offered, as a share of the limit.
    load: f64,
    offered: u64,
    model: u64,
    admitted: u64,
    /// Most that were ever let in beyond the model, up to some moment.
    over_max: i64,
    /// Most that were ever let in too few.
    under_max: i64,
}

/// Runs the bench.
pub fn run(args: &LimiterArgs) -> anyhow::Result<()> {
    let mut report = checks(args)?;
    report.address_ns = address(args);
    let threads = thread::available_parallelism()?.get().min(8);
    report.address_shared_ns = (1..=threads)
        .filter(|count| count.is_power_of_two())
        .map(|count| (count, shared(args, count)))
        .collect();
    for cores in [2, 4, 8] {
        for load in [0.5, 1.0, 2.0, 10.0] {
            report.exactness.push(simulate(cores, load, args.seed));
        }
    }
    if args.json {
        println!("{}", serde_json::to_string(&report)?);
    } else {
        show(&report);
    }
    Ok(())
}

fn show(report: &Report) {
    let Report { users, untracked, bytes_a_user, .. } = report;
    println!("{users} users on one core, {bytes_a_user:.1} bytes each, {untracked} without a row");
    println!("  let in              {:>8.1} ns", report.let_in_ns);
    println!("  let in and told     {:>8.1} ns", report.let_in_and_told_ns);
    println!("  refused             {:>8.1} ns", report.refused_ns);
    println!("an address, shared by the cores");
    println!("  one of many         {:>8.1} ns", report.address_ns);
    for (threads, ns) in &report.address_shared_ns {
        println!("  one, {threads} at once      {ns:>8.1} ns");
    }
    println!("cores  load  offered    model  let in  over at most  under at most");
    for row in &report.exactness {
        println!(
            "{:>5} {:>5.1} {:>8} {:>8} {:>7} {:>13} {:>14}",
            row.cores, row.load, row.offered, row.model, row.admitted, row.over_max, row.under_max
        );
    }
}

fn user(number: u64) -> UserId {
    // As ids are: spread over all their bits.
    let high = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let low = (high ^ (high >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mut id = [0; 16];
    id[..8].copy_from_slice(&high.to_be_bytes());
    id[8..].copy_from_slice(&low.to_be_bytes());
    UserId::from_bytes(id)
}

fn who(number: u64, allowance: &Allowance) -> Who<'_> {
    Who { user: user(number), key: KeyId::from_bytes(number.to_be_bytes()), allowance }
}

/// What one core pays.
fn checks(args: &LimiterArgs) -> anyhow::Result<Report> {
    let users = args.users.max(1);
    let before = resident_bytes(std::process::id())?;
    // Half full, as an operator would make it for so many.
    let config = LimitConfig { users_tracked_max: usize::try_from(users)? * 2, ..LimitConfig::default() };
    let limits = Arc::new(Limits::new(config));
    let limiter = Limiter::new(Arc::clone(&limits), Arc::default());
    let allowance = limits.allowance().clone();
    // Each user's bucket of the hour is less than full from here on, so every row is needed.
    for number in 0..users {
        limiter.check(who(number, &allowance), Class::Reads, 0);
    }
    let bytes = resident_bytes(std::process::id())?.saturating_sub(before);
    let mut random = SmallRng::seed_from_u64(args.seed);
    let mut numbers = || random.random_range(0..users);
    // Far enough apart that each is let in, and that nobody's row is given away.
    let step_ns = 5 * SECOND_NS / users.max(1) + 1;
    let drawn = time(args.checks, |_| u64::from(numbers() == u64::MAX));
    let let_in = time(args.checks, |turn| {
        u64::from(limiter.check(who(numbers(), &allowance), Class::Reads, turn * step_ns))
    });
    let from = args.checks * step_ns;
    let told = time(args.checks, |turn| {
        let told = limiter.check_and_tell(who(numbers(), &allowance), Class::Reads, from + turn * step_ns);
        u64::from(told.is_some_and(|text| !text.is_empty()))
    });
    let none = Allowance::new(RatePair::new(1, 1), 0);
    let now = 2 * from;
    for number in 0..users {
        limiter.check(who(number, &none), Class::Reads, now);
    }
    let refused = time(args.checks, |_| u64::from(!limiter.check(who(numbers(), &none), Class::Reads, now)));
    Ok(Report {
        users,
        untracked: limiter.stats().untracked_users.get(),
        bytes_a_user: bytes as f64 / users as f64,
        let_in_ns: let_in - drawn,
        let_in_and_told_ns: told - drawn,
        refused_ns: refused - drawn,
        address_ns: 0.0,
        address_shared_ns: Vec::new(),
        exactness: Vec::new(),
    })
}

/// Nanoseconds of one of so many turns.
fn time(turns: u64, mut work: impl FnMut(u64) -> u64) -> f64 {
    let began = Instant::now();
    let mut sum = 0;
    for turn in 0..turns {
        sum += work(turn);
    }
    black_box(sum);
    began.elapsed().as_nanos() as f64 / turns.max(1) as f64
}

fn shared_buckets(rates: RatePair) -> Arc<Limits> {
    Arc::new(Limits::new(LimitConfig { address: rates, ..LimitConfig::default() }))
}

fn neighbour(number: u64) -> Network {
    #[allow(clippy::cast_possible_truncation, reason = "any address will do")]
    let address = IpAddr::from((number as u32).to_be_bytes());
    Network::of(address)
}

/// Many addresses, one thread.
fn address(args: &LimiterArgs) -> f64 {
    let limits = shared_buckets(RatePair::new(6_000, 100_000));
    let addresses: &Addresses = limits.addresses();
    let mut random = SmallRng::seed_from_u64(args.seed);
    let mut numbers = || random.random_range(0..20_000);
    let drawn = time(args.checks, |_| u64::from(numbers() == u64::MAX));
    let taken =
        time(args.checks, |turn| u64::from(addresses.take(neighbour(numbers()), turn * 10_000).is_ok()));
    taken - drawn
}

/// One address, and threads that all take from it; limits so high that all are let in, which is the worst case.
fn shared(args: &LimiterArgs, threads: usize) -> f64 {
    let limits = shared_buckets(RatePair::new(10_000_000, 10_000_000));
    let is_over = AtomicBool::new(false);
    let (taken, clock) = (AtomicU64::new(0), Instant::now());
    let who = neighbour(args.seed);
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let mut count = 0;
                while !is_over.load(Relaxed) {
                    // Time goes a million times as fast, so that nothing runs short.
                    let now_ns = u64::try_from(clock.elapsed().as_nanos()).unwrap_or(u64::MAX) << 20;
                    count += u64::from(limits.addresses().take(who, now_ns).is_ok());
                }
                taken.fetch_add(count, Relaxed);
            });
        }
        thread::sleep(Duration::from_millis(500));
        is_over.store(true, Relaxed);
    });
    0.5e9 * threads as f64 / taken.load(Relaxed).max(1) as f64
}

/// Requests from one address to `cores` cores for five simulated minutes.
fn simulate(cores: usize, load: f64, seed: u64) -> Exactness {
    const PER_MINUTE: u32 = 6_000;
    const TURN_NS_MAX: u64 = 2_000_000;
    let rates = RatePair::new(PER_MINUTE, 0);
    let limits = shared_buckets(rates);
    let model_rate = rates.minute.expect("a limit");
    let mut random = SmallRng::seed_from_u64(seed);
    let gap_ns = MINUTE_NS as f64 / (f64::from(PER_MINUTE) * load);
    // Each request: when it came, and when its core took it up, at the end of a turn, by the clock read at its beginning.
    let (mut came, mut requests) = (0.0, Vec::new());
    let mut turns: Vec<(u64, u64)> = vec![(0, 0); cores];
    while came < 5.0 * MINUTE_NS as f64 {
        came += -gap_ns * (1.0 - random.random_range(0.0..1.0f64)).ln();
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "nanoseconds of minutes")]
        let at = came as u64;
        let (begin, end) = &mut turns[random.random_range(0..cores)];
        while *end <= at {
            *begin = *end;
            *end = *begin + random.random_range(20_000..TURN_NS_MAX);
            if *end + TURN_NS_MAX < at {
                *end = at - random.random_range(0..TURN_NS_MAX);
            }
        }
        requests.push((at, *begin, *end));
    }
    let mut events: Vec<(u64, bool, u64)> = requests.iter().map(|(came, ..)| (*came, true, *came)).collect();
    events.extend(requests.iter().map(|(_, clock, taken_up)| (*taken_up, false, *clock)));
    events.sort_unstable();
    let (who, mut full_at) = (neighbour(seed), 0);
    let (mut model, mut admitted, mut over_max, mut under_max) = (0i64, 0i64, 0, 0);
    for (_, is_model, now_ns) in events {
        if is_model {
            if let Ok(taken) = model_rate.take(full_at, now_ns, 1) {
                (full_at, model) = (taken, model + 1);
            }
        } else {
            admitted += i64::from(limits.addresses().take(who, now_ns).is_ok());
        }
        over_max = over_max.max(admitted - model);
        under_max = under_max.max(model - admitted);
    }
    Exactness {
        cores,
        load,
        offered: requests.len() as u64,
        model: model.unsigned_abs(),
        admitted: admitted.unsigned_abs(),
        over_max,
        under_max,
    }
}
