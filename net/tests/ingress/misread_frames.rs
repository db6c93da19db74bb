//! What breaks HTTP/3 meets the answer that the RFCs name, and nobody else
//! notices: neither those connected already nor those that come after.

use http::Method;

use crate::common::client::{Client, receive};
use crate::common::raw::{
    CONTROL, DATA, HEADERS, PSEUDO, Raw, SETTINGS, control, frame, get, headers, read, request, status,
    varint,
};
use crate::common::server::{BODY_BYTES_MAX, Server, Setup};
use crate::common::{guard, until};

// RFC 9114 section 8.1, RFC 9204 section 6.
const NO_ERROR: u64 = 0x100;
const STREAM_CREATION_ERROR: u64 = 0x103;
const CLOSED_CRITICAL_STREAM: u64 = 0x104;
const FRAME_UNEXPECTED: u64 = 0x105;
const FRAME_ERROR: u64 = 0x106;
const EXCESSIVE_LOAD: u64 = 0x107;
const ID_ERROR: u64 = 0x108;
const SETTINGS_ERROR: u64 = 0x109;
const MISSING_SETTINGS: u64 = 0x10a;
const REQUEST_CANCELLED: u64 = 0x10c;
const REQUEST_INCOMPLETE: u64 = 0x10d;
const MESSAGE_ERROR: u64 = 0x10e;
const DECOMPRESSION_FAILED: u64 = 0x200;
const ENCODER_STREAM_ERROR: u64 = 0x201;
const DECODER_STREAM_ERROR: u64 = 0x202;

const QPACK_ENCODER: u64 = 0x02;
const QPACK_DECODER: u64 = 0x03;
const PUSH: u64 = 0x01;

/// A server with a client on it that is waiting for an answer.
struct Scene {
    server: Server,
    bystander: Client,
    raw: Raw,
}

impl Scene {
    async fn new() -> Self {
        let server = Server::start(Setup::default());
        let bystander = Client::connect(server.address()).await;
        let raw = Raw::connect(server.address()).await;
        Self { server, bystander, raw }
    }

    /// As [`Scene::new`], and the hostile client has a good control stream.
    async fn with_control() -> (Self, quinn::SendStream) {
        let scene = Self::new().await;
        let control = scene.raw.uni(&control()).await;
        (scene, control)
    }

    async fn assert_closed(self, code: u64) {
        assert_eq!(self.raw.closed().await, code, "{:#x}", code);
        until("it is counted", || self.server.sum("connections_failed") == 1).await;
        self.assert_harmless().await;
    }

    async fn assert_harmless(self) {
        let (held, ()) = tokio::join!(self.bystander.post("/held", b"waits"), async {
            let fresh = Client::connect(self.server.address()).await;
            assert_eq!(fresh.get("/").await.status, 200);
            self.server.release(1);
        });
        held.assert_echoes(b"waits");
    }
}

async fn uni_closes(bytes: &[u8], code: u64) {
    let scene = Scene::new().await;
    let _open = scene.raw.uni(bytes).await;
    scene.assert_closed(code).await;
}

async fn control_closes(bytes: &[u8], code: u64) {
    uni_closes(&[control(), bytes.to_vec()].concat(), code).await;
}

async fn request_closes(bytes: &[u8], code: u64) {
    let (scene, _control) = Scene::with_control().await;
    let _open = scene.raw.bi(bytes).await;
    scene.assert_closed(code).await;
}

/// The stream fails, the connection goes on.
async fn request_is_reset(bytes: &[u8], code: u64) {
    let (scene, _control) = Scene::with_control().await;
    let (mut send, mut answer) = scene.raw.bi(bytes).await;
    let _ = send.finish();
    assert_eq!(read(&mut answer).await, Err(code));
    assert_eq!(scene.server.sum("streams_failed"), 1);
    good_request(&scene.raw).await;
    scene.assert_harmless().await;
}

async fn request_is_answered(bytes: &[u8], expected: u16) {
    let (scene, _control) = Scene::with_control().await;
    let (mut send, mut answer) = scene.raw.bi(bytes).await;
    let _ = send.finish();
    assert_eq!(status(&read(&mut answer).await.unwrap()), expected);
    good_request(&scene.raw).await;
    scene.assert_harmless().await;
}

/// Refused for the size of its head, and counted so.
async fn request_is_too_large(bytes: &[u8]) {
    let (scene, _control) = Scene::with_control().await;
    let (mut send, mut answer) = scene.raw.bi(bytes).await;
    let _ = send.finish();
    assert_eq!(status(&read(&mut answer).await.unwrap()), 431);
    assert_eq!((scene.server.sum("requests_headers_too_large"), scene.server.sum("requests")), (1, 0));
    good_request(&scene.raw).await;
    scene.assert_harmless().await;
}

