//! HTTP/1.1 and HTTP/2 messages to and from our own, which know no wire.
//!
//! What HTTP/3 forbids in a head and HTTP/1.1 has use for (RFC 9110 section 7.6.1) is taken out here; all else
//! passes the same [`HeadBuilder`] with the same limits, so a head means the same whichever way it came.

use bytes::Bytes;
use hyper::http::request::Parts;
use hyper::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, Version, header};
use sluice_protocols::http::{HeadBuilder, HeadFault, Limits, Malformed, RequestHead, Response};
use sluice_protocols::problem::{self, Problem, ProblemKind};

use super::AltSvc;
use super::stats::Refused;
use crate::entrance::Shed;

/// Fields about the connection or the framing of HTTP/1.1, which end with the hop.
const HOP_BY_HOP: [&str; 7] =
    ["connection", "keep-alive", "proxy-connection", "transfer-encoding", "te", "upgrade", "http2-settings"];
/// How long clients may remember that HTTP/3 is spoken here, in seconds: a day, as is usual.
const ALT_SVC_AGE_S: u32 = 86_400;

/// Why a head is not served, as it is to be answered.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct BadHead {
    pub(super) status: u16,
    pub(super) detail: String,
    pub(super) reason: Refused,
}

impl From<HeadFault> for BadHead {
    fn from(fault: HeadFault) -> Self {
        let (status, reason) = match fault {
            HeadFault::Malformed(_) => (400, Refused::Malformed),
            HeadFault::TooLarge(_) => (431, Refused::HeadersTooLarge),
            HeadFault::ConnectUnsupported => (501, Refused::NotSpoken),
        };
        Self { status, detail: fault.to_string(), reason }
    }
}

/// Our head of a request.
pub(super) fn request_head(parts: &Parts) -> Result<RequestHead, BadHead> {
    let Parts { method, uri, headers, version, .. } = parts;
    let is_http2 = *version == Version::HTTP_2;
    if !is_http2 {
        check_http1(headers)?;
    }
    let bytes = headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum::<usize>();
    let mut head = HeadBuilder::request(&Limits::DEFAULT, 64 + bytes);
    head.field(b":method", method.as_str().as_bytes())?;
    // All our TCP is TLS; only HTTP/2 has a scheme of its own. CONNECT has none (RFC 9113 section 8.5).
    let scheme = uri.scheme_str().filter(|_| is_http2);
    let implied = (*method != Method::CONNECT).then_some("https");
    if let Some(scheme) = scheme.or(implied) {
        head.field(b":scheme", scheme.as_bytes())?;
    }
    // RFC 9112 section 3.2.2: the authority of an absolute target stands above Host.
    let authority = uri.authority();
    if let Some(authority) = authority {
        head.field(b":authority", authority.as_str().as_bytes())?;
    }
    if let Some(path) = path_of(uri) {
        head.field(b":path", path.as_bytes())?;
    }
    for (name, value) in headers {
        let is_overruled = *name == header::HOST && authority.is_some() && !is_http2;
        if is_overruled || (!is_http2 && HOP_BY_HOP.contains(&name.as_str())) {
            continue;
        }
        head.field(name.as_str().as_bytes(), value.as_bytes())?;
    }
    Ok(head.finish_request()?)
}

/// What HTTP/1.1 alone can get wrong and hyper leaves to us.
fn check_http1(headers: &HeaderMap) -> Result<(), BadHead> {
    // RFC 9112 section 3.2: one Host, whatever else names the authority.
    if headers.get_all(header::HOST).iter().count() != 1 {
        return Err(HeadFault::from(Malformed::Authority).into());
    }
    // RFC 9112 section 6.1: a coding that is not understood. hyper has made sure that "chunked" comes last.
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
    let is_understood = match (codings.next(), codings.next()) {
        (None, _) => true,
        (Some(only), None) => only.as_bytes().eq_ignore_ascii_case(b"chunked"),
        (Some(_), Some(_)) => false,
    };
    if !is_understood {
        let detail = "transfer-encoding other than \"chunked\" is not understood".to_owned();
        return Err(BadHead { status: 501, detail, reason: Refused::NotSpoken });
    }
    Ok(())
}

/// The target as `:path` has it; none for CONNECT.
fn path_of(uri: &Uri) -> Option<&str> {
    // An absolute target may lack its path (RFC 9110 section 4.2.3), which `http` fills with "/".
    uri.path_and_query().map(|path| path.as_str())
}

/// The field that sends clients to HTTP/3 (RFC 7838), on connections to a port of this number; none where they are not
/// to be sent.
pub(super) fn alt_svc(named: AltSvc, bound: u16) -> Option<HeaderValue> {
    let port = match named {
        AltSvc::PortAsBound => bound,
        AltSvc::Port(port) => port.get(),
        AltSvc::Nothing => return None,
    };
    Some(HeaderValue::try_from(format!("h3=\":{port}\"; ma={ALT_SVC_AGE_S}")).expect("visible ASCII"))
}

