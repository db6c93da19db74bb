//! The pool against a scripted server on the loopback. Nothing here depends on how long something takes:
//! the tests wait for events, and limits in seconds only end a test that has already failed.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc;
use std::task::Wake;

use super::*;

const FAR: Duration = Duration::from_secs(60);

/// A server that hands each request to the script: its number from 0, its text, and the connection.
/// The script returns whether the connection stays open.
struct Server {
    base_url: String,
    hits: Arc<AtomicUsize>,
}

impl Server {
    fn start(script: impl Fn(usize, &str, &mut TcpStream) -> bool + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let base_url = format!("http://{}", listener.local_addr().expect("address"));
        let hits = Arc::new(AtomicUsize::new(0));
        let (counter, script) = (Arc::clone(&hits), Arc::new(script));
        std::thread::spawn(move || {
            while let Ok((mut stream, _)) = listener.accept() {
                let (counter, script) = (Arc::clone(&counter), Arc::clone(&script));
                std::thread::spawn(move || {
                    while let Some(text) = read_request(&mut stream) {
                        let index = counter.fetch_add(1, SeqCst);
                        if !script(index, &text, &mut stream) {
                            return;
                        }
                    }
                });
            }
        });
        Self { base_url, hits }
    }

    /// Answers the requests in turn with these texts, the last one for ever.
    fn answering(answers: &'static [&'static str]) -> Self {
        Self::start(move |index, _, stream| {
            let answer = answers[index.min(answers.len() - 1)];
            stream.write_all(answer.as_bytes()).is_ok()
        })
    }

    fn hits(&self) -> usize {
        self.hits.load(SeqCst)
    }

    fn pool(&self) -> Egress {
        Egress::start(settings(&self.base_url)).expect("the pool starts")
    }
}

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
const UNAVAILABLE: &str = "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 4\r\n\r\nsick";

fn read_request(stream: &mut TcpStream) -> Option<String> {
    let mut bytes = Vec::new();
    let mut byte = [0];
    while !bytes.ends_with(b"\r\n\r\n") {
        if stream.read(&mut byte).ok()? == 0 {
            return None;
        }
        bytes.push(byte[0]);
    }
    let mut text = String::from_utf8(bytes).ok()?;
    let length = text.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    stream.read_exact(&mut body).ok()?;
    text.push_str(std::str::from_utf8(&body).ok()?);
    Some(text)
}

fn settings(base_url: &str) -> EgressConfig {
    let upstream = UpstreamConfig::new(base_url);
    let upstreams = PerUpstream {
        openai: upstream.clone(),
        oauth: upstream.clone(),
        gmail: upstream.clone(),
        calendar: upstream.clone(),
        drive: upstream,
    };
    let mut config = EgressConfig::new(upstreams);
    config.retry.backoff_base = Duration::from_millis(1);
    config.retry.backoff_max = Duration::from_millis(2);
    config
}

fn request(retry: Retry) -> EgressRequest {
    EgressRequest {
        upstream: Upstream::Gmail,
        method: "POST",
        url: "/mail?q=1".to_owned(),
        bearer: Some("token".to_owned()),
        content_type: Some("text/plain"),
        fields: Vec::new(),
        body: Bytes::from_static(b"hello"),
        answer: AnswerBody::Whole,
        deadline: Instant::now() + FAR,
        retry,
    }
}

