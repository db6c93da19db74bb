//! The static table (RFC 9204 appendix A).

use crate::http::PseudoName;

/// RFC 9204 appendix A, by index.
pub(super) static TABLE: [(&str, &str); 99] = [
    (":authority", ""),
    (":path", "/"),
    ("age", "0"),
    ("content-disposition", ""),
    ("content-length", "0"),
    ("cookie", ""),
    ("date", ""),
    ("etag", ""),
    ("if-modified-since", ""),
    ("if-none-match", ""),
    ("last-modified", ""),
    ("link", ""),
    ("location", ""),
    ("referer", ""),
    ("set-cookie", ""),
    (":method", "CONNECT"),
    (":method", "DELETE"),
    (":method", "GET"),
    (":method", "HEAD"),
    (":method", "OPTIONS"),
    (":method", "POST"),
    (":method", "PUT"),
    (":scheme", "http"),
    (":scheme", "https"),
    (":status", "103"),
    (":status", "200"),
    (":status", "304"),
    (":status", "404"),
    (":status", "503"),
    ("accept", "*/*"),
    ("accept", "application/dns-message"),
    ("accept-encoding", "gzip, deflate, br"),
    ("accept-ranges", "bytes"),
    ("access-control-allow-headers", "cache-control"),
    ("access-control-allow-headers", "content-type"),
    ("access-control-allow-origin", "*"),
    ("cache-control", "max-age=0"),
    ("cache-control", "max-age=2592000"),
    ("cache-control", "max-age=604800"),
    ("cache-control", "no-cache"),
    ("cache-control", "no-store"),
    ("cache-control", "public, max-age=31536000"),
    ("content-encoding", "br"),
    ("content-encoding", "gzip"),
    ("content-type", "application/dns-message"),
    ("content-type", "application/javascript"),
    ("content-type", "application/json"),
    ("content-type", "application/x-www-form-urlencoded"),
    ("content-type", "image/gif"),
    ("content-type", "image/jpeg"),
    ("content-type", "image/png"),
    ("content-type", "text/css"),
    ("content-type", "text/html; charset=utf-8"),
    ("content-type", "text/plain"),
    ("content-type", "text/plain;charset=utf-8"),
    ("range", "bytes=0-"),
    ("strict-transport-security", "max-age=31536000"),
    ("strict-transport-security", "max-age=31536000; includesubdomains"),
    ("strict-transport-security", "max-age=31536000; includesubdomains; preload"),
    ("vary", "accept-encoding"),
    ("vary", "origin"),
    ("x-content-type-options", "nosniff"),
    ("x-xss-protection", "1; mode=block"),
    (":status", "100"),
    (":status", "204"),
    (":status", "206"),
    (":status", "302"),
    (":status", "400"),
    (":status", "403"),
    (":status", "421"),
    (":status", "425"),
    (":status", "500"),
    ("accept-language", ""),
    ("access-control-allow-credentials", "FALSE"),
    ("access-control-allow-credentials", "TRUE"),
    ("access-control-allow-headers", "*"),
    ("access-control-allow-methods", "get"),
    ("access-control-allow-methods", "get, post, options"),
    ("access-control-allow-methods", "options"),
    ("access-control-expose-headers", "content-length"),
    ("access-control-request-headers", "content-type"),
    ("access-control-request-method", "get"),
    ("access-control-request-method", "post"),
    ("alt-svc", "clear"),
    ("authorization", ""),
    ("content-security-policy", "script-src 'none'; object-src 'none'; base-uri 'none'"),
    ("early-data", "1"),
    ("expect-ct", ""),
    ("forwarded", ""),
    ("if-range", ""),
    ("origin", ""),
    ("purpose", "prefetch"),
    ("server", ""),
    ("timing-allow-origin", "*"),
    ("upgrade-insecure-requests", "1"),
    ("user-agent", ""),
    ("x-forwarded-for", ""),
    ("x-frame-options", "deny"),
    ("x-frame-options", "sameorigin"),
];