async fn good_request(raw: &Raw) {
    let (mut send, mut answer) = raw.bi(&[request(&[]), frame(DATA, b"hello")].concat()).await;
    send.finish().unwrap();
    assert_eq!(status(&read(&mut answer).await.unwrap()), 200);
}

// ---- control stream ----

#[tokio::test]
async fn a_control_stream_that_does_not_begin_with_settings() {
    uni_closes(&[varint(CONTROL), frame(0x21, b"x")].concat(), MISSING_SETTINGS).await;
}

#[tokio::test]
async fn settings_that_come_twice() {
    control_closes(&frame(SETTINGS, b""), FRAME_UNEXPECTED).await;
}

#[tokio::test]
async fn settings_of_http2() {
    uni_closes(&[varint(CONTROL), frame(SETTINGS, &[0x02, 0x00])].concat(), SETTINGS_ERROR).await;
}

#[tokio::test]
async fn settings_without_end() {
    let head = [varint(CONTROL), varint(SETTINGS), varint(1 << 30)].concat();
    uni_closes(&head, EXCESSIVE_LOAD).await;
}

#[tokio::test]
async fn frames_that_do_not_belong_on_a_control_stream() {
    for kind in [DATA, HEADERS, 0x05, 0x02, 0x06, 0x08, 0x09] {
        control_closes(&frame(kind, b""), FRAME_UNEXPECTED).await;
    }
}

#[tokio::test]
async fn a_push_that_was_never_promised_is_cancelled() {
    control_closes(&frame(0x03, &[0]), ID_ERROR).await;
}

#[tokio::test]
async fn a_growing_goaway() {
    control_closes(&[frame(0x07, &[4]), frame(0x07, &[8])].concat(), ID_ERROR).await;
}

#[tokio::test]
async fn a_second_control_stream() {
    let (scene, _control) = Scene::with_control().await;
    let _second = scene.raw.uni(&control()).await;
    scene.assert_closed(STREAM_CREATION_ERROR).await;
}

#[tokio::test]
async fn a_control_stream_that_ends() {
    let (scene, mut control) = Scene::with_control().await;
    control.finish().unwrap();
    scene.assert_closed(CLOSED_CRITICAL_STREAM).await;
}

#[tokio::test]
async fn a_control_stream_that_is_reset() {
    let (scene, mut control) = Scene::with_control().await;
    // Its type must have arrived, or it is a stream of no type that ends.
    good_request(&scene.raw).await;
    control.reset(0u32.into()).unwrap();
    scene.assert_closed(CLOSED_CRITICAL_STREAM).await;
}

#[tokio::test]
async fn our_control_stream_is_stopped() {
    let (scene, _control) = Scene::with_control().await;
    let mut ours = guard(scene.raw.quic.accept_uni()).await.unwrap();
    ours.stop(0u32.into()).unwrap();
    scene.assert_closed(CLOSED_CRITICAL_STREAM).await;
}

#[tokio::test]
async fn unknown_frames_without_end_on_a_control_stream() {
    let (scene, mut control) = Scene::with_control().await;
    let flood = frame(0x21, &[0; 1000]).repeat(200);
    let _ = guard(control.write_all(&flood)).await;
    scene.assert_closed(EXCESSIVE_LOAD).await;
}

// ---- other unidirectional streams ----

#[tokio::test]
async fn a_push_stream_from_a_client() {
    uni_closes(&varint(PUSH), STREAM_CREATION_ERROR).await;
}

#[tokio::test]
async fn an_encoder_stream_that_asks_for_too_large_a_table() {
    // Capacity 4097.
    uni_closes(&[varint(QPACK_ENCODER), vec![0x3f, 0xe2, 0x1f]].concat(), ENCODER_STREAM_ERROR).await;
}

#[tokio::test]
async fn a_decoder_stream_that_acknowledges_what_was_never_sent() {
    uni_closes(&[varint(QPACK_DECODER), vec![0x80]].concat(), DECODER_STREAM_ERROR).await;
}

#[tokio::test]
async fn a_qpack_stream_that_ends() {
    let (scene, _control) = Scene::with_control().await;
    let mut encoder = scene.raw.uni(&varint(QPACK_ENCODER)).await;
    encoder.finish().unwrap();
    scene.assert_closed(CLOSED_CRITICAL_STREAM).await;
}

