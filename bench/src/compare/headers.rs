//! `sluice-bench compare headers`: what QPACK's dynamic table is worth for requests
//! with real fields: decoding alone, and end to end with our client's encoder on and
//! off in turns against one and the same server.

use std::cell::{Cell, RefCell};
use std::hint::black_box;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use bytes::Bytes;
use clap::Args;
use sluice_core::{CoreId, Reactor, ReactorConfig, sleep, spawn};
use sluice_net::client::{Client, ClientConnection};
use sluice_net::tls::{Trust, client_crypto};
use sluice_protocols::h3::QPACK_TABLE_BYTES_MAX;
use sluice_protocols::http::{Limits, RequestHead};
use sluice_protocols::qpack::{self, Decoder, Encoder};

use super::peer::Peer;
use crate::cpu::process_time;

const CLIENT_CPU: usize = 1;
const WARM_UP: Duration = Duration::from_millis(500);
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
const DECODES: u32 = 200_000;
const CASES: [(&str, usize, usize); 2] = [("16x32", 16, 32), ("64x64", 64, 64)];

/// Options of `compare headers`.
#[derive(Debug, Clone, Args)]
pub struct HeadersArgs {
    /// Seconds measured in each run
    #[arg(long, default_value_t = 2.0)]
    pub duration_s: f64,
    /// Runs of each case, with and without the table in turns; the median counts
    #[arg(long, default_value_t = 3)]
    pub runs: usize,
}

#[derive(Clone, Copy)]
struct Figures {
    cpu_us: f64,
    request_bytes: f64,
    requests_per_s: f64,
}

/// Runs and prints the comparison.
pub(super) fn run(args: &HeadersArgs) -> anyhow::Result<()> {
    micro();
    let peer = Peer::start_own("sluice", &[])?;
    println!("case      table   server CPU us   sent bytes a request      req/s");
    for case in CASES {
        let mut figures = [vec![], vec![]];
        for _ in 0..args.runs.max(1) {
            for (uses_table, figures) in [false, true].into_iter().zip(&mut figures) {
                figures.push(measure(&peer, case, uses_table, Duration::from_secs_f64(args.duration_s))?);
            }
        }
        let [without, with] = figures.map(median);
        for (name, of) in [("off", without), ("on", with)] {
            let Figures { cpu_us, request_bytes, requests_per_s } = of;
            println!("{:<9} {name:<7} {cpu_us:>13.2} {request_bytes:>22.0} {requests_per_s:>10.0}", case.0);
        }
        println!("{:<9} on/off  {:>13.2}", case.0, with.cpu_us / without.cpu_us);
    }
    Ok(())
}

/// The fields a browser sends with a command, and a bearer token of 300 bytes.
fn head() -> RequestHead {
    let token: String = (0u32..293)
        .map(|n| {
            char::from(
                b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
                    [(n * n % 61 + n % 3) as usize],
            )
        })
        .collect();
    RequestHead::build("POST", "/v1/intents", "gateway.example.com")
        .with("authorization", &format!("Bearer {token}"))
        .with("content-type", "application/json")
        .with("accept", "application/json")
        .with(
            "user-agent",
            "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/131.0.0.0 Safari/537.36",
        )
        .with("accept-encoding", "gzip, deflate, br, zstd")
        .with("content-length", "0")
}

