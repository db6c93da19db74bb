//! Our client against our server in one thread, over a network that does not
//! exist: time is a number, and every packet may be late, lost, doubled,
//! damaged, marked, or too large for the path.
//!
//! What a seed decides: the path, the requests, when each is made and given up,
//! how long the service takes, and when the client moves or the server winds up.
//! Two things no seed reaches are the keys of TLS and our connection IDs: they
//! change no decision of ours, only bits. `SLUICE_SEEDS` asks for more seeds
//! than the suite runs, `SLUICE_SEED` for a single one.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::mem::ManuallyDrop;
use std::net::{IpAddr, Ipv4Addr};
use std::ops::Range;

use quinn_proto::crypto::rustls::QuicServerConfig;
use sluice_core::udp::{ReceiveMeta, SendMeta};
use sluice_protocols::http::Response;

use super::*;
use crate::ingress::http3::Http3;
use crate::ingress::{IngressConfig, IngressStats};
use crate::quic::outlet::Outlet;
use crate::quic::steering::SteeredIds;
use crate::service::{Admit, Answer, Request, Responder, Service};
use crate::tls::{EarlyData, TlsIdentity, Trust, client_crypto, server_crypto};

/// Seeds of each test, about 25 ms each.
const SEEDS: u64 = 30;
const SERVER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)), 443);
const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2));
const IDLE: Duration = Duration::from_secs(30);
/// Virtual time after which what has not ended never will.
const END: Duration = Duration::from_secs(600);
/// Turns after which a run is a busy loop.
const TURNS_MAX: u32 = 300_000;
const STREAMS_MAX: u32 = 16;
const BODY_BYTES_MAX: usize = 120_000;
const ECT_0: u8 = 0b10;
const CE: u8 = 0b11;

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn within(&mut self, range: Range<u64>) -> u64 {
        range.start + self.below(range.end - range.start)
    }

    fn percent(&mut self, chance: u64) -> bool {
        self.below(100) < chance
    }

    fn index(&mut self, bound: usize) -> usize {
        usize::try_from(self.below(bound as u64)).unwrap()
    }

    fn bytes(&mut self, len: usize) -> Vec<u8> {
        std::iter::repeat_with(|| self.next().to_le_bytes()).flatten().take(len).collect()
    }
}

/// Which end of the path.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum To {
    Server,
    Client,
}

struct Packet {
    to: To,
    meta: ReceiveMeta,
    bytes: Vec<u8>,
}

/// What a path does to packets, each chance in percent.
#[derive(Clone, Debug)]
struct Path {
    delay: Duration,
    jitter: Duration,
    lost: u64,
    doubled: u64,
    damaged: u64,
    /// Held back by several delays, so that many others overtake it.
    overtaken: u64,
    marked: u64,
    bleached: bool,
    mtu: usize,
    /// Chance that no send buffer is free.
    starved: u64,
    /// Nothing gets through from then on.
    dies_after: Option<Duration>,
}

impl Path {
    const CLEAN: Self = Self {
        delay: Duration::from_millis(10),
        jitter: Duration::ZERO,
        lost: 0,
        doubled: 0,
        damaged: 0,
        overtaken: 0,
        marked: 0,
        bleached: false,
        mtu: 1500,
        starved: 0,
        dies_after: None,
    };

    fn hostile(random: &mut Random) -> Self {
        Self {
            delay: Duration::from_micros(random.within(100..80_000)),
            jitter: Duration::from_micros(random.below(10_000)),
            lost: random.below(11),
            doubled: random.below(11),
            damaged: random.below(3),
            overtaken: random.below(11),
            marked: random.below(6),
            bleached: random.percent(20),
            mtu: usize::try_from(random.within(1200..1501)).unwrap(),
            starved: random.below(5),
            dies_after: None,
        }
    }
}

/// Packets under way, by arrival.
struct Link {
    path: Path,
    random: Random,
    began: Instant,
    now: Instant,
    client: SocketAddr,
    under_way: BTreeMap<(Instant, u64), Packet>,
    sent: u64,
}