/// RFC 9114 section 6.2.3: reserved stream types come and go without harm, many
/// more of them than may be open at once.
#[tokio::test]
async fn streams_of_unknown_types_are_refused_without_harm() {
    let (scene, _control) = Scene::with_control().await;
    for n in 0..40 {
        let mut stream = scene.raw.uni(&[varint(0x21 + 0x1f * n), vec![7; 100]].concat()).await;
        if n % 2 == 0 {
            let stopped = guard(stream.stopped()).await.unwrap();
            assert_eq!(stopped.map(quinn::VarInt::into_inner), Some(STREAM_CREATION_ERROR));
        }
        let _ = stream.reset(0u32.into());
    }
    // And one that ends before its type is whole.
    let mut cut = scene.raw.uni(&[0x40]).await;
    cut.finish().unwrap();
    good_request(&scene.raw).await;
    scene.assert_harmless().await;
}

// ---- frames on request streams ----

#[tokio::test]
async fn frames_that_do_not_belong_on_a_request_stream() {
    for kind in [SETTINGS, 0x03, 0x05, 0x07, 0x0d, 0x02, 0x06, 0x08, 0x09] {
        request_closes(&frame(kind, &[0]), FRAME_UNEXPECTED).await;
    }
}

#[tokio::test]
async fn data_before_the_head() {
    request_closes(&frame(DATA, b"early"), FRAME_UNEXPECTED).await;
}

#[tokio::test]
async fn a_head_after_the_trailers() {
    request_closes(&[request(&[]), headers(&[("t", "1")]), headers(&[])].concat(), FRAME_UNEXPECTED).await;
}

#[tokio::test]
async fn unknown_frames_without_end_on_a_request_stream() {
    request_closes(&frame(0x21, &[0; 1000]).repeat(70), EXCESSIVE_LOAD).await;
}

#[tokio::test]
async fn an_unknown_frame_of_boundless_length() {
    request_closes(&[varint(0x21), varint(1 << 40)].concat(), EXCESSIVE_LOAD).await;
}

#[tokio::test]
async fn empty_data_frames_without_end() {
    request_closes(&[request(&[]), frame(DATA, b"").repeat(33_000)].concat(), EXCESSIVE_LOAD).await;
}

#[tokio::test]
async fn a_frame_cut_short_by_the_end_of_its_stream() {
    let good = request(&[]);
    for cut in [1, good.len() - 1] {
        let (scene, _control) = Scene::with_control().await;
        let (mut send, _answer) = scene.raw.bi(&good[..cut]).await;
        send.finish().unwrap();
        scene.assert_closed(FRAME_ERROR).await;
    }
}

#[tokio::test]
async fn a_stream_that_ends_before_its_head() {
    request_is_reset(b"", REQUEST_INCOMPLETE).await;
}

#[tokio::test]
async fn unknown_frames_are_skipped() {
    let grease = frame(0x21 + 0x1f * 3, b"anything");
    let bytes =
        [&grease[..], &request(&[]), &grease, &frame(DATA, b"a"), &grease, &frame(DATA, b"b"), &grease];
    request_is_answered(&bytes.concat(), 200).await;
}

#[tokio::test]
async fn trailers_are_checked_and_dropped() {
    request_is_answered(&[request(&[]), frame(DATA, b"a"), headers(&[("sum", "1")])].concat(), 200).await;
    let bad = [request(&[]), frame(DATA, b"a"), headers(&[(":path", "/")])];
    request_is_reset(&bad.concat(), MESSAGE_ERROR).await;
}

// ---- heads ----

#[tokio::test]
async fn heads_that_are_malformed() {
    let without = |name: &str| PSEUDO.iter().copied().filter(|(n, _)| *n != name).collect::<Vec<_>>();
    let with = |extra: (&'static str, &'static str)| [&PSEUDO[..], &[extra]].concat();
    let heads = [
        without(":path"),
        without(":method"),
        without(":scheme"),
        without(":authority"),
        with((":path", "/twice")),
        with((":status", "200")),
        with(("X-Upper", "1")),
        with(("x-control", "a\nb")),
        with(("connection", "close")),
        with(("transfer-encoding", "chunked")),
        with(("te", "gzip")),
        with(("content-length", "many")),
        with(("host", "elsewhere")),
        [&[("late", "1")], &PSEUDO[..]].concat(),
    ];
    for head in heads {
        request_is_reset(&headers(&head), MESSAGE_ERROR).await;
    }
}

#[tokio::test]
async fn a_body_other_than_announced() {
    for (length, body) in [("3", "four"), ("5", "four")] {
        let bytes = [request(&[("content-length", length)]), frame(DATA, body.as_bytes())].concat();
        request_is_reset(&bytes, MESSAGE_ERROR).await;
    }
}

