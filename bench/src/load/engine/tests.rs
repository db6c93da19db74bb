//! The loops against a server that is a queue, in virtual time.

use std::cell::RefCell;

use sluice_protocols::http::ResponseHead;
use sluice_protocols::qpack;

use super::super::control::Trial;
use super::super::plan::tests::plan;
use super::super::plan::{Load, Plan, Shares};
use super::super::runtime::Runtime;
use super::super::runtime::virtual_time::Virtual;
use super::super::scenario::Mix;
use super::super::transport::ReplyHead;
use super::*;

const MS: Duration = Duration::from_millis(1);

/// A server that works on one request at a time and stalls once.
#[derive(Default)]
struct Server {
    service: Duration,
    /// Nothing is answered from the first moment to the second.
    stall: Option<(Instant, Instant)>,
    busy_until: Option<Instant>,
    /// Requests before which a connection breaks.
    breaks_at: Option<u64>,
    answered: u64,
    connected: Vec<Handshake>,
    paths: Vec<String>,
    statuses: Vec<u16>,
    bodies: Vec<&'static str>,
    /// What a request takes of the client's thread.
    client_work: Duration,
}

struct Simulated {
    server: Rc<RefCell<Server>>,
}

impl Transport for Simulated {
    type Connection = ();
    type Head = String;

    const IS_EXCLUSIVE: bool = false;

    fn head(&self, parts: &HeadParts<'_>) -> Result<String, Failure> {
        Ok(parts.path.to_owned())
    }

    async fn connect(&self, wanted: Handshake, _: usize) -> Result<((), Handshake), Failure> {
        self.server.borrow_mut().connected.push(wanted);
        Virtual::sleep_until(Virtual::now() + MS).await;
        Ok(((), wanted))
    }

    fn settled(&self, (): &(), begun: Handshake) -> Handshake {
        // This server takes no early data.
        if begun == Handshake::Early { Handshake::Resumed } else { begun }
    }

    async fn request(&self, (): &(), head: &String, _: Bytes) -> Result<Reply, Failure> {
        Virtual::work(self.server.borrow().client_work);
        let done = {
            let mut server = self.server.borrow_mut();
            let now = Virtual::now();
            let mut begin = server.busy_until.map_or(now, |until| until.max(now));
            if let Some((from, to)) = server.stall
                && begin >= from
                && begin < to
            {
                begin = to;
            }
            server.busy_until = Some(begin + server.service);
            begin + server.service
        };
        Virtual::sleep_until(done).await;
        let mut server = self.server.borrow_mut();
        let number = usize::try_from(server.answered).unwrap();
        server.answered += 1;
        server.paths.push(head.clone());
        if server.breaks_at == Some(server.answered) {
            return Err(Failure::fatal("lost", "broken"));
        }
        let status = server.statuses.get(number).copied().unwrap_or(200);
        let body = server.bodies.get(number).copied().unwrap_or_default();
        Ok(Reply { status, head: ReplyHead::Ours(head_of(status)), body: body.into() })
    }
}

fn head_of(status: u16) -> ResponseHead {
    let mut section = Vec::new();
    qpack::encode_response(&mut section, status, [("location", "/t/9")]).unwrap();
    qpack::decode_response(&section, &qpack::Limits::DEFAULT).unwrap()
}

/// Runs a plan against a server; the time the run begins is given to `setup`.
fn run(plan: Plan, setup: impl FnOnce(&mut Server, Instant) + 'static) -> (Outcome, Server, Vec<Slice>) {
    let server = Rc::new(RefCell::new(Server { service: MS / 2, ..Server::default() }));
    let slices = Rc::new(RefCell::new(Vec::new()));
    let (theirs, seen) = (Rc::clone(&server), Rc::clone(&slices));
    let outcome = Virtual::run(async move {
        let worker = Worker::new(Arc::new(plan), 0, Simulated { server: Rc::clone(&theirs) });
        worker.prepare::<Virtual>().await.unwrap();
        let base = Virtual::now() + MS;
        setup(&mut theirs.borrow_mut(), base);
        worker.run::<Virtual>(base, move |slice| seen.borrow_mut().push(slice)).await
    });
    let lost = outcome.intended - outcome.completed() - outcome.errors() - outcome.dropped;
    assert_eq!(lost, 0, "every intended start has an end");
    (outcome, server.take(), slices.take())
}

fn open(rate: f64, seconds: u64) -> Plan {
    let duration = Duration::from_secs(seconds);
    let segments = vec![Segment::constant(duration, rate)];
    Plan { load: Load::Open { segments, is_random: false }, duration, ..plan() }
}