struct Unpark(std::thread::Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// An executor that is not the pool's: what a core is to it.
fn wait(call: Call) -> Answer {
    let waker = Arc::new(Unpark(std::thread::current())).into();
    let mut cx = Context::from_waker(&waker);
    let mut call = std::pin::pin!(call);
    loop {
        match call.as_mut().poll(&mut cx) {
            Poll::Ready(answer) => return answer,
            Poll::Pending => std::thread::park(),
        }
    }
}

#[test]
fn a_request_arrives_whole_and_its_answer_returns() {
    let (seen, requests) = mpsc::channel();
    let server = Server::start(move |_, text, stream| {
        seen.send(text.to_owned()).expect("the test listens");
        stream.write_all(OK.as_bytes()).is_ok()
    });
    let pool = server.pool();
    let response = wait(pool.call(request(Retry::Never))).expect("an answer");
    assert_eq!((response.status, &response.body[..], response.attempts), (200, &b"ok"[..], 1));
    let text = requests.recv_timeout(FAR).expect("a request");
    assert!(text.starts_with("POST /mail?q=1 HTTP/1.1\r\n"), "{text}");
    for field in ["authorization: Bearer token\r\n", "content-type: text/plain\r\n", "user-agent: sluice/"] {
        assert!(text.contains(field), "{field} in {text}");
    }
    assert!(text.ends_with("\r\n\r\nhello"), "{text}");
    let stats = pool.stats(Upstream::Gmail);
    assert_eq!((stats.requests, stats.attempts, stats.retries, stats.responses[1]), (1, 1, 0, 1));
    assert_eq!(stats.latency.iter().sum::<u64>(), 1);
}

#[test]
fn a_sick_upstream_is_tried_again_until_it_answers() {
    let server = Server::answering(&[UNAVAILABLE, UNAVAILABLE, OK]);
    let pool = server.pool();
    let response = wait(pool.call(request(Retry::Safe))).expect("an answer");
    assert_eq!((response.status, response.attempts, server.hits()), (200, 3, 3));
    assert_eq!(pool.stats(Upstream::Gmail).retries, 2);
    assert_eq!(pool.stats(Upstream::Drive).requests, 0);
}

#[test]
fn the_last_answer_is_returned_when_attempts_run_out() {
    let server = Server::answering(&[UNAVAILABLE]);
    let response = wait(server.pool().call(request(Retry::Safe))).expect("an answer");
    assert_eq!((response.status, &response.body[..], response.attempts), (503, &b"sick"[..], 3));
    assert_eq!(server.hits(), 3);
}

#[test]
fn a_call_with_an_effect_is_not_repeated_on_an_error_answer() {
    let server = Server::answering(&[UNAVAILABLE, OK]);
    let response = wait(server.pool().call(request(Retry::Never))).expect("an answer");
    assert_eq!((response.status, response.attempts, server.hits()), (503, 1, 1));
}

#[test]
fn a_short_retry_after_is_waited_for() {
    let server = Server::answering(&[
        "HTTP/1.1 429 Too Many Requests\r\nretry-after-ms: 1\r\ncontent-length: 0\r\n\r\n",
        OK,
    ]);
    let response = wait(server.pool().call(request(Retry::Safe))).expect("an answer");
    assert_eq!((response.status, response.attempts), (200, 2));
}

#[test]
fn a_retry_after_beyond_the_deadline_is_answered_at_once() {
    let server = Server::answering(&[
        "HTTP/1.1 429 Too Many Requests\r\nretry-after: 3600\r\ncontent-length: 0\r\n\r\n",
        OK,
    ]);
    let response = wait(server.pool().call(request(Retry::Safe))).expect("an answer");
    assert_eq!((response.status, response.attempts, server.hits()), (429, 1, 1));
    assert_eq!(response.retry_after, Some(Duration::from_secs(3600)));
}

#[test]
fn retries_stop_when_the_budget_is_spent() {
    let server = Server::answering(&[UNAVAILABLE]);
    let mut config = settings(&server.base_url);
    (config.retry.budget_percent, config.retry.budget_per_second) = (50, 0);
    let pool = Egress::start(config).expect("the pool starts");
    let attempts: Vec<u32> =
        (0..4).map(|_| wait(pool.call(request(Retry::Safe))).expect("an answer").attempts).collect();
    assert_eq!(attempts, [1, 2, 1, 2]);
    assert_eq!(pool.stats(Upstream::Gmail).retries_over_budget, 4);
}

#[test]
fn redirects_are_not_followed() {
    let server = Server::answering(&["HTTP/1.1 302 Found\r\nlocation: /else\r\ncontent-length: 0\r\n\r\n"]);
    let response = wait(server.pool().call(request(Retry::Safe))).expect("an answer");
    assert_eq!((response.status, server.hits()), (302, 1));
}

#[test]
fn a_deadline_that_has_passed_sends_nothing() {
    let server = Server::answering(&[OK]);
    let late = EgressRequest { deadline: Instant::now(), ..request(Retry::Safe) };
    let error = wait(server.pool().call(late)).expect_err("no answer");
    assert_eq!((error, server.hits()), (EgressError::DeadlineExceeded { sent: false }, 0));
}

#[test]
fn a_silent_upstream_ends_at_the_deadline_with_an_unknown_outcome() {
    let server = Server::start(|_, _, stream| stream.read(&mut [0]).is_err());
    let pool = server.pool();
    let mut time = Duration::from_millis(50);
    // On a busy machine the first deadlines may pass before anything is sent; the outcome is unknown once it was.
    loop {
        let slow = EgressRequest { deadline: Instant::now() + time, ..request(Retry::Never) };
        let error = wait(pool.call(slow)).expect_err("no answer");
        if server.hits() > 0 {
            assert_eq!(error, EgressError::DeadlineExceeded { sent: true });
            assert!(error.outcome_unknown());
            break;
        }
        time *= 2;
    }
    let stats = pool.stats(Upstream::Gmail);
    assert_eq!(stats.failures(Reason::Deadline), stats.requests);
}

#[test]
fn an_attempt_that_hangs_is_given_up_and_repeated() {
    let server = Server::start(|index, _, stream| match index {
        0 => stream.read(&mut [0]).is_err(),
        _ => stream.write_all(OK.as_bytes()).is_ok(),
    });
    let mut config = settings(&server.base_url);
    config.upstreams.gmail.attempt_timeout = Duration::from_millis(200);
    // A slow machine may need the later attempts; the first can never succeed.
    config.retry.attempts_max = 10;
    let pool = Egress::start(config).expect("the pool starts");
    let response = wait(pool.call(request(Retry::Safe))).expect("an answer");
    assert_eq!(response.status, 200);
    assert!(response.attempts >= 2);
}

#[test]
fn dropping_a_call_closes_its_connection() {
    let (tell, told) = mpsc::channel();
    let server = Server::start(move |_, _, stream| {
        tell.send("request").expect("the test listens");
        // Returns only when the other side is gone.
        let gone = matches!(stream.read(&mut [0]), Ok(0) | Err(_));
        tell.send(if gone { "closed" } else { "more bytes" }).expect("the test listens");
        false
    });
    let pool = server.pool();
    let call = pool.call(request(Retry::Safe));
    assert_eq!(told.recv_timeout(FAR), Ok("request"));
    drop(call);
    assert_eq!(told.recv_timeout(FAR), Ok("closed"));
    pool.shutdown(FAR);
    let stats = pool.stats(Upstream::Gmail);
    assert_eq!((stats.cancelled, stats.in_flight, stats.queued), (1, 0, 0));
}

#[test]
fn calls_beyond_the_cap_wait_and_beyond_the_queue_are_refused() {
    let (arrive, arrived) = mpsc::channel();
    let (release, released) = mpsc::channel::<()>();
    let released = Mutex::new(released);
    let server = Server::start(move |_, _, stream| {
        arrive.send(()).expect("the test listens");
        let _release = released.lock().expect("not poisoned").recv();
        stream.write_all(OK.as_bytes()).is_ok()
    });
    let mut config = settings(&server.base_url);
    (config.upstreams.gmail.concurrency_max, config.queue_max) = (2, 1);
    let pool = Egress::start(config).expect("the pool starts");
    let (answer, answers) = mpsc::channel();
    for _ in 0..4 {
        let (call, answer) = (pool.call(request(Retry::Safe)), answer.clone());
        pool.runtime().spawn(async move { answer.send(call.await) });
    }
    // Nothing has been released, so the first to come back is the one refused.
    let first = answers.recv_timeout(FAR).expect("a refusal");
    assert_eq!(first.expect_err("a refusal"), EgressError::Overloaded);
    for _ in 0..2 {
        arrived.recv_timeout(FAR).expect("two attempts under way");
    }
    let stats = pool.stats(Upstream::Gmail);
    assert_eq!((stats.in_flight, stats.failures(Reason::QueueFull)), (2, 1));
    assert!(arrived.try_recv().is_err(), "a third attempt was made beyond the cap");
    for _ in 0..3 {
        release.send(()).expect("the server listens");
    }
    for _ in 0..3 {
        assert_eq!(answers.recv_timeout(FAR).expect("an end").expect("an answer").status, 200);
    }
}

#[test]
fn a_full_mailbox_refuses_at_once_and_other_mailboxes_go_on() {
    let server = Server::answering(&[OK]);
    let mut config = settings(&server.base_url);
    (config.cores, config.mailbox_size) = (2, 2);
    let pool = Egress::start(config).expect("the pool starts");
    let (block, blocked) = mpsc::channel::<()>();
    let (entered, enter) = mpsc::channel();
    // The one thread of the runtime is held up here, so nothing is taken from the mailboxes.
    pool.runtime().spawn(async move {
        entered.send(()).expect("the test listens");
        let _end = blocked.recv();
    });
    enter.recv_timeout(FAR).expect("the thread is held up");
    let (one, two) = (pool.for_core(0), pool.for_core(1));
    let calls: Vec<Call> = (0..2).map(|_| one.call(request(Retry::Safe))).collect();
    assert_eq!(wait(one.call(request(Retry::Safe))).expect_err("full"), EgressError::Overloaded);
    assert_eq!((pool.mailbox_depth(), pool.stats(Upstream::Gmail).failures(Reason::MailboxFull)), (2, 1));
    let other = two.call(request(Retry::Safe));
    block.send(()).expect("the thread is held up");
    for call in calls.into_iter().chain([other]) {
        assert_eq!(wait(call).expect("an answer").status, 200);
    }
}

#[test]
fn many_calls_from_many_threads_all_come_back() {
    let server = Server::answering(&[OK]);
    let mut config = settings(&server.base_url);
    (config.cores, config.threads) = (4, 2);
    let pool = Egress::start(config).expect("the pool starts");
    std::thread::scope(|scope| {
        for core in 0..4 {
            let pool = pool.for_core(core);
            scope.spawn(move || {
                for _ in 0..50 {
                    let calls: Vec<Call> = (0..4).map(|_| pool.call(request(Retry::Safe))).collect();
                    for call in calls {
                        assert_eq!(wait(call).expect("an answer").status, 200);
                    }
                }
            });
        }
    });
    assert_eq!(server.hits(), 800);
}

#[test]
fn a_body_over_the_limit_is_refused_with_and_without_a_stated_length() {
    let server = Server::answering(&[
        "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n123456789",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\n12345\r\n4\r\n6789\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\n12345678",
    ]);
    let mut config = settings(&server.base_url);
    config.response_bytes_max = 8;
    let pool = Egress::start(config).expect("the pool starts");
    for _ in 0..2 {
        let error = wait(pool.call(request(Retry::Safe))).expect_err("too large");
        assert_eq!(error, EgressError::BodyTooLarge { bytes_max: 8 });
    }
    assert_eq!(wait(pool.call(request(Retry::Safe))).expect("it fits").body.len(), 8);
    assert_eq!(server.hits(), 3);
}

#[test]
fn a_refused_connection_is_known_not_to_have_sent_anything() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let base_url = format!("http://{}", listener.local_addr().expect("address"));
    drop(listener);
    let pool = Egress::start(settings(&base_url)).expect("the pool starts");
    let error = wait(pool.call(request(Retry::Never))).expect_err("nobody there");
    assert!(matches!(&error, EgressError::Connect(text) if !text.contains("q=1")), "{error:?}");
    assert!(!error.outcome_unknown());
    assert_eq!(pool.stats(Upstream::Gmail).attempts, 3);
}