#[tokio::test]
async fn a_head_section_over_the_limit() {
    let long = "v".repeat(4000);
    let fields: Vec<_> = ["a", "b", "c", "d", "e"].into_iter().map(|name| (name, long.as_str())).collect();
    request_is_too_large(&request(&fields)).await;
}

/// Refused on sight of its length: the section itself never comes.
#[tokio::test]
async fn a_head_section_announced_over_the_limit() {
    let (scene, _control) = Scene::with_control().await;
    let (_send, mut answer) = scene.raw.bi(&[varint(HEADERS), varint(1 << 30)].concat()).await;
    assert_eq!(status(&read(&mut answer).await.unwrap()), 431);
    assert_eq!(scene.server.sum("requests_headers_too_large"), 1);
    scene.assert_harmless().await;
}

#[tokio::test]
async fn too_many_fields() {
    request_is_answered(&request(&[("f", "1"); 124]), 200).await;
    request_is_too_large(&request(&[("f", "1"); 125])).await;
}

#[tokio::test]
async fn a_connect_request() {
    request_is_answered(&headers(&[(":method", "CONNECT"), (":authority", "a:1")]), 501).await;
}

#[tokio::test]
async fn a_reference_to_the_dynamic_table() {
    request_closes(&frame(HEADERS, &[0x00, 0x00, 0x80]), DECOMPRESSION_FAILED).await;
    request_closes(&frame(HEADERS, &[0x02, 0x00, 0x80]), DECOMPRESSION_FAILED).await;
}

#[tokio::test]
async fn a_head_section_cut_short() {
    request_closes(&frame(HEADERS, &[0x00, 0x00, 0x27, 0x7f]), DECOMPRESSION_FAILED).await;
}

// ---- streams that are given up ----

#[tokio::test]
async fn a_body_that_is_reset_half_way() {
    let (scene, _control) = Scene::with_control().await;
    let (mut send, mut answer) =
        scene.raw.bi(&[request(&[]), varint(DATA), varint(10), vec![1]].concat()).await;
    // Answered after the bytes above, so they have arrived.
    good_request(&scene.raw).await;
    send.reset(0u32.into()).unwrap();
    assert_eq!(read(&mut answer).await, Err(REQUEST_CANCELLED));
    assert_eq!(scene.server.sum("streams_abandoned"), 1);
    assert_eq!(scene.server.sum("requests"), 1);
    good_request(&scene.raw).await;
    scene.assert_harmless().await;
}

#[tokio::test]
async fn an_answer_that_is_not_wanted() {
    let (scene, _control) = Scene::with_control().await;
    let (mut send, mut answer) = scene.raw.bi(&get("/held")).await;
    send.finish().unwrap();
    until("the request is there", || scene.server.sum("requests") == 1).await;
    answer.stop(0u32.into()).unwrap();
    until("it is counted", || scene.server.sum("streams_abandoned") == 1).await;
    scene.server.release(1);
    until("the answer is dropped", || scene.server.sum("responses_undeliverable") == 1).await;
    assert_eq!(scene.server.sum("responses"), 0);
    good_request(&scene.raw).await;
    scene.assert_harmless().await;
}

#[tokio::test]
async fn an_answer_that_is_not_wanted_in_the_middle() {
    let (scene, _control) = Scene::with_control().await;
    for _ in 0..20 {
        let (mut send, mut answer) = scene.raw.bi(&get("/big")).await;
        send.finish().unwrap();
        let mut some = [0; 1000];
        guard(answer.read_exact(&mut some)).await.unwrap();
        answer.stop(0u32.into()).unwrap();
    }
    good_request(&scene.raw).await;
    scene.assert_harmless().await;
}

#[tokio::test]
async fn an_answer_that_is_not_wanted_before_the_request_is_whole() {
    let (scene, _control) = Scene::with_control().await;
    let (mut send, mut answer) = scene.raw.bi(&request(&[])).await;
    answer.stop(0u32.into()).unwrap();
    let stopped = guard(send.stopped()).await.unwrap();
    assert_eq!(stopped.map(quinn::VarInt::into_inner), Some(REQUEST_CANCELLED));
    assert_eq!(scene.server.sum("streams_abandoned"), 1);
    let _ = send.reset(0u32.into());
    good_request(&scene.raw).await;
    assert_eq!(scene.server.sum("requests"), 1);
    scene.assert_harmless().await;
}

