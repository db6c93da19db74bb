//! Attempts at scripted receivers on the loopback, with names that a test answers for.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::Mutex;
use std::sync::atomic::AtomicUsize;
use std::sync::mpsc;

use super::*;

/// A receiver that hands each connection, its head read, to the script.
struct Receiver {
    port: u16,
    connections: Arc<AtomicUsize>,
}

impl Receiver {
    fn start(script: impl Fn(&mut TcpStream) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let connections = Arc::new(AtomicUsize::new(0));
        let (count, script) = (Arc::clone(&connections), Arc::new(script));
        std::thread::spawn(move || {
            while let Ok((mut stream, _)) = listener.accept() {
                count.fetch_add(1, Relaxed);
                let script = Arc::clone(&script);
                std::thread::spawn(move || {
                    let (mut head, mut byte) = (Vec::new(), [0]);
                    while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|read| read > 0) {
                        head.push(byte[0]);
                    }
                    script(&mut stream);
                });
            }
        });
        Self { port, connections }
    }

    fn answering(answer: &'static str) -> Self {
        Self::start(move |stream| {
            let _gone = stream.write_all(answer.as_bytes());
        })
    }

    fn connections(&self) -> usize {
        self.connections.load(Relaxed)
    }
}

const TAKEN: &str = "HTTP/1.1 204 No Content\r\n\r\n";

fn open_to(networks: &[&str]) -> OutwardConfig {
    let allow = networks.iter().map(|network| network.parse().unwrap()).collect();
    let policy = OutwardPolicy { allow_http: true, ports: Vec::new(), allow };
    OutwardConfig { policy, ..OutwardConfig::default() }
}

/// Answers each lookup with the next of these lists, the last one for ever.
fn answers(lists: &[&[[u8; 4]]]) -> Arc<Lookup> {
    let lists: Vec<Vec<SocketAddr>> = lists
        .iter()
        .map(|list| list.iter().map(|octets| (Ipv4Addr::from(*octets), 0).into()).collect())
        .collect();
    let asked = AtomicUsize::new(0);
    Arc::new(move |_: &str| Ok(lists[asked.fetch_add(1, Relaxed).min(lists.len() - 1)].clone()))
}

fn attempts(config: &OutwardConfig, lookup: Arc<Lookup>, urls: &[String]) -> Vec<Outcome> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    // The client's timers are the runtime's.
    let outcomes = runtime.block_on(async {
        let state = OutwardState::asking(config, "test", lookup).unwrap();
        let mut outcomes = Vec::new();
        for url in urls {
            // As it was checked when it was made, whatever is allowed now.
            let target = OutwardTarget::parse(url, &open_to(&["0.0.0.0/0", "::/0"]).policy).unwrap();
            let message = OutwardMessage { target, fields: Vec::new(), body: Bytes::from_static(b"{}") };
            outcomes.push(state.attempt(&message).await);
        }
        outcomes
    });
    runtime.shutdown_background();
    outcomes
}

fn statuses(outcomes: Vec<Outcome>) -> Vec<Result<u16, OutwardError>> {
    outcomes.into_iter().map(|outcome| outcome.map(|answer| answer.status)).collect()
}

#[test]
fn a_name_that_changes_its_mind_is_judged_anew_at_each_attempt() {
    let receiver = Receiver::answering(TAKEN);
    let url = format!("http://rebound.example:{}/", receiver.port);
    let lookup = answers(&[&[[127, 0, 0, 1]], &[[127, 0, 0, 2]], &[[10, 0, 0, 1]]]);
    let outcomes = attempts(&open_to(&["127.0.0.1/32"]), lookup, &[url.clone(), url.clone(), url]);
    let forbidden = Err(OutwardError::Forbidden);
    assert_eq!(statuses(outcomes), [Ok(204), forbidden, forbidden]);
    assert_eq!(receiver.connections(), 1);
}

#[test]
fn of_a_names_addresses_only_those_are_connected_to_that_are_allowed() {
    let receiver = Receiver::answering(TAKEN);
    let url = format!("http://mixed.example:{}/", receiver.port);
    // Were the first ones tried, this would be refused or hang.
    let lookup = answers(&[&[[127, 0, 0, 9], [169, 254, 169, 254], [127, 0, 0, 1]]]);
    let outcomes = attempts(&open_to(&["127.0.0.1/32"]), lookup, &[url]);
    assert_eq!(statuses(outcomes), [Ok(204)]);
}

