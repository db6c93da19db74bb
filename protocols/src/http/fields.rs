//! Field lines in one arena.

use std::fmt;

use smallvec::SmallVec;

/// Where one field ends: its name begins where the field before it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Ends {
    name: u32,
    value: u32,
}

/// Offsets of a value kept in the arena ahead of the fields (a pseudo-header).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Span {
    pub(super) start: u32,
    pub(super) end: u32,
}

/// The field lines of a header or trailer section, in the order they came, names lower case.
///
/// A field that came several times is kept as several lines; only `cookie` in a request, which a client may
/// cut into crumbs for the sake of compression, is put together again (RFC 9114 section 4.2.1).
/// Lookup is a scan: sections are short ([`super::Limits`]) and the arena is contiguous.
/// Two are equal when their lines are, whatever lies ahead of them in the arena.
#[derive(Clone, Default)]
pub struct Fields {
    arena: Vec<u8>,
    /// Pseudo-headers lie before this offset, fields behind it.
    first: u32,
    ends: SmallVec<[Ends; 16]>,
}

impl PartialEq for Fields {
    fn eq(&self, other: &Self) -> bool {
        self.len() == other.len() && self.pairs().eq(other.pairs())
    }
}

impl Eq for Fields {}

impl Fields {
    /// The value of the first field of this lower-case name, if it is UTF-8.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.get_bytes(name).and_then(|value| std::str::from_utf8(value).ok())
    }

    /// The value of the first field of this lower-case name.
    pub fn get_bytes(&self, name: &str) -> Option<&[u8]> {
        self.pairs().find(|(candidate, _)| *candidate == name.as_bytes()).map(|(_, value)| value)
    }

    /// All fields whose value is UTF-8, in order. Those that are not appear in [`Fields::iter_bytes`] alone.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.iter_bytes().filter_map(|(name, value)| Some((name, std::str::from_utf8(value).ok()?)))
    }

    /// All fields, in order.
    pub fn iter_bytes(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.pairs().map(|(name, value)| (ascii(name), value))
    }

    /// How many field lines there are.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there is no field line.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    fn pairs(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let mut start = self.first as usize;
        self.ends.iter().map(move |ends| {
            let name = &self.arena[start..ends.name as usize];
            let value = &self.arena[ends.name as usize..ends.value as usize];
            start = ends.value as usize;
            (name, value)
        })
    }

    /// Where the value of the first field of this lower-case name lies.
    pub(super) fn span_of(&self, name: &str) -> Option<Span> {
        let place = self.pairs().position(|(candidate, _)| candidate == name.as_bytes())?;
        let Ends { name: start, value: end } = self.ends[place];
        Some(Span { start, end })
    }

    /// The same fields with all lines of this name joined into the first of them.
    pub(super) fn with_joined(self, name: &str, delimiter: &[u8]) -> Self {
        let mut joined = Self {
            arena: Vec::with_capacity(self.arena.len()),
            first: self.first,
            ends: SmallVec::with_capacity(self.ends.len()),
        };
        joined.arena.extend_from_slice(&self.arena[..self.first as usize]);
        let mut values = self.pairs().filter(|(candidate, _)| *candidate == name.as_bytes());
        for (candidate, value) in self.pairs() {
            let is_wanted = candidate == name.as_bytes();
            let first = if is_wanted { values.next() } else { Some((candidate, value)) };
            let Some((candidate, value)) = first else { continue };
            joined.arena.extend_from_slice(candidate);
            let name_end = joined.arena.len();
            joined.arena.extend_from_slice(value);
            if is_wanted {
                for (_, value) in values.by_ref() {
                    joined.arena.extend_from_slice(delimiter);
                    joined.arena.extend_from_slice(value);
                }
            }
            joined.commit_field(name_end);
        }
        joined
    }

    pub(super) fn with_capacity(bytes: usize) -> Self {
        Self { arena: Vec::with_capacity(bytes), ..Self::default() }
    }

    /// The text of a span whose bytes were checked to be ASCII when it was made.
    pub(super) fn text(&self, span: Span) -> &str {
        ascii(self.bytes(span))
    }

    pub(super) fn bytes(&self, span: Span) -> &[u8] {
        &self.arena[span.start as usize..span.end as usize]
    }

    pub(super) fn arena(&self) -> &[u8] {
        &self.arena
    }

    pub(super) fn arena_mut(&mut self) -> &mut Vec<u8> {
        &mut self.arena
    }

    /// Offset behind the last committed field or pseudo-header.
    pub(super) fn committed(&self) -> usize {
        self.ends.last().map_or(self.first, |ends| ends.value) as usize
    }

    /// Makes everything in the arena so far preface: no field may have been committed.
    pub(super) fn commit_preface(&mut self) {
        debug_assert!(self.ends.is_empty());
        self.first = offset(self.arena.len());
    }

    /// Commits the rest of the arena as one field whose name ends at `name_end`.
    pub(super) fn commit_field(&mut self, name_end: usize) {
        self.ends.push(Ends { name: offset(name_end), value: offset(self.arena.len()) });
    }
}

impl fmt::Debug for Fields {
    /// Prints the fields, with the values of those that carry credentials left out.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = self.iter_bytes().map(|(name, value)| match name {
            "authorization" | "proxy-authorization" | "cookie" | "set-cookie" => (name, "<redacted>".into()),
            _ => (name, String::from_utf8_lossy(value)),
        });
        f.debug_map().entries(shown).finish()
    }
}

/// An offset into an arena. [`super::HeadBuilder`] keeps arenas far below 4 GiB.
pub(super) fn offset(position: usize) -> u32 {
    debug_assert!(u32::try_from(position).is_ok());
    u32::try_from(position).unwrap_or(u32::MAX)
}

/// Text of bytes that were checked to be ASCII before they entered the arena.
fn ascii(bytes: &[u8]) -> &str {
    debug_assert!(bytes.is_ascii());
    std::str::from_utf8(bytes).unwrap_or_default()
}

/// Characters of a field name in HTTP/3: `token` of RFC 9110 section 5.6.2 without upper-case letters,
/// which RFC 9114 section 4.2 calls malformed.
const NAME_CHARACTERS: [bool; 256] = name_characters();

const fn name_characters() -> [bool; 256] {
    let mut table = [false; 256];
    let allowed = b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz";
    let mut i = 0;
    while i < allowed.len() {
        table[allowed[i] as usize] = true;
        i += 1;
    }
    table
}

pub(crate) fn is_valid_name(name: &[u8]) -> bool {
    !name.is_empty() && name.iter().all(|&byte| NAME_CHARACTERS[byte as usize])
}

/// RFC 9114 section 4.2: fields that speak of a connection, which no message in HTTP/3 may carry.
pub(crate) fn is_connection_specific(name: &[u8]) -> bool {
    matches!(name, b"connection" | b"keep-alive" | b"proxy-connection" | b"transfer-encoding" | b"upgrade")
}

/// RFC 9110 section 5.5: visible characters, space, tab and obs-text. No early exit, so that the compiler
/// checks sixteen bytes at a time: values of some hundred bytes (bearer tokens) are the usual case.
pub(crate) fn is_valid_value(value: &[u8]) -> bool {
    !value.iter().fold(false, |bad, &byte| bad | ((byte < b' ') & (byte != b'\t')) | (byte == 0x7f))
}

/// RFC 9110 section 5.6.2, any case.
pub(super) fn is_token(text: &[u8]) -> bool {
    !text.is_empty() && text.iter().all(|&byte| NAME_CHARACTERS[byte.to_ascii_lowercase() as usize])
}