const HALF: &str = "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf";

#[test]
fn a_call_with_an_effect_that_breaks_off_is_made_once_and_says_so() {
    for partial in ["", HALF] {
        let server = Server::start(move |_, _, stream| {
            stream.write_all(partial.as_bytes()).expect("the pool reads");
            false
        });
        let error = wait(server.pool().call(request(Retry::Never))).expect_err("broken off");
        assert!(matches!(&error, EgressError::Broken(_)), "{error:?}");
        assert!(error.outcome_unknown());
        assert_eq!(server.hits(), 1);
    }
}

#[test]
fn a_repeatable_call_that_breaks_off_is_tried_again() {
    let server = Server::start(|index, _, stream| {
        let answer = if index == 0 { HALF } else { OK };
        stream.write_all(answer.as_bytes()).expect("the pool reads");
        index > 0
    });
    let response = wait(server.pool().call(request(Retry::Safe))).expect("an answer");
    assert_eq!((response.status, response.attempts, server.hits()), (200, 2, 2));
}

#[test]
fn no_connection_after_a_broken_attempt_is_still_an_unknown_outcome() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let base_url = format!("http://{}", listener.local_addr().expect("address"));
    // Takes one request, and is gone before that connection is closed.
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a connection");
        drop(listener);
        read_request(&mut stream)
    });
    let pool = Egress::start(settings(&base_url)).expect("the pool starts");
    let error = wait(pool.call(request(Retry::Safe))).expect_err("no answer");
    assert!(matches!(error, EgressError::Broken(_)), "{error:?}");
}