fn p99_ms(histogram: &hdrhistogram::Histogram<u64>) -> u64 {
    histogram.value_at_quantile(0.99) / 1_000_000
}

#[test]
fn a_stall_shows_in_corrected_latency_and_not_in_uncorrected() {
    // One request at a time on the connection, as a client that waits would do it:
    // during the 500 ms of the stall one request is under way and 500 should be.
    let (outcome, _, _) = run(open(1_000.0, 10), |server, base| {
        server.stall = Some((base + 2_000 * MS, base + 2_500 * MS));
    });
    assert_eq!((outcome.intended, outcome.completed(), outcome.dropped), (10_000, 10_000, 0));
    let (corrected, uncorrected) = outcome.latencies();
    // Latency falls evenly from 500 ms to none over 1,000 of the 10,000 requests.
    assert!((440..=460).contains(&p99_ms(&corrected)), "{}", p99_ms(&corrected));
    assert!(p99_ms(&uncorrected) < 1, "{}", p99_ms(&uncorrected));
    // The same server without a stall: nothing to correct.
    let (outcome, _, _) = run(open(1_000.0, 10), |_, _| {});
    assert!(p99_ms(&outcome.latencies().0) < 1);
}

#[test]
fn starts_keep_to_the_clock_while_the_server_is_slow() {
    let plan = Plan { streams: 4, in_flight_max: 10, ..open(100.0, 2) };
    let (outcome, server, _) = run(plan, |server, _| server.service = 50 * MS);
    // 20 a second are served; up to ten are under way, the rest is dropped and says so.
    assert_eq!(outcome.intended, 200);
    assert_eq!(outcome.completed() + outcome.dropped, 200);
    assert_eq!(outcome.completed(), server.answered);
    assert!((45..=52).contains(&server.answered), "{}", server.answered);
    assert!(outcome.completed_in_time < outcome.completed(), "the last ones came after the end");
    assert!(outcome.lag.max() < 1_000_000, "the client was never late: {}", outcome.lag.max());
}

/// A thousand starts a second that take 2 ms of the client each: half of them are made when their time is long over. The
/// server is not to blame, and the result says who is.
#[test]
fn a_client_that_cannot_keep_up_is_late_and_says_so() {
    let plan = Plan { streams: 100, timeout: Duration::from_secs(60), ..open(1_000.0, 1) };
    let duration = plan.duration;
    let (outcome, _, _) = run(plan, |server, _| {
        (server.service, server.client_work) = (MS / 100, 2 * MS);
    });
    assert_eq!((outcome.intended, outcome.completed(), outcome.dropped), (1_000, 1_000, 0));
    assert!((400..=600).contains(&(outcome.lag.value_at_quantile(0.5) / 1_000_000)), "{}", outcome.lag.max());
    let (corrected, uncorrected) = outcome.latencies();
    assert!(p99_ms(&corrected) > 900, "its own lateness counts: {}", p99_ms(&corrected));
    assert!(p99_ms(&uncorrected) < 200, "{}", p99_ms(&uncorrected));
    let trial = Trial { outcome, seconds: vec![], rss: vec![], server_cpu: None, duration, threads: 1 };
    let [sign] = &trial.client_limits()[..] else { panic!("one sign: {:?}", trial.client_limits()) };
    assert!(sign.contains("after their time"), "{sign}");
}

#[test]
fn what_is_never_answered_is_given_up_and_counted() {
    let plan = Plan { streams: 2, timeout: Duration::from_secs(3), ..open(10.0, 1) };
    let (outcome, _, _) = run(plan, |server, _| server.service = Duration::from_secs(1_000));
    assert_eq!((outcome.intended, outcome.errors()), (10, 10));
    let failures = &outcome.scenarios[0].failures;
    assert!(failures["timeout"] >= 2, "{failures:?}");
    assert_eq!(failures["timeout"] + failures.get("unfinished").unwrap_or(&0), 10);
}

#[test]
fn a_closed_loop_waits_for_its_answers() {
    let plan = Plan { clients: 2, streams: 3, ..plan() };
    let (outcome, server, slices) = run(plan, |server, _| server.service = 2 * MS);
    // The server does 500 a second whatever the client does; six wait at all times.
    assert!((498..=506).contains(&outcome.completed()), "{}", outcome.completed());
    assert!((11..=12).contains(&p99_ms(&outcome.latencies().0)));
    assert_eq!(server.connected.len(), 2);
    assert_eq!(slices.iter().map(|slice| slice.completed).sum::<u64>(), outcome.completed_in_time);
}