impl Link {
    fn send(&mut self, to: To, meta: &SendMeta, train: &[u8]) {
        let segment = meta.segment.map_or(train.len(), usize::from);
        for datagram in train.chunks(segment.max(1)) {
            let copies = if self.random.percent(self.path.doubled) { 2 } else { 1 };
            for _ in 0..copies {
                self.send_one(to, meta, datagram);
            }
        }
    }

    fn send_one(&mut self, to: To, meta: &SendMeta, datagram: &[u8]) {
        let Self { path, random, .. } = self;
        // UDP and IPv4 headers take 28 bytes of the path's.
        let is_dead = path.dies_after.is_some_and(|after| self.now >= self.began + after);
        if is_dead || random.percent(path.lost) || datagram.len() + 28 > path.mtu.max(1228) {
            return;
        }
        let mut bytes = datagram.to_vec();
        if random.percent(path.damaged) {
            let at = random.index(bytes.len());
            bytes[at] ^= 1 << random.below(8);
        }
        let ecn = match meta.ecn {
            _ if path.bleached => 0,
            ECT_0 if random.percent(path.marked) => CE,
            ecn => ecn,
        };
        let jitter = u64::try_from(path.jitter.as_micros()).unwrap();
        let mut at = self.now + path.delay + Duration::from_micros(random.below(jitter + 1));
        if random.percent(path.overtaken) {
            at += path.delay * 3;
        }
        let (source, destination) = match to {
            To::Server => (self.client, SERVER),
            // An address the client has left: nobody is there.
            To::Client if meta.destination != self.client => return,
            To::Client => (SERVER, self.client),
        };
        assert_eq!(meta.destination, destination, "sent to a stranger");
        let meta = ReceiveMeta { source, destination: Some(destination.ip()), ecn, segment: bytes.len() };
        self.sent += 1;
        self.under_way.insert((at, self.sent), Packet { to, meta, bytes });
    }
}

/// One end's way onto the link.
struct Wire<'a> {
    link: &'a mut Link,
    to: To,
}

impl Outlet for Wire<'_> {
    type Buffer = Vec<u8>;

    fn acquire(&mut self) -> Option<Vec<u8>> {
        let starved = self.link.path.starved;
        (!self.link.random.percent(starved)).then(Vec::new)
    }

    fn bytes(buffer: &mut Vec<u8>) -> &mut Vec<u8> {
        buffer
    }

    fn send(&mut self, _: ListenerId, meta: &SendMeta, buffer: Vec<u8>) {
        self.link.send(self.to, meta, &buffer);
    }
}

/// One request as it is meant to go.
struct Plan {
    at: Duration,
    body: Vec<u8>,
    answer: Bytes,
    /// How long the service takes.
    takes: Duration,
    /// The answer is the request as it comes, in pieces both ways.
    is_piped: bool,
    /// Given up after this long.
    patience: Option<Duration>,
}

impl Plan {
    fn random(random: &mut Random) -> Self {
        let mut size = || match random.below(4) {
            0 => 0,
            1 => random.index(100),
            2 => random.index(5_000),
            _ => random.index(BODY_BYTES_MAX),
        };
        let (sent, answered) = (size(), size());
        let body = random.bytes(sent);
        let is_piped = random.percent(30);
        let answer = if is_piped { body.clone() } else { random.bytes(answered) };
        Self {
            at: Duration::from_millis(random.below(2_000)),
            body,
            answer: answer.into(),
            is_piped,
            takes: Duration::from_millis(if random.percent(30) { random.below(1_000) } else { 0 }),
            patience: random.percent(10).then(|| Duration::from_millis(random.below(1_000))),
        }
    }
}

/// Checks each request against its plan and answers when its time has come.
struct Desk {
    now: Cell<Instant>,
    plans: Rc<Vec<Plan>>,
    calls: RefCell<Vec<u32>>,
    due: RefCell<BTreeMap<(Instant, usize), (Responder, Response)>>,
}

