//! What the server says of itself: its stalls, from its metrics page.

use std::io::{Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

use anyhow::{Context, bail, ensure};

use super::result::Stalls;

const TIMEOUT: Duration = Duration::from_secs(5);
/// Longest page taken.
const PAGE_BYTES_MAX: u64 = 16 << 20;

/// The three figures of a page, summed (or the largest) over all cores.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(super) struct Page {
    stalls: u64,
    stalls_long: u64,
    longest_s: f64,
}

/// What the page at `http://HOST:PORT/PATH` says of stalls.
pub(super) fn fetch(url: &str) -> anyhow::Result<Page> {
    read_page(&fetch_text(url)?)
}

/// Fetches `http://HOST:PORT/PATH` as any HTTP/1.1 server gives it.
pub(crate) fn fetch_text(url: &str) -> anyhow::Result<String> {
    let rest = url.strip_prefix("http://").context("--metrics must start with http://")?;
    let (authority, path) = match rest.find('/') {
        Some(at) => rest.split_at(at),
        None => (rest, "/metrics"),
    };
    let address = authority
        .to_socket_addrs()
        .with_context(|| format!("cannot resolve {authority}"))?
        .next()
        .with_context(|| format!("{authority} has no address"))?;
    let mut stream = TcpStream::connect_timeout(&address, TIMEOUT)
        .with_context(|| format!("no metrics at {authority}"))?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    // HTTP/1.0, so that the answer is neither chunked nor kept open.
    // In one piece: whoever reads once sees all of it.
    stream.write_all(format!("GET {path} HTTP/1.0\r\nhost: {authority}\r\n\r\n").as_bytes())?;
    let mut answer = Vec::new();
    stream.take(PAGE_BYTES_MAX).read_to_end(&mut answer).context("the metrics page was cut off")?;
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").context("no HTTP answer from --metrics")?;
    let status = head.split(' ').nth(1).unwrap_or_default();
    ensure!(status == "200", "--metrics answered with status {status}");
    Ok(body.to_owned())
}

fn read_page(text: &str) -> anyhow::Result<Page> {
    let mut page = Page::default();
    let mut is_found = false;
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let Some((name, value)) = line.rsplit_once(' ') else { continue };
        let name = name.split('{').next().unwrap_or_default();
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a counter")]
        let count = || value.parse::<f64>().map(|count| count as u64);
        match name {
            "sluice_core_stalls_total" => {
                is_found = true;
                page.stalls += count()?;
            }
            "sluice_core_stalls_long_total" => page.stalls_long += count()?,
            "sluice_core_stall_longest_seconds" => page.longest_s = page.longest_s.max(value.parse()?),
            _ => {}
        }
    }
    if !is_found {
        bail!("the metrics page has no sluice_core_stalls_total; is it Sluice's?");
    }
    Ok(page)
}

/// What happened between two looks. The longest stall is that of the server's whole
/// life unless a longer one came.
pub(super) fn stalls(before: Page, after: Page) -> Stalls {
    Stalls {
        over_1ms: after.stalls.saturating_sub(before.stalls),
        over_25ms: after.stalls_long.saturating_sub(before.stalls_long),
        longest_us: after.longest_s * 1e6,
        longest_before_us: before.longest_s * 1e6,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = "# TYPE sluice_core_stalls counter\n\
        sluice_core_stalls_total{core=\"0\"} 3\nsluice_core_stalls_total{core=\"1\"} 4\n\
        sluice_core_stalls_long_total{core=\"0\"} 1\n\
        sluice_core_stall_longest_seconds{core=\"0\"} 0.031\n\
        sluice_core_stall_longest_seconds{core=\"1\"} 0.002\n# EOF\n";

    #[test]
    fn cores_are_summed_and_the_difference_counts() {
        let after = read_page(PAGE).unwrap();
        assert_eq!(after, Page { stalls: 7, stalls_long: 1, longest_s: 0.031 });
        let before = Page { stalls: 5, stalls_long: 1, longest_s: 0.031 };
        let found = stalls(before, after);
        assert_eq!((found.over_1ms, found.over_25ms), (2, 0));
    }

    #[test]
    fn another_servers_page_is_refused() {
        assert!(read_page("up 1\n").is_err());
        assert!(fetch("https://127.0.0.1:1").is_err());
    }

    #[test]
    fn a_page_is_fetched() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/metrics", listener.local_addr().unwrap());
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 4096];
            let count = stream.read(&mut request).unwrap();
            assert!(request[..count].starts_with(b"GET /metrics HTTP/1.0\r\n"));
            write!(stream, "HTTP/1.0 200 OK\r\ncontent-type: text/plain\r\n\r\n{PAGE}").unwrap();
        });
        assert_eq!(fetch(&url).unwrap().stalls, 7);
        server.join().unwrap();
    }
}