#[test]
fn a_request_cannot_leave_its_upstream() {
    let server = Server::answering(&[OK]);
    let pool = server.pool();
    for url in ["http://127.0.0.1:1/", "https://example.com/", "file:///etc/passwd", "@example.com/", "mail"]
    {
        let stray = EgressRequest { url: url.to_owned(), ..request(Retry::Safe) };
        let error = wait(pool.call(stray)).expect_err("refused");
        assert!(matches!(error, EgressError::Invalid(_)), "{url}: {error:?}");
    }
    let absolute = EgressRequest { url: format!("{}/x", server.base_url), ..request(Retry::Safe) };
    assert_eq!(wait(pool.call(absolute)).expect("same origin").status, 200);
    assert_eq!(server.hits(), 1);
}

#[test]
fn a_token_that_would_split_the_head_is_refused() {
    let server = Server::answering(&[OK]);
    let bad = EgressRequest { bearer: Some("a\r\nx: y".to_owned()), ..request(Retry::Safe) };
    let error = wait(server.pool().call(bad)).expect_err("refused");
    assert!(matches!(error, EgressError::Invalid(_)), "{error:?}");
}

#[test]
fn shutdown_lets_calls_end_and_refuses_new_ones() {
    let (arrive, arrived) = mpsc::channel();
    let server = Server::start(move |_, _, stream| {
        arrive.send(()).expect("the test listens");
        stream.write_all(OK.as_bytes()).is_ok()
    });
    let pool = server.pool();
    let call = pool.call(request(Retry::Safe));
    arrived.recv_timeout(FAR).expect("under way");
    pool.shutdown(FAR);
    assert_eq!(wait(call).expect("an answer").status, 200);
    assert_eq!(wait(pool.call(request(Retry::Safe))).expect_err("closed"), EgressError::ShuttingDown);
    pool.shutdown(FAR);
}