impl Service for Desk {
    fn admit(&self, head: &RequestHead, _: Option<IpAddr>) -> Admit {
        match self.plans[number_of(head)].is_piped {
            true => Admit::Stream { bytes_max: BODY_BYTES_MAX },
            false => Admit::Body { bytes_max: BODY_BYTES_MAX },
        }
    }

    fn call(&self, request: Request, respond: Responder) {
        let number = number_of(&request.head);
        let plan = &self.plans[number];
        if let Some(body) = request.stream {
            self.calls.borrow_mut()[number] += 1;
            return respond.answer(Answer::Streamed(Response::new(200), body));
        }
        assert!(request.body == plan.body, "request {number} arrived changed");
        self.calls.borrow_mut()[number] += 1;
        let response = Response::new(200).with_body("application/octet-stream", plan.answer.clone());
        self.due.borrow_mut().insert((self.now.get() + plan.takes, number), (respond, response));
    }

    fn refuse(&self, status: u16, detail: &str) -> Response {
        panic!("a good request was refused with {status}: {detail}");
    }
}

fn number_of(head: &RequestHead) -> usize {
    head.path()[1..].parse().unwrap()
}

impl Desk {
    /// Sends the answers whose time has come.
    fn answer(&self, now: Instant) {
        while let Some(first) = self.due.borrow_mut().first_entry() {
            if first.key().0 > now {
                break;
            }
            let (respond, response) = first.remove();
            respond.send(response);
        }
    }
}

/// What both ends are made of, the same for every seed.
struct Kit {
    server: Arc<QuicServerConfig>,
    client: Arc<QuicClientConfig>,
    keys: SharedKeys,
}

impl Kit {
    fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        let keys = SharedKeys::generate().unwrap();
        let identity = TlsIdentity::development(home.path()).unwrap();
        let server = server_crypto(&identity, &keys, EarlyData::Off).unwrap();
        let client = client_crypto(Trust::AnyServer).unwrap();
        Self {
            server: Arc::new(QuicServerConfig::try_from(server).unwrap()),
            client: Arc::new(QuicClientConfig::try_from(client).unwrap()),
            keys,
        }
    }

    fn endpoint_config(&self, random: &mut Random) -> qp::EndpointConfig {
        let mut config = qp::EndpointConfig::new(self.keys.reset_key());
        config.rng_seed(Some(random.bytes(32).try_into().unwrap()));
        config
    }

    fn server(&self, random: &mut Random) -> qp::Endpoint {
        let mut server = qp::ServerConfig::new(Arc::clone(&self.server) as _, self.keys.token_key());
        server.transport_config(Arc::new(transport(STREAMS_MAX, IDLE)));
        let mut config = self.endpoint_config(random);
        let cores = CoreCount::new(3).unwrap();
        config.cid_generator(move || Box::new(SteeredIds::new(CoreId::new(1), cores)));
        qp::Endpoint::new(Arc::new(config), Some(Arc::new(server)), true, None)
    }

    fn client(&self, random: &mut Random) -> qp::Endpoint {
        qp::Endpoint::new(Arc::new(self.endpoint_config(random)), None, true, None)
    }
}

/// What happens besides requests.
#[derive(Default)]
struct Script {
    moves: Vec<Duration>,
    /// Silence after which the client says something.
    keep_alive: Option<Duration>,
    goes_away: Option<Duration>,
    must_retry: bool,
}

/// How a request ended.
#[derive(Debug)]
enum End {
    Answered(ClientResponse),
    Failed(ClientError),
    GivenUp,
}

struct World<'a> {
    began: Instant,
    now: Instant,
    link: Link,
    server: Http3,
    desk: Rc<Desk>,
    client: Rc<RefCell<State>>,
    is_client_behind: bool,
    connection: &'a ClientConnection,
}