#[test]
fn the_warm_up_is_run_and_not_measured() {
    let plan = Plan { warmup: Duration::from_millis(1_500), ..open(100.0, 2) };
    let (outcome, server, slices) = run(plan, |_, _| {});
    assert_eq!((outcome.intended, server.answered), (200, 350));
    let seen: Vec<_> = slices.iter().map(|slice| (slice.at_s, slice.intended)).collect();
    assert_eq!(seen, [(-2, 50), (-1, 100), (0, 100), (1, 100)]);
}

#[test]
fn a_lost_connection_is_made_anew() {
    let (outcome, server, _) = run(open(100.0, 1), |server, _| server.breaks_at = Some(50));
    assert_eq!((outcome.completed(), outcome.errors()), (99, 1));
    assert_eq!(server.connected.len(), 2);
    assert_eq!(outcome.scenarios[0].failures["lost"], 1);
    assert_eq!(outcome.first_error.as_deref(), Some("broken"));
}

#[test]
fn unexpected_statuses_are_errors_and_told_apart() {
    let (outcome, _, _) = run(open(10.0, 1), |server, _| {
        server.statuses = vec![200, 503, 503];
        server.bodies = vec!["", "busy"];
    });
    assert_eq!((outcome.completed(), outcome.errors()), (8, 2));
    assert_eq!(outcome.scenarios[0].statuses, [(200, 8), (503, 2)].into());
    assert_eq!(outcome.first_error.as_deref(), Some("status 503: busy"));
}

#[test]
fn new_connections_come_in_the_shares_asked_for() {
    let shares = Shares { new_connection: 0.5, resumption: 0.4, early_data: 0.2 };
    let plan = Plan { shares, clients: 4, streams: 100, ..open(1_000.0, 4) };
    let (outcome, server, _) = run(plan, |server, _| server.service = MS / 100);
    let count = |kind| server.connected.iter().skip(4).filter(|made| **made == kind).count();
    let [full, resumed, early] = Handshake::ALL.map(count);
    assert!((1_900..2_100).contains(&(full + resumed + early)));
    assert!((720..880).contains(&full) && (720..880).contains(&resumed) && (340..460).contains(&early));
    // The early ones turned out as refused, and are counted as what they became.
    let [f, r, e] = &outcome.handshakes;
    assert_eq!((f.count, e.count), (full as u64, 0));
    assert_eq!((r.count, r.fallbacks), ((resumed + early) as u64, early as u64));
    assert_eq!(r.first_answer.len(), r.count);
}

#[test]
fn a_connection_is_replaced_after_its_requests() {
    let plan = Plan { requests_per_connection: Some(10), ..plan() };
    let (outcome, server, _) = run(plan, |_, _| {});
    let expected = server.answered.div_ceil(10);
    assert_eq!(server.connected.len() as u64, expected);
    assert_eq!(outcome.errors(), 0);
}

#[test]
fn a_chain_passes_on_what_it_captured_and_polls_until_done() {
    let mix = Mix::parse(
        r#"
        [[scenario]]
        name = "queued"
        weight = 1
        [[scenario.request]]
        method = "POST"
        path = "/command"
        capture = { task = "header:location", session = "/session" }
        [[scenario.request]]
        path = "{task}"
        repeat = { while = "/state", is = ["queued", "running"], max = 5, pause_ms = 20 }
        [[scenario.request]]
        path = "/sessions/{session}"
        "#,
        "x",
        None,
    );
    // A path must begin with a slash, so that a captured one stands behind it.
    assert!(mix.is_err());
    let text = r#"
        [[scenario]]
        name = "queued"
        weight = 1
        request = [
            { method = "POST", path = "/command", capture = { task = "header:location", session = "/session" } },
            { path = "/x{task}", repeat = { while = "/state", is = ["queued", "running"], max = 5, pause_ms = 20 } },
            { path = "/sessions/{session}" },
        ]
        "#;
    let mix = Arc::new(Mix::parse(text, "x", None).unwrap());
    let (outcome, server, _) = run(Plan { mix, ..open(1.0, 1) }, |server, _| {
        server.bodies = vec![r#"{"session":"ses_1"}"#, r#"{"state":"queued"}"#, r#"{"state":"done"}"#];
    });
    assert_eq!(server.paths, ["/command", "/x/t/9", "/x/t/9", "/sessions/ses_1"]);
    assert_eq!((outcome.completed(), outcome.errors()), (1, 0));
    assert!(outcome.latencies().0.min() >= 20_000_000, "the pause is part of the scenario");
}