/// Slots of the name index: a power of two, about twice the number of different names.
const SLOTS: usize = 128;

/// Index into [`TABLE`] of the first line of each name, by hash with linear probing; [`NONE`] where empty.
static FIRST_OF_NAME: [u8; SLOTS] = first_of_name();

/// The next line of the same name; [`NONE`] for the last.
static NEXT_OF_NAME: [u8; TABLE.len()] = next_of_name();

const NONE: u8 = u8::MAX;

/// What the table knows of a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    /// Name and value, at this index.
    Line(usize),
    /// The name only; this is its first index.
    Name(usize),
}

/// The line at `index`.
#[inline]
pub(super) fn get(index: u64) -> Option<(&'static str, &'static str)> {
    TABLE.get(usize::try_from(index).ok()?).copied()
}

/// The pseudo-header that the line at `index` is, or names.
#[inline]
pub(super) fn pseudo(index: u64) -> Option<PseudoName> {
    Some(match index {
        0 => PseudoName::Authority,
        1 => PseudoName::Path,
        15..=21 => PseudoName::Method,
        22 | 23 => PseudoName::Scheme,
        24..=28 | 63..=71 => PseudoName::Status,
        _ => return None,
    })
}

/// Looks a field up.
pub(super) fn find(name: &[u8], value: &[u8]) -> Option<Found> {
    let first = find_name(name)?;
    let mut index = first;
    loop {
        if TABLE[index].1.as_bytes() == value {
            return Some(Found::Line(index));
        }
        match NEXT_OF_NAME[index] {
            NONE => return Some(Found::Name(first)),
            next => index = usize::from(next),
        }
    }
}

fn find_name(name: &[u8]) -> Option<usize> {
    let mut slot = slot_of(name);
    // The index is never full, so there is always an empty slot to stop at.
    loop {
        match FIRST_OF_NAME[slot] {
            NONE => return None,
            index if TABLE[usize::from(index)].0.as_bytes() == name => return Some(usize::from(index)),
            _ => slot = (slot + 1) % SLOTS,
        }
    }
}

/// Length, first and last byte tell nearly all names of the table apart.
const fn slot_of(name: &[u8]) -> usize {
    if name.is_empty() {
        return 0;
    }
    let (first, last) = (name[0] as usize, name[name.len() - 1] as usize);
    (name.len() * 37 + first * 11 + last * 5) % SLOTS
}

#[allow(clippy::cast_possible_truncation, reason = "the table has 99 lines")]
const fn first_of_name() -> [u8; SLOTS] {
    let mut slots = [NONE; SLOTS];
    let mut index = 0;
    while index < TABLE.len() {
        if is_first(index) {
            let mut slot = slot_of(TABLE[index].0.as_bytes());
            while slots[slot] != NONE {
                slot = (slot + 1) % SLOTS;
            }
            slots[slot] = index as u8;
        }
        index += 1;
    }
    slots
}

const fn is_first(index: usize) -> bool {
    let mut earlier = 0;
    while earlier < index {
        if same(TABLE[earlier].0.as_bytes(), TABLE[index].0.as_bytes()) {
            return false;
        }
        earlier += 1;
    }
    true
}

#[allow(clippy::cast_possible_truncation, reason = "the table has 99 lines")]
const fn next_of_name() -> [u8; TABLE.len()] {
    let mut nexts = [NONE; TABLE.len()];
    let mut index = 0;
    while index < TABLE.len() {
        let mut later = index + 1;
        while later < TABLE.len() {
            if same(TABLE[index].0.as_bytes(), TABLE[later].0.as_bytes()) {
                nexts[index] = later as u8;
                break;
            }
            later += 1;
        }
        index += 1;
    }
    nexts
}

/// `==` on slices, which constants cannot use.
const fn same(a: &[u8], b: &[u8]) -> bool {
    if a.len() != b.len() {
        return false;
    }
    let mut i = 0;
    while i < a.len() {
        if a[i] != b[i] {
            return false;
        }
        i += 1;
    }
    true
}