impl World<'_> {
    fn since(&self) -> Duration {
        self.now - self.began
    }

    /// Delivers what has arrived, runs both ends until they are quiet, and puts
    /// what they send on the link.
    fn turn(&mut self) {
        let now = self.now;
        self.link.now = now;
        self.desk.now.set(now);
        while let Some(first) = self.link.under_way.first_entry() {
            if first.key().0 > now {
                break;
            }
            let Packet { to, meta, bytes } = first.remove();
            match to {
                To::Server => self.server.driver.receive(now, LISTENER, &meta, &bytes),
                To::Client => self.client.borrow_mut().driver.receive(now, LISTENER, &meta, &bytes),
            }
        }
        self.server.take_in(now);
        self.desk.answer(now);
        self.server.write_out(now);
        self.server.drain_step(now);
        self.server.transmit(now, &mut Wire { link: &mut self.link, to: To::Client });
        let mut client = self.client.borrow_mut();
        client.driver.expire(now);
        take_events(&mut client, now);
        let mut wire = Wire { link: &mut self.link, to: To::Server };
        self.is_client_behind = client.driver.transmit(now, &mut wire);
    }

    /// When the next turn is due; `None`: never.
    fn next(&self) -> Option<Instant> {
        let has_more = self.server.is_behind() || !self.server.is_quiet();
        let soon = (has_more || self.is_client_behind).then(|| self.now + RETRY_DELAY);
        let arrival = self.link.under_way.first_key_value().map(|((at, _), _)| *at);
        let answer = self.desk.due.borrow().first_key_value().map(|((at, _), _)| *at);
        let timers = [self.server.next_deadline(), self.client.borrow().driver.next_deadline()];
        [soon, arrival, answer].into_iter().chain(timers).flatten().min()
    }

    /// Whether the server has heard the end of the handshake: no client may move
    /// before (RFC 9000 section 9).
    fn may_move(&mut self) -> bool {
        let driver = &mut self.server.driver;
        driver.indices().into_iter().any(|i| driver.get_mut(i).is_some_and(|c| !c.quic.is_handshaking()))
    }

    /// The client goes on from another port, as behind a translator of addresses
    /// that forgot it, or from a new network when it knows.
    fn move_client(&mut self, knows: bool) {
        self.link.client.set_port(self.link.client.port() + 1);
        if knows {
            let (index, generation) = (self.connection.index, self.connection.generation);
            let mut client = self.client.borrow_mut();
            if let Some(connection) = client.driver.get_generation(index, generation) {
                connection.quic.local_address_changed();
                client.driver.mark(index);
            }
        }
    }

    fn close(&mut self) {
        let (index, generation) = (self.connection.index, self.connection.generation);
        let mut client = self.client.borrow_mut();
        if let Some(connection) = client.driver.get_generation(index, generation) {
            connection.quic.close(self.now, code(ErrorCode::H3_NO_ERROR), Bytes::new());
            client.driver.mark(index);
        }
    }
}

/// How a run went.
struct Outcome {
    ends: Vec<End>,
    calls: Vec<u32>,
    stats: Arc<IngressStats>,
    /// Connections the server let in, and those it asked for a proof first.
    accepted: u64,
    retried: u64,
    lasted: Duration,
}