/// Says where HTTP/3 is, and nothing else of it: what is there already names the port of one core, for clients that
/// speak HTTP/3 to another; this client needs to hear first of the port that all cores share.
fn put_alt_svc(headers: &mut HeaderMap, alt_svc: Option<&HeaderValue>) {
    match alt_svc {
        Some(value) => drop(headers.insert(header::ALT_SVC, value.clone())),
        None => drop(headers.remove(header::ALT_SVC)),
    }
}

/// Our answer as HTTP/1.1 and HTTP/2 send it, with `alt_svc` in it.
pub(super) fn answer(
    response: Response,
    is_head: bool,
    alt_svc: Option<&HeaderValue>,
) -> hyper::Response<Bytes> {
    let status = response.status;
    let mut answer = fields_of(&response).unwrap_or_else(|| {
        // A field that cannot be sent is a fault of ours, not of the client.
        tracing::error!(status, "answer with an invalid field");
        hyper::Response::builder().status(StatusCode::INTERNAL_SERVER_ERROR).body(Bytes::new()).expect("good")
    });
    let is_sound = answer.status().as_u16() == status;
    let body = if is_sound { response.body } else { Bytes::new() };
    let headers = answer.headers_mut();
    put_alt_svc(headers, alt_svc);
    // RFC 9110 section 8.6: none where there can be no content; for HEAD that of the same GET.
    if status != 204 && !headers.contains_key(header::CONTENT_LENGTH) {
        headers.insert(header::CONTENT_LENGTH, body.len().into());
    }
    if !is_head {
        *answer.body_mut() = body;
    }
    answer
}

/// The head of an answer whose body comes in pieces; none when a field is invalid.
pub(super) fn streamed_head(head: &Response, alt_svc: Option<&HeaderValue>) -> Option<hyper::Response<()>> {
    let mut answer = fields_of(head)?.map(drop);
    put_alt_svc(answer.headers_mut(), alt_svc);
    Some(answer)
}

/// The answer without its body, unless a field is invalid.
fn fields_of(response: &Response) -> Option<hyper::Response<Bytes>> {
    let mut answer = hyper::Response::new(Bytes::new());
    *answer.status_mut() = StatusCode::from_u16(response.status).ok()?;
    for (name, value) in response.headers() {
        let name = HeaderName::from_bytes(name.as_bytes()).ok()?;
        answer.headers_mut().append(name, HeaderValue::from_str(value).ok()?);
    }
    Some(answer)
}

/// The answer for a request that no core took or answered. It is the only one not made by the service, and looks like
/// one of those.
pub(super) fn shed(shed: Shed) -> Response {
    let problem = match shed {
        Shed::Full => Problem::new(ProblemKind::Overloaded, shed.to_string()).with_retry_after_s(1),
        Shed::Closed => Problem::new(ProblemKind::ShuttingDown, shed.to_string()).with_retry_after_s(5),
        Shed::Ended => {
            let detail = "the core ended before it answered; whether it acted is not known";
            Problem::new(ProblemKind::ShuttingDown, detail).with_retryable(false).with_retry_after_s(5)
        }
    };
    let request_id = request_id();
    let problem = problem.with_request_id(&request_id).with_instance(&request_id);
    let response = Response::new(problem.status()).json_as(problem::CONTENT_TYPE, &problem);
    let response = response.with_field("x-request-id", request_id);
    match problem.retry_after_s() {
        Some(seconds) => response.with_field("retry-after", seconds.to_string()),
        None => response,
    }
}

