//! Google's batch endpoint: up to 100 requests in the parts of one `multipart/mixed`.

use http::header::{HeaderMap, HeaderName, HeaderValue};

use super::upload::{boundary, parts_of};
use crate::sim::wire::{Call, Params, Reply, google_error};

/// Parts that a batch may have.
const PARTS_MAX: usize = 100;
const BOUNDARY: &str = "batch_simulated_0123456789abcdef";

/// The requests of a batch: the content id of each, the request, and its path with the query.
pub(crate) fn parts(call: &Call) -> Result<Vec<(String, Call, String)>, Reply> {
    let bad = |message: &str| google_error(400, "badRequest", message);
    let content_type = call.header("content-type");
    if !content_type.starts_with("multipart/mixed") {
        return Err(bad("Expected a multipart/mixed request."));
    }
    let boundary = boundary(content_type).ok_or_else(|| bad("Missing boundary in multipart header."))?;
    let parts = parts_of(&call.body, &boundary).ok_or_else(|| bad("Failed to parse batch request."))?;
    if parts.is_empty() {
        return Err(bad("The batch request could not be processed: it has no parts."));
    }
    if parts.len() > PARTS_MAX {
        return Err(bad(&format!(
            "The number of calls in the batch request exceeds the limit of {PARTS_MAX}."
        )));
    }
    let one = |part: &super::upload::Part| {
        let inner = request(&part.body, call)?;
        let target = inner.1;
        Some((part.header("content-id").to_owned(), inner.0, target))
    };
    parts.iter().map(|part| one(part).ok_or_else(|| bad("Failed to parse batch request."))).collect()
}

/// One request out of the text of its part.
fn request(text: &[u8], outer: &Call) -> Option<(Call, String)> {
    let (head, body) = super::upload::split_head(text);
    let head = std::str::from_utf8(head).ok()?;
    let mut lines = head.lines();
    let mut first = lines.next()?.split(' ');
    let (method, target) = (first.next()?.parse().ok()?, first.next()?);
    // The whole address of a request may stand there; what counts is its path.
    let target = match target.split_once("://") {
        Some((_, rest)) => &rest[rest.find('/')?..],
        None => target,
    };
    let mut headers = HeaderMap::new();
    for (name, value) in lines.filter_map(|line| line.split_once(':')) {
        headers.insert(name.trim().parse::<HeaderName>().ok()?, HeaderValue::from_str(value.trim()).ok()?);
    }
    let bearer = headers.get("authorization").and_then(|value| value.to_str().ok());
    let bearer = bearer.and_then(|value| value.strip_prefix("Bearer ")).map(str::to_owned);
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let call = Call {
        method,
        path: path.to_owned(),
        query: Params::parse(query),
        // A part without a token of its own has the batch's.
        bearer: bearer.or_else(|| outer.bearer.clone()),
        headers,
        body: bytes::Bytes::copy_from_slice(body),
    };
    Some((call, target.to_owned()))
}

/// The answers, each under `response-` and the content id of its request.
pub(crate) fn reply(replies: Vec<(String, Reply)>) -> Reply {
    let mut out = Vec::new();
    for (id, reply) in replies {
        let id = match id.strip_prefix('<') {
            Some(inner) => format!("<response-{inner}"),
            None => format!("response-{id}"),
        };
        let reason = http::StatusCode::from_u16(reply.status).ok().and_then(|code| code.canonical_reason());
        let mut head = format!(
            "--{BOUNDARY}\r\nContent-Type: application/http\r\nContent-ID: {id}\r\n\r\nHTTP/1.1 {} {}\r\n",
            reply.status,
            reason.unwrap_or("Unknown")
        );
        if !reply.content_type.is_empty() {
            head.push_str(&format!("Content-Type: {}\r\n", reply.content_type));
        }
        for (name, value) in &reply.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str(&format!("Content-Length: {}\r\n\r\n", reply.body.len()));
        out.extend_from_slice(head.as_bytes());
        out.extend_from_slice(&reply.body);
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(format!("--{BOUNDARY}--").as_bytes());
    Reply::bytes(&format!("multipart/mixed; boundary={BOUNDARY}"), out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_is_taken_apart_into_its_requests() {
        let body = "--b\r\nContent-Type: application/http\r\nContent-ID: <x + 1>\r\n\r\n\
                    GET /gmail/v1/users/me/messages?q=a%20b HTTP/1.1\r\nAccept: */*\r\n\r\n\r\n\
                    --b\nContent-Type: application/http\nContent-ID: 2\n\nPOST https://h.example/drive/v3/files HTTP/1.1\n\
                    authorization: Bearer t2\ncontent-type: application/json\n\n{\"a\": 1}\n--b--\n";
        let mut call = Call { bearer: Some("t1".to_owned()), body: body.into(), ..Call::default() };
        call.headers.insert("content-type", HeaderValue::from_static("multipart/mixed; boundary=\"b\""));
        let parts = parts(&call).expect("two parts");
        let (id, first, target) = &parts[0];
        assert_eq!(
            (id.as_str(), first.query.get("q"), first.bearer.as_deref()),
            ("<x + 1>", Some("a b"), Some("t1"))
        );
        assert_eq!(target, "/gmail/v1/users/me/messages?q=a%20b");
        let (_, second, _) = &parts[1];
        assert_eq!((second.path.as_str(), second.bearer.as_deref()), ("/drive/v3/files", Some("t2")));
        assert_eq!(second.body, "{\"a\": 1}");
        let text = reply(vec![("<x + 1>".to_owned(), Reply::empty(204))]);
        assert!(
            String::from_utf8_lossy(&text.body)
                .contains("Content-ID: <response-x + 1>\r\n\r\nHTTP/1.1 204 No Content")
        );
    }

    #[test]
    fn too_many_parts_are_refused() {
        let part = "--b\n\nGET /gmail/v1/users/me/profile HTTP/1.1\n\n\n";
        let refused = |count: usize| {
            let mut call = Call { body: (part.repeat(count) + "--b--").into(), ..Call::default() };
            call.headers.insert("content-type", HeaderValue::from_static("multipart/mixed; boundary=b"));
            parts(&call).is_err()
        };
        assert!(refused(0) && !refused(1) && !refused(100) && refused(101));
    }
}