fn run(kit: &Kit, seed: u64, path: &Path, plans: Vec<Plan>, script: &Script) -> Outcome {
    let mut random = Random(!seed);
    let began = Instant::now();
    let plans = Rc::new(plans);
    let desk = Rc::new(Desk {
        now: Cell::new(began),
        plans: Rc::clone(&plans),
        calls: RefCell::new(vec![0; plans.len()]),
        due: RefCell::default(),
    });
    let config = IngressConfig {
        connections_max: 10,
        handshakes_max: if script.must_retry { 0 } else { 10 },
        streams_max: STREAMS_MAX,
        // However bad the path is: nobody is late.
        request_timeout: END,
        ..IngressConfig::default()
    };
    let service = Rc::clone(&desk) as Rc<dyn Service>;
    let server = Http3::new(kit.server(&mut random), &config, service, Arc::default(), began);
    let limits = AdmissionLimits {
        connections_max: usize::MAX,
        handshakes_max: usize::MAX,
        handshakes_most: usize::MAX,
        per_network_max: None,
        handshake_timeout: None,
    };
    let client = State {
        driver: Driver::new(kit.client(&mut random), limits, began),
        lost: FastMap::default(),
        waker: None,
    };
    let client = Rc::new(RefCell::new(client));
    let mut config = qp::ClientConfig::new(Arc::clone(&kit.client) as _);
    let mut client_transport = transport(SERVER_STREAMS_MAX, IDLE);
    client_transport.keep_alive_interval(script.keep_alive);
    config.transport_config(Arc::new(client_transport));
    let connected = client.borrow_mut().driver.connect(began, LISTENER, config, SERVER, "localhost");
    let (index, generation) = connected.unwrap();
    // Its drop would read the clock of a reactor; here it is closed by hand.
    let connection = ManuallyDrop::new(ClientConnection { state: Rc::clone(&client), index, generation });
    let mut world = World {
        began,
        now: began,
        link: Link {
            path: path.clone(),
            random: Random(random.next()),
            began,
            now: began,
            client: SocketAddr::new(CLIENT, 1000),
            under_way: BTreeMap::new(),
            sent: 0,
        },
        server,
        desk,
        client: Rc::clone(&client),
        is_client_behind: false,
        connection: &connection,
    };
    let mut waits: Vec<_> = (0..plans.len()).map(|_| None).collect();
    let mut ends: Vec<Option<End>> = (0..plans.len()).map(|_| None).collect();
    let mut moves = script.moves.clone();
    let mut goes_away = script.goes_away;
    let mut turns = 0;
    let mut is_closing = false;
    let lasted = loop {
        turns += 1;
        assert!(turns < TURNS_MAX, "a busy loop: {turns} turns in {:?}", world.since());
        world.turn();
        let since = world.since();
        let mut wanted = Vec::new();
        for (number, plan) in plans.iter().enumerate() {
            if ends[number].is_some() {
                continue;
            }
            if since < plan.at {
                wanted.push(plan.at);
                continue;
            }
            let wait = waits[number].get_or_insert_with(|| {
                let head = RequestHead::build("POST", &format!("/{number}"), "localhost");
                let body = Bytes::from(plan.body.clone());
                let connection: &ClientConnection = &connection;
                Box::pin(async move { connection.request(&head, body).await })
            });
            let mut cx = Context::from_waker(Waker::noop());
            if let Poll::Ready(result) = wait.as_mut().poll(&mut cx) {
                ends[number] = Some(result.map_or_else(End::Failed, End::Answered));
            } else if let Some(patience) = plan.patience {
                if since >= plan.at + patience {
                    ends[number] = Some(End::GivenUp);
                } else {
                    wanted.push(plan.at + patience);
                }
            }
            if ends[number].is_some() {
                waits[number] = None;
            }
        }
        if let Some(at) = moves.first().copied() {
            if since >= at && world.may_move() {
                moves.remove(0);
                let knows = random.percent(50);
                world.move_client(knows);
            } else if since < at {
                wanted.push(at);
            }
        }
        if let Some(at) = goes_away {
            if since >= at {
                goes_away = None;
                world.server.begin_drain(world.now, began + END);
            } else {
                wanted.push(at);
            }
        }
        if !is_closing && ends.iter().all(Option::is_some) && goes_away.is_none() {
            is_closing = true;
            world.close();
        }
        // What was asked for in this turn leaves in this turn.
        world.turn();
        if is_closing && world.server.driver.len() == 0 && world.client.borrow().driver.len() == 0 {
            break since;
        }
        let scripted = wanted.into_iter().map(|at| began + at).min();
        let next = [world.next(), scripted].into_iter().flatten().min();
        let missing = || ends.iter().enumerate().filter(|(_, end)| end.is_none()).map(|(n, _)| n);
        let Some(next) = next else {
            panic!("stuck: requests {:?} never end", missing().collect::<Vec<_>>())
        };
        assert!(since < END, "requests {:?} have not ended after {since:?}", missing().collect::<Vec<_>>());
        world.now = next.max(world.now + Duration::from_nanos(1));
    };
    let calls = world.desk.calls.take();
    assert!(
        world.desk.due.borrow().is_empty() || ends.iter().any(|end| !matches!(end, Some(End::Answered(_))))
    );
    Outcome {
        ends: ends.into_iter().flatten().collect(),
        calls,
        accepted: world.server.stats.connections_accepted.get(),
        retried: world.server.stats.connections_retried.get(),
        stats: Arc::clone(&world.server.stats),
        lasted,
    }
}