/// Requests that are sent and given up at once free their streams: without a
/// bound of its own, a client could have any number of them worked on.
#[tokio::test]
async fn requests_given_up_without_end() {
    let (scene, _control) = Scene::with_control().await;
    let flood = async {
        loop {
            let Ok((mut send, mut answer)) = scene.raw.quic.open_bi().await else { return };
            let _ = send.write_all(&get("/held")).await;
            let _ = send.finish();
            // Whole, so that it reaches the service, and then given up.
            let _ = send.stopped().await;
            let _ = answer.stop(0u32.into());
        }
    };
    guard(flood).await;
    let in_flight = scene.server.sum("requests_in_flight");
    assert!((100..300).contains(&in_flight), "{in_flight}");
    scene.server.release(300);
    assert_eq!(scene.raw.closed().await, EXCESSIVE_LOAD);
    until("the answers are dropped", || scene.server.sum("requests_in_flight") == 0).await;
}

/// Refused at its head, in the same turn as many more packets of its body come:
/// nothing may be kept for a stream that is settled.
#[tokio::test]
async fn a_refused_request_leaves_nothing_behind() {
    let mut server = Server::start(Setup::default());
    let client = Client::connect(server.address()).await;
    for _ in 0..20 {
        let mut stream = client.open(Method::POST, "/denied", None).await.unwrap();
        let _ = guard(stream.send_data(vec![0; 60_000].into())).await;
        assert_eq!(receive(&mut stream).await.unwrap().status, 403);
        let mut stream = client.open(Method::POST, "/", Some(BODY_BYTES_MAX + 1)).await.unwrap();
        let _ = guard(stream.send_data(vec![0; 60_000].into())).await;
        assert_eq!(receive(&mut stream).await.unwrap().status, 413);
    }
    server.begin_drain(std::time::Duration::from_secs(60));
    until("the connection is seen to be idle", || server.is_over()).await;
}

/// A body whose answer is known runs out, as some clients need it to; one that
/// does not end is stopped with H3_NO_ERROR (RFC 9114 section 4.1).
#[tokio::test]
async fn an_early_answer_stops_the_body_without_an_error() {
    let (scene, _control) = Scene::with_control().await;
    let length = (BODY_BYTES_MAX + 1).to_string();
    let (mut send, mut answer) = scene.raw.bi(&request(&[("content-length", &length)])).await;
    assert_eq!(status(&read(&mut answer).await.unwrap()), 413);
    send.write_all(&vec![0; BODY_BYTES_MAX + 3]).await.unwrap();
    send.finish().unwrap();
    assert_eq!(guard(send.stopped()).await.unwrap(), None, "stopped before its end");

    let (mut send, mut answer) = scene.raw.bi(&request(&[("content-length", "9000000")])).await;
    assert_eq!(status(&read(&mut answer).await.unwrap()), 413);
    let _ = guard(send.write_all(&vec![0; 9_000_000])).await;
    let stopped = guard(send.stopped()).await.unwrap();
    assert_eq!(stopped.map(quinn::VarInt::into_inner), Some(NO_ERROR));
    let _ = send.reset(0u32.into());
    good_request(&scene.raw).await;
    scene.assert_harmless().await;
}

/// Eight are allowed at a time, and each that is over makes room for the next.
#[tokio::test]
async fn streams_of_unknown_types_without_end() {
    let (scene, _control) = Scene::with_control().await;
    let before = scene.server.sum("streams_unknown");
    for n in 0..5_000 {
        // Of a type, or over before it has one.
        let Ok(mut stream) = guard(scene.raw.quic.open_uni()).await else { break };
        if n % 2 == 0 {
            let _ = stream.write_all(&varint(0x21 + 0x1f * n)).await;
        }
        let _ = stream.reset(0u32.into());
    }
    assert_eq!(scene.raw.closed().await, EXCESSIVE_LOAD);
    assert_eq!(scene.server.sum("streams_unknown") - before, 65);
    scene.assert_closed(EXCESSIVE_LOAD).await;
}

/// Extensions may have a stream for each request.
#[tokio::test]
async fn streams_of_unknown_types_with_requests_are_no_attack() {
    let (scene, _control) = Scene::with_control().await;
    for _ in 0..100 {
        let (mut send, mut receive) = scene.raw.bi(&get("/")).await;
        send.finish().unwrap();
        assert_eq!(status(&read(&mut receive).await.unwrap()), 200);
        let mut stream = guard(scene.raw.quic.open_uni()).await.unwrap();
        let _ = stream.write_all(&varint(0x21)).await;
        let _ = stream.finish();
    }
    until("all are thrown away", || scene.server.sum("streams_unknown") == 100).await;
    assert_eq!(scene.server.sum("connections_failed"), 0);
    scene.assert_harmless().await;
}
