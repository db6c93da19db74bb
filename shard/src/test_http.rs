//! A server of HTTP/1.1 on the loopback, for tests that play an upstream: a thread for each connection, one request after
//! the other. It lives as long as the process.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;

/// What was asked for.
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) path: String,
    /// What stands behind `?`, as it was sent.
    pub(crate) query: String,
    /// The bearer token.
    pub(crate) token: Option<String>,
    /// The tags of `If-Match`.
    pub(crate) if_match: Option<String>,
    pub(crate) body: Vec<u8>,
}

/// Serves what `answer` says, a status and a body, or closes the connection where that is nothing; gives the base URL.
pub(crate) fn serve(answer: impl Fn(&Request) -> Option<(u16, String)> + Send + Sync + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let base_url = format!("http://{}", listener.local_addr().expect("an address"));
    let answer = Arc::new(answer);
    std::thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            let answer = Arc::clone(&answer);
            std::thread::spawn(move || {
                while let Some(request) = read(&mut stream) {
                    let Some((status, body)) = answer(&request) else { return };
                    let head = format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\n\r\n{body}", body.len());
                    if stream.write_all(head.as_bytes()).is_err() {
                        return;
                    }
                }
            });
        }
    });
    base_url
}

fn read(stream: &mut TcpStream) -> Option<Request> {
    let mut bytes = Vec::new();
    let mut byte = [0];
    while !bytes.ends_with(b"\r\n\r\n") {
        if stream.read(&mut byte).ok()? == 0 {
            return None;
        }
        bytes.push(byte[0]);
    }
    let head = String::from_utf8(bytes).ok()?;
    let header = |name: &str| head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
    let mut body = vec![0; header("content-length").and_then(|length| length.parse().ok()).unwrap_or(0)];
    stream.read_exact(&mut body).ok()?;
    let mut words = head.split(' ');
    let method = words.next()?.to_owned();
    let (path, query) = words.next().map(|url| url.split_once('?').unwrap_or((url, "")))?;
    let token = header("authorization").and_then(|value| value.strip_prefix("Bearer ")).map(str::to_owned);
    let if_match = header("if-match").map(str::to_owned);
    Some(Request { method, path: path.to_owned(), query: query.to_owned(), token, if_match, body })
}