/// Names the seed of a run that panics.
struct Seed(u64);

impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("failed with SLUICE_SEED={}", self.0);
        }
    }
}

fn seeds() -> Range<u64> {
    let asked = |name: &str| std::env::var(name).ok().map(|text| text.parse().expect("a number"));
    match (asked("SLUICE_SEED"), asked("SLUICE_SEEDS")) {
        (Some(one), _) => one..one + 1,
        (None, count) => 0..count.unwrap_or(SEEDS),
    }
}

/// Runs every seed, with the plans that go with each.
fn each_seed(mut test: impl FnMut(&Kit, u64, &mut Random, Vec<Plan>)) {
    let kit = Kit::new();
    for seed in seeds() {
        let _named = Seed(seed);
        let mut random = Random(seed);
        let count = random.within(1..41);
        let plans = (0..count).map(|_| Plan::random(&mut random)).collect();
        test(&kit, seed, &mut random, plans);
    }
}

/// What was asked and what came of it, side by side.
fn assert_answered(plans: &[(Bytes, bool)], outcome: &Outcome, may_fail: impl Fn(&ClientError, u32) -> bool) {
    for (number, (end, (answer, may_give_up))) in outcome.ends.iter().zip(plans).enumerate() {
        let calls = outcome.calls[number];
        match end {
            End::Answered(response) => {
                assert_eq!((response.head.status(), calls), (200, 1), "request {number}");
                assert!(response.body == *answer, "the answer to {number} arrived changed");
            }
            End::Failed(error) => {
                assert!(may_fail(error, calls), "request {number}: {error} ({calls} calls)")
            }
            End::GivenUp => assert!(*may_give_up && calls <= 1, "request {number}: {calls} calls"),
        }
    }
    let answered = outcome.ends.iter().filter(|end| matches!(end, End::Answered(_))).count() as u64;
    assert!(outcome.stats.responses.get() >= answered);
    assert_eq!(u64::from(outcome.calls.iter().sum::<u32>()), outcome.stats.requests.get());
    assert_eq!(outcome.stats.connections_failed.get(), 0);
    assert_eq!(outcome.stats.streams_failed.get(), 0);
}

fn asked(plans: &[Plan]) -> Vec<(Bytes, bool)> {
    plans.iter().map(|plan| (plan.answer.clone(), plan.patience.is_some())).collect()
}

#[test]
fn a_clean_path_loses_nothing_and_repeats_nothing() {
    each_seed(|kit, seed, _, plans| {
        let asked = asked(&plans);
        let outcome = run(kit, seed, &Path::CLEAN, plans, &Script::default());
        assert_answered(&asked, &outcome, |_, _| false);
        assert_eq!((outcome.accepted, outcome.retried), (1, 0));
    });
}

#[test]
fn a_hostile_path_loses_no_request_and_repeats_none() {
    each_seed(|kit, seed, random, plans| {
        let asked = asked(&plans);
        let path = Path::hostile(random);
        let outcome = run(kit, seed, &path, plans, &Script::default());
        assert_answered(&asked, &outcome, |_, _| false);
        // Initial packets come again and are doubled, and are one connection all the same.
        assert_eq!(outcome.accepted, 1, "{path:?}");
    });
}