#[test]
fn shutdown_breaks_off_what_outlives_the_grace_period() {
    let (arrive, arrived) = mpsc::channel();
    let server = Server::start(move |_, _, stream| {
        arrive.send(()).expect("the test listens");
        stream.read(&mut [0]).is_err()
    });
    let pool = server.pool();
    let call = pool.call(request(Retry::Never));
    arrived.recv_timeout(FAR).expect("under way");
    pool.shutdown(Duration::ZERO);
    let error = wait(call).expect_err("broken off");
    assert!(error.outcome_unknown(), "{error:?}");
}

#[test]
fn a_call_outlives_the_last_handle_without_hanging() {
    let server = Server::start(|_, _, stream| stream.read(&mut [0]).is_err());
    let call = server.pool().call(request(Retry::Never));
    assert!(wait(call).expect_err("the pool is gone").outcome_unknown());
}

#[test]
fn settings_out_of_bounds_are_refused_by_name() {
    let mut config = settings("http://127.0.0.1:1");
    config.threads = 0;
    let text = Egress::start(config).expect_err("refused").to_string();
    assert_eq!(text, "egress: threads is 0, allowed is 1 to 32");
    for base_url in ["", "ftp://example.com", "http://", "http://a/?q=1", "http://user@a/"] {
        let error = Egress::start(settings(base_url)).expect_err("refused");
        assert!(matches!(error, EgressStartError::BaseUrl { upstream: "openai", .. }), "{error}");
    }
}

#[test]
fn debug_output_of_a_request_hides_token_query_and_body() {
    let text = format!("{:?}", request(Retry::Safe));
    assert!(!text.contains("token") && !text.contains("q=1") && !text.contains("hello"), "{text}");
}