#[test]
fn addresses_in_place_of_names_are_judged_at_each_attempt_and_nobody_is_asked_for_them() {
    let receiver = Receiver::answering(TAKEN);
    let urls = ["127.0.0.1", "127.1", "0x7f000001", "[::ffff:127.0.0.1]", "[::1]"]
        .map(|host| format!("http://{host}:{}/", receiver.port));
    let nobody: Arc<Lookup> = Arc::new(|name: &str| panic!("{name} was looked up"));
    let outcomes = attempts(&open_to(&["127.0.0.2/32"]), nobody, &urls);
    assert_eq!(statuses(outcomes), [Err(OutwardError::Forbidden); 5]);
    assert_eq!(receiver.connections(), 0);
}

#[test]
fn names_that_lead_nowhere_and_receivers_that_are_not_there_are_told_apart() {
    let lookup: Arc<Lookup> = Arc::new(|name: &str| match name {
        "nobody.example" => Err(io::Error::other("no such name")),
        _ => Ok(vec![(Ipv4Addr::LOCALHOST, 0).into()]),
    });
    let unused = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let urls = ["http://nobody.example/".to_owned(), format!("http://down.example:{unused}/")];
    let outcomes = attempts(&open_to(&["127.0.0.1/32"]), lookup, &urls);
    assert_eq!(statuses(outcomes), [Err(OutwardError::NoName), Err(OutwardError::NoConnection)]);
}

#[test]
fn an_answer_without_end_is_cut_off_and_its_status_told() {
    let (ended, end) = mpsc::channel();
    let ended = Mutex::new(ended);
    let receiver = Receiver::start(move |stream| {
        let _gone = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n");
        while stream.write_all(&[b'x'; 4_096]).is_ok() {}
        ended.lock().unwrap().send(()).unwrap();
    });
    let url = format!("http://127.0.0.1:{}/", receiver.port);
    let outcomes = attempts(&open_to(&["127.0.0.1/32"]), answers(&[&[]]), &[url]);
    assert_eq!(statuses(outcomes), [Ok(200)]);
    end.recv_timeout(Duration::from_secs(60)).expect("the receiver is cut off");
}

#[test]
fn a_head_without_end_and_a_silent_receiver_do_not_hold_an_attempt() {
    let receiver = Receiver::start(|stream| {
        let _gone = stream.write_all(b"HTTP/1.1 200 OK\r\n");
        while stream.write_all(b"x-more: and more\r\n").is_ok() {}
    });
    let url = format!("http://127.0.0.1:{}/", receiver.port);
    let outcomes = attempts(&open_to(&["127.0.0.1/32"]), answers(&[&[]]), &[url]);
    assert_eq!(statuses(outcomes), [Err(OutwardError::Broken)]);

    let silent = Receiver::start(|stream| while stream.read(&mut [0]).is_ok_and(|read| read > 0) {});
    let url = format!("http://127.0.0.1:{}/", silent.port);
    let config = OutwardConfig { attempt_timeout: Duration::from_millis(50), ..open_to(&["127.0.0.1/32"]) };
    assert_eq!(statuses(attempts(&config, answers(&[&[]]), &[url])), [Err(OutwardError::TimedOut)]);
}

#[test]
fn a_name_whose_servers_do_not_answer_does_not_hold_an_attempt() {
    let (release, held) = mpsc::channel::<()>();
    let held = Mutex::new(held);
    let stuck: Arc<Lookup> = Arc::new(move |_: &str| {
        let _released = held.lock().unwrap().recv();
        Err(io::Error::other("too late"))
    });
    let config = OutwardConfig { connect_timeout: Duration::from_millis(50), ..open_to(&[]) };
    let outcomes = attempts(&config, stuck, &["https://slow.example/".to_owned()]);
    assert_eq!(statuses(outcomes), [Err(OutwardError::TimedOut)]);
    drop(release);
}

#[test]
fn redirects_are_told_and_not_followed() {
    let receiver = Receiver::answering("HTTP/1.1 307 X\r\nlocation: http://127.0.0.1:1/\r\n\r\n");
    let url = format!("http://127.0.0.1:{}/", receiver.port);
    let outcomes = attempts(&open_to(&["127.0.0.1/32"]), answers(&[&[]]), &[url]);
    assert_eq!(statuses(outcomes), [Ok(307)]);
    assert_eq!(receiver.connections(), 1);
}