#[test]
fn the_smallest_path_that_quic_allows_carries_everything() {
    each_seed(|kit, seed, _, plans| {
        let asked = asked(&plans);
        let path = Path { mtu: 1228, lost: 2, jitter: Duration::from_millis(2), ..Path::CLEAN };
        let outcome = run(kit, seed, &path, plans, &Script::default());
        assert_answered(&asked, &outcome, |_, _| false);
    });
}

/// It says something now and then: a server cannot find a client that was moved
/// without knowing and only listens.
#[test]
fn a_client_that_moves_loses_no_request() {
    each_seed(|kit, seed, random, plans| {
        let asked = asked(&plans);
        let path = Path { lost: random.below(4), overtaken: random.below(6), ..Path::CLEAN };
        let keep_alive = Some(Duration::from_secs(2));
        let mut at = Duration::from_millis(500);
        let mut moves = vec![];
        for _ in 0..random.within(1..6) {
            at += Duration::from_millis(random.below(1_000));
            moves.push(at);
        }
        let outcome = run(kit, seed, &path, plans, &Script { moves, keep_alive, ..Script::default() });
        assert_answered(&asked, &outcome, |_, _| false);
        assert_eq!(outcome.accepted, 1);
    });
}

#[test]
fn a_client_that_must_prove_its_address_is_served() {
    each_seed(|kit, seed, random, plans| {
        let asked = asked(&plans);
        let path = Path::hostile(random);
        let outcome = run(kit, seed, &path, plans, &Script { must_retry: true, ..Script::default() });
        assert_answered(&asked, &outcome, |_, _| false);
        assert!(outcome.accepted == 1 && outcome.retried >= 1);
    });
}

/// RFC 9114 section 5.2: what GOAWAY lets through is answered, and what it
/// refuses was not touched, so that it may be sent again elsewhere.
#[test]
fn winding_up_answers_a_request_or_never_begins_it() {
    let ends = [const { Cell::new(0) }; 3];
    each_seed(|kit, seed, random, plans| {
        let asked = asked(&plans);
        let path = Path::hostile(random);
        let goes_away = Some(Duration::from_millis(random.below(3_000)));
        let outcome = run(kit, seed, &path, plans, &Script { goes_away, ..Script::default() });
        assert_answered(&asked, &outcome, |error, calls| {
            let kind = match error {
                ClientError::GoingAway => 0,
                ClientError::Reset(ErrorCode::H3_REQUEST_REJECTED) => 1,
                // Where each GOAWAY was lost until the connection was at its end.
                ClientError::Lost(_) => 2,
                _ => return false,
            };
            // One that came too late to be let in hears nothing of GOAWAY.
            if outcome.accepted > 0 {
                ends[kind].update(|count| count + 1);
            }
            calls == 0
        });
    });
    let ends = ends.map(Cell::into_inner);
    assert!(ends[0] > 0 || seeds().count() == 1, "no request met a refusal: nothing was tested");
    assert!(
        ends[2] <= (ends[0] + ends[1]) / 4 || seeds().count() == 1,
        "most should learn of the end in time: {ends:?}"
    );
}

/// Nothing comes through any more: both ends give up by their idle timeout, and
/// every request says so.
#[test]
fn a_path_that_dies_ends_every_request() {
    each_seed(|kit, seed, random, mut plans| {
        for plan in &mut plans {
            plan.patience = None;
        }
        let asked = asked(&plans);
        let path =
            Path { dies_after: Some(Duration::from_millis(random.below(1_500))), ..Path::hostile(random) };
        let outcome = run(kit, seed, &path, plans, &Script::default());
        assert_answered(
            &asked,
            &outcome,
            |error, _| matches!(error, ClientError::Lost(reason) if reason.contains("timed out")),
        );
        assert!(outcome.lasted < 4 * IDLE, "{:?}", outcome.lasted);
    });
}