/// A name for a request that no core has named.
fn request_id() -> String {
    let mut random = [0; 8];
    // Without a random source there are no TLS connections either.
    let _ = getrandom::fill(&mut random);
    format!("{:016x}", u64::from_be_bytes(random))
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU16;

    use hyper::Request;

    use super::*;

    fn head(request: http::request::Builder) -> Result<RequestHead, BadHead> {
        request_head(&request.body(()).unwrap().into_parts().0)
    }

    fn status(request: http::request::Builder) -> u16 {
        head(request).unwrap_err().status
    }

    #[test]
    fn the_three_forms_of_a_target_read_alike() {
        let origin = head(Request::get("/a?b=c").header("host", "h:1")).unwrap();
        let absolute = head(Request::get("https://h:1/a?b=c").header("host", "other")).unwrap();
        let http2 = head(Request::get("https://h:1/a?b=c").version(Version::HTTP_2)).unwrap();
        for head in [origin, absolute, http2] {
            let target = (head.scheme(), head.authority(), head.path(), head.query());
            assert_eq!(target, ("https", Some("h:1"), "/a", Some("b=c")));
        }
        let server = head(Request::options("*").header("host", "h")).unwrap();
        assert_eq!(server.path(), "*");
    }

    #[test]
    fn what_ends_with_the_hop_is_taken_out_of_http1_heads() {
        let request = Request::post("/").header("host", "h").header("connection", "keep-alive, upgrade, te");
        let request = request.header("keep-alive", "timeout=5").header("proxy-connection", "x");
        let request = request.header("transfer-encoding", "Chunked").header("te", "gzip, trailers");
        let request = request.header("upgrade", "websocket").header("http2-settings", "AAMAAABk");
        let head = head(request.header("accept", "*/*")).unwrap();
        assert_eq!(head.headers().collect::<Vec<_>>(), [("host", "h"), ("accept", "*/*")]);
    }

    #[test]
    fn the_same_fields_make_an_http2_head_malformed() {
        let request = || Request::get("https://h/").version(Version::HTTP_2);
        assert_eq!(status(request().header("connection", "close")), 400);
        assert_eq!(status(request().header("te", "gzip")), 400);
        assert!(head(request().header("te", "trailers")).is_ok());
    }

    #[test]
    fn hosts_that_are_missing_doubled_or_strange_are_refused() {
        assert_eq!(status(Request::get("/")), 400);
        assert_eq!(status(Request::get("/").header("host", "")), 400);
        assert_eq!(status(Request::get("/").header("host", "a b")), 400);
        assert_eq!(status(Request::get("/").header("host", "user@a")), 400);
        assert_eq!(status(Request::get("/").header("host", "a").header("host", "a")), 400);
        assert_eq!(status(Request::get("https://a/").version(Version::HTTP_2).header("host", "b")), 400);
    }

    #[test]
    fn heads_over_the_limits_of_http3_are_too_large() {
        let many =
            (0..130).fold(Request::get("/").header("host", "h"), |r, n| r.header(format!("x-{n}"), "1"));
        assert_eq!(status(many), 431);
        assert_eq!(status(Request::get("/").header("host", "h").header("x", "y".repeat(16_300))), 431);
        assert!(head(Request::get("/").header("host", "h").header("x", "y".repeat(16_000))).is_ok());
    }

    #[test]
    fn connect_and_strange_codings_are_not_spoken() {
        assert_eq!(status(Request::connect("h:443").header("host", "h:443")), 501);
        let gzip = || Request::post("/").header("host", "h").header("transfer-encoding", "gzip, chunked");
        assert_eq!(status(gzip()), 501);
        let twice = Request::post("/").header("host", "h").header("transfer-encoding", "chunked");
        assert_eq!(status(twice.header("transfer-encoding", "chunked")), 501);
    }

    #[test]
    fn an_answer_tells_its_length_and_where_http3_is() {
        let field = alt_svc(AltSvc::PortAsBound, 4433).unwrap();
        assert_eq!(field, "h3=\":4433\"; ma=86400");
        let mapped = alt_svc(AltSvc::Port(NonZeroU16::MIN), 4433).unwrap();
        assert_eq!(mapped, "h3=\":1\"; ma=86400");
        assert_eq!(alt_svc(AltSvc::Nothing, 4433), None);
        let response = Response::new(200).with_field("alt-svc", "h3=\":1\"").json(&1);
        let full = answer(response.clone(), false, Some(&field));
        let head = answer(response.clone(), true, Some(&field));
        for answer in [&full, &head] {
            assert_eq!(answer.headers()["content-length"], "1");
            assert_eq!(answer.headers().get_all("alt-svc").iter().collect::<Vec<_>>(), [&field]);
        }
        assert!(
            !answer(response.clone(), false, None).headers().contains_key("alt-svc"),
            "nor of a core's port"
        );
        assert!(!streamed_head(&response, None).unwrap().headers().contains_key("alt-svc"));
        assert_eq!((full.body().len(), head.body().len()), (1, 0));
        assert!(!answer(Response::new(204), false, Some(&field)).headers().contains_key("content-length"));
        let broken = answer(Response::new(200).with_field("x", "a\nb").json(&1), false, Some(&field));
        assert_eq!((broken.status().as_u16(), broken.body().len()), (500, 0));
    }

    #[test]
    fn a_shed_request_may_come_again_unless_it_may_have_been_done() {
        for (reason, retryable) in [(Shed::Full, true), (Shed::Closed, true), (Shed::Ended, false)] {
            let response = shed(reason);
            assert_eq!(response.status, 503);
            assert!(response.header("retry-after").is_some());
            let problem: Problem = serde_json::from_slice(&response.body).unwrap();
            assert_eq!(problem.is_retryable(), retryable);
            assert_eq!(problem.request_id(), response.header("x-request-id"));
        }
    }
}