fn micro() {
    let head = head();
    let mut plain = Vec::new();
    qpack::encode_request(&mut plain, &head);
    let mut decoder = Decoder::new(QPACK_TABLE_BYTES_MAX);
    let mut encoder = Encoder::new(QPACK_TABLE_BYTES_MAX as u64);
    let (mut short, mut out) = (Vec::new(), Vec::new());
    for stream in 0..3 {
        short.clear();
        encoder.encode_request(&mut short, stream * 4, &head);
        let instructions = std::mem::take(encoder.instructions());
        let fed = decoder.feed(&instructions);
        debug_assert!(fed.is_ok());
        out.clear();
        decoder.write_insert_count_increment(&mut out);
        let answered = encoder.feed(&out);
        debug_assert!(answered.is_ok());
    }
    let without = time(|| drop(black_box(qpack::decode_request(black_box(&plain), &Limits::DEFAULT))));
    let aside = time(|| drop(black_box(decoder.decode_request(black_box(&plain), &Limits::DEFAULT))));
    let with = time(|| {
        out.clear();
        drop(black_box(decoder.decode_request(black_box(&short), &Limits::DEFAULT)));
        decoder.write_section_acknowledgment(&mut out, 400);
    });
    println!("decoding: static {} bytes {without:.0} ns (beside an unused table {aside:.0} ns)", plain.len());
    println!("          dynamic {} bytes {with:.0} ns with its acknowledgment", short.len());
}

fn time(mut f: impl FnMut()) -> f64 {
    let mut best = f64::MAX;
    for _ in 0..5 {
        let begun = Instant::now();
        for _ in 0..DECODES / 5 {
            f();
        }
        best = best.min(begun.elapsed().as_nanos() as f64 / f64::from(DECODES / 5));
    }
    best
}

fn measure(
    peer: &Peer,
    (_, connections, streams): (&str, usize, usize),
    uses_table: bool,
    duration: Duration,
) -> anyhow::Result<Figures> {
    let (address, pid) = (peer.address, peer.pid());
    let reactor =
        Reactor::new(ReactorConfig { cpu: Some(CLIENT_CPU), ..ReactorConfig::new(CoreId::new(0)) })?;
    reactor.block_on(async move {
        let tls = client_crypto(Trust::AnyServer)?;
        let client = Client::start(tls, address, IDLE_TIMEOUT)?.with_dynamic_table(uses_table);
        let (done, over) = (Rc::new(Cell::new(0u64)), Rc::new(Cell::new(false)));
        let failed: Rc<RefCell<Option<String>>> = Rc::default();
        let (mut open, mut tasks) = (vec![], vec![]);
        for _ in 0..connections {
            let connection = Rc::new(client.connect(address, "localhost", None).await?);
            for _ in 0..streams {
                let (connection, done, over) = (Rc::clone(&connection), Rc::clone(&done), Rc::clone(&over));
                let failed = Rc::clone(&failed);
                tasks.push(spawn(async move {
                    let head = head();
                    while !over.get() {
                        match connection.request(&head, Bytes::new()).await {
                            Ok(answer) if answer.head.status() == 200 => done.set(done.get() + 1),
                            Ok(answer) => {
                                *failed.borrow_mut() = Some(format!("status {}", answer.head.status()));
                                return;
                            }
                            Err(error) => {
                                *failed.borrow_mut() = Some(error.to_string());
                                return;
                            }
                        }
                    }
                }));
            }
            open.push(connection);
        }
        sleep(WARM_UP).await;
        let (requests, cpu, sent, begun) =
            (done.get(), process_time(pid)?, sent_bytes(&open), Instant::now());
        sleep(duration).await;
        let requests = (done.get() - requests).max(1) as f64;
        let figures = Figures {
            cpu_us: (process_time(pid)? - cpu).as_secs_f64() * 1e6 / requests,
            request_bytes: (sent_bytes(&open) - sent) as f64 / requests,
            requests_per_s: requests / begun.elapsed().as_secs_f64(),
        };
        over.set(true);
        for task in tasks {
            task.await;
        }
        let failed = failed.borrow_mut().take();
        match failed {
            Some(error) => Err(anyhow!(error)).context("a request failed"),
            None => Ok(figures),
        }
    })?
}

/// Bytes of UDP payload the client has sent.
fn sent_bytes(connections: &[Rc<ClientConnection>]) -> u64 {
    connections.iter().filter_map(|connection| connection.stats()).map(|stats| stats.udp_tx.bytes).sum()
}

fn median(mut figures: Vec<Figures>) -> Figures {
    figures.sort_by(|a, b| a.cpu_us.total_cmp(&b.cpu_us));
    figures[figures.len() / 2]
}
