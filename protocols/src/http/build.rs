//! Makes heads from field lines and holds them to the rules of RFC 9114 sections 4.2 and 4.3.

use super::fields::{Fields, Span, is_connection_specific, is_token, is_valid_name, is_valid_value, offset};
use super::head::{Method, Parts, RequestHead, ResponseHead};

/// What RFC 9114 section 4.2.2 adds to each field when it measures a section, in bytes.
const FIELD_OVERHEAD_BYTES: usize = 32;

/// No head grows past this, whatever [`Limits`] say, so that offsets fit 32 bits.
const HEAD_BYTES_MAX: usize = 1 << 20;

/// How large a field section may be. The default is what Sluice serves with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Largest section as it is on the wire, in bytes.
    pub encoded_bytes_max: usize,
    /// Largest section as RFC 9114 section 4.2.2 measures it: names, values and 32 bytes a field.
    pub decoded_bytes_max: usize,
    /// Most field lines, pseudo-headers among them.
    pub fields_max: usize,
}

impl Limits {
    /// 16 KiB on the wire, 16 KiB decoded, 128 fields.
    pub const DEFAULT: Self =
        Self { encoded_bytes_max: 16 * 1024, decoded_bytes_max: 16 * 1024, fields_max: 128 };

    /// For heads we make ourselves: the peer's limit is the one that counts.
    pub(super) const LOCAL: Self =
        Self { encoded_bytes_max: HEAD_BYTES_MAX, decoded_bytes_max: HEAD_BYTES_MAX, fields_max: 1024 };
}

impl Default for Limits {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// Why a message is malformed in the sense of RFC 9114 section 4.1.2. Reset its stream with
/// `H3_MESSAGE_ERROR`; the connection goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// A pseudo-header behind a regular field (section 4.3).
    #[error("pseudo-header after a regular field")]
    PseudoAfterField,
    /// A pseudo-header that came twice (section 4.3.1).
    #[error("pseudo-header came twice")]
    PseudoTwice,
    /// A pseudo-header that is not defined, or not for this kind of message, or in trailers (section 4.3).
    #[error("pseudo-header is unknown or not allowed here")]
    PseudoUnknown,
    /// `:method`, `:scheme`, `:path` or `:status` is missing (sections 4.3.1 and 4.3.2).
    #[error("mandatory pseudo-header is missing")]
    PseudoMissing,
    /// `:method` is no token.
    #[error(":method is not a token")]
    Method,
    /// `:scheme` is no URI scheme.
    #[error(":scheme is not a URI scheme")]
    Scheme,
    /// `:path` is empty, is no absolute path (or `*` with OPTIONS), or holds a character no path has.
    #[error(":path is not an absolute path")]
    Path,
    /// Neither `:authority` nor `host`, or one that is empty, holds user information or stray characters.
    #[error("authority is missing or invalid")]
    Authority,
    /// `:authority` and `host` differ, or `host` came twice.
    #[error("host and :authority disagree")]
    HostMismatch,
    /// `:status` is not three digits from 100, or is 101, which HTTP/3 has not (section 4.5).
    #[error(":status is not a valid status code")]
    Status,
    /// A field name is empty, has an upper-case letter or is no token (section 4.2).
    #[error("field name is not a lower-case token")]
    Name,
    /// A field value holds a control character (section 10.3).
    #[error("field value holds a control character")]
    Value,
    /// A connection-specific field such as `transfer-encoding` (section 4.2).
    #[error("connection-specific field")]
    ConnectionSpecific,
    /// `te` with something other than `trailers`, or elsewhere than in a request's head (section 4.2).
    #[error("te is not \"trailers\" in the head of a request")]
    Te,
    /// `content-length` is no decimal number of 64 bits, or came twice (RFC 9110 section 8.6).
    #[error("content-length is invalid or came twice")]
    ContentLength,
}

/// Which limit a section is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TooLarge {
    /// More bytes on the wire than [`Limits::encoded_bytes_max`].
    #[error("encoded field section is too large")]
    Encoded,
    /// More than [`Limits::decoded_bytes_max`].
    #[error("decoded field section is too large")]
    Decoded,
    /// More lines than [`Limits::fields_max`].
    #[error("too many fields")]
    Fields,
}

/// Why a head cannot be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HeadFault {
    /// Reset the stream with `H3_MESSAGE_ERROR`; over other transports, answer 400.
    #[error("malformed message: {0}")]
    Malformed(#[from] Malformed),
    /// Answer 431 (RFC 9114 section 4.2.2).
    #[error("header section too large: {0}")]
    TooLarge(#[from] TooLarge),
    /// A well-formed CONNECT: answer 501, we are no proxy.
    #[error("CONNECT is not supported")]
    ConnectUnsupported,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Request,
    Response,
    Trailers,
}

/// What is known of a line before it is committed. Pseudo-headers are checked whatever it says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Checked {
    /// Nothing.
    Nothing,
    /// The name is a lower-case token: it comes from a table.
    Name,
    /// So, and the value has no control character and no white space around it ([`is_valid_line`]).
    Line,
}

/// Whether a line may be committed as [`Checked::Line`].
pub(crate) fn is_valid_line(name: &[u8], value: &[u8]) -> bool {
    let blank = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
    is_valid_name(name) && is_valid_value(value) && !blank(value.first()) && !blank(value.last())
}

/// Takes field lines one by one and makes a head of them.
///
/// After an error the builder is of no more use: drop it.
#[derive(Debug)]
pub struct HeadBuilder {
    kind: Kind,
    limits: Limits,
    size_bytes: usize,
    lines: usize,
    /// Filled where it stays: a request goes through some ten hands, as a pointer.
    parts: Box<Parts>,
    host: Option<Span>,
    status: Option<u16>,
    /// How many lines of `cookie` came.
    cookies: usize,
}

/// The pseudo-headers there are (RFC 9114 section 4.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PseudoName {
    Method,
    Scheme,
    Authority,
    Path,
    Status,
}

impl PseudoName {
    pub(crate) fn of(name: &[u8]) -> Option<Self> {
        Some(match name {
            b":method" => Self::Method,
            b":scheme" => Self::Scheme,
            b":authority" => Self::Authority,
            b":path" => Self::Path,
            b":status" => Self::Status,
            _ => return None,
        })
    }

    const fn len(self) -> usize {
        match self {
            Self::Path => ":path".len(),
            Self::Method | Self::Scheme | Self::Status => ":method".len(),
            Self::Authority => ":authority".len(),
        }
    }
}

/// Where the request pseudo-headers lie.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Pseudo {
    pub(super) method: Option<Span>,
    pub(super) scheme: Option<Span>,
    pub(super) authority: Option<Span>,
    pub(super) path: Option<Span>,
}

impl HeadBuilder {
    /// A builder of a request head. `capacity` is a guess at the decoded size in bytes.
    pub fn request(limits: &Limits, capacity: usize) -> Self {
        Self::new(Kind::Request, limits, capacity)
    }

    /// A builder of a response head.
    pub fn response(limits: &Limits, capacity: usize) -> Self {
        Self::new(Kind::Response, limits, capacity)
    }

    /// A builder of a trailer section, which holds no pseudo-header (RFC 9114 section 4.3).
    pub fn trailers(limits: &Limits, capacity: usize) -> Self {
        Self::new(Kind::Trailers, limits, capacity)
    }

    fn new(kind: Kind, limits: &Limits, capacity: usize) -> Self {
        Self {
            kind,
            limits: *limits,
            size_bytes: 0,
            lines: 0,
            parts: Box::new(Parts {
                fields: Fields::with_capacity(capacity.min(HEAD_BYTES_MAX)),
                method: Method::Other,
                pseudo: Pseudo::default(),
                path_end: 0,
                content_length: None,
            }),
            host: None,
            status: None,
            cookies: 0,
        }
    }

    /// Adds a field line or pseudo-header.
    pub fn field(&mut self, name: &[u8], value: &[u8]) -> Result<(), HeadFault> {
        if name.len() + value.len() > self.decoded_bytes_max() {
            return Err(TooLarge::Decoded.into());
        }
        self.parts.fields.arena_mut().extend_from_slice(name);
        let name_end = self.parts.fields.arena().len();
        self.parts.fields.arena_mut().extend_from_slice(value);
        self.commit(name_end, Checked::Nothing)
    }

    /// The end of the arena, for a decoder that writes a name and a value there and then commits them.
    pub(crate) fn arena_mut(&mut self) -> &mut Vec<u8> {
        self.parts.fields.arena_mut()
    }

    /// Makes a line of what was appended to the arena since the last commit; the name ends at `name_end`.
    pub(crate) fn commit(&mut self, name_end: usize, checked: Checked) -> Result<(), HeadFault> {
        let name_start = self.parts.fields.committed();
        self.account(self.parts.fields.arena().len() - name_start)?;
        if self.parts.fields.arena().get(name_start) == Some(&b':') && name_end > name_start {
            let name = PseudoName::of(&self.parts.fields.arena()[name_start..name_end]);
            return self.take_pseudo(name, name_end);
        }
        if checked == Checked::Nothing && !is_valid_name(&self.parts.fields.arena()[name_start..name_end]) {
            return Err(Malformed::Name.into());
        }
        if checked != Checked::Line {
            if !is_valid_value(&self.parts.fields.arena()[name_end..]) {
                return Err(Malformed::Value.into());
            }
            self.trim_value(name_end);
        }
        self.check_special(name_start, name_end)?;
        self.parts.fields.commit_field(name_end);
        Ok(())
    }

    /// Makes a pseudo-header of what was appended to the arena since the last commit, which is the value
    /// alone: for a decoder that has the name from a table.
    pub(crate) fn commit_pseudo(&mut self, name: PseudoName) -> Result<(), HeadFault> {
        let value_start = self.parts.fields.committed();
        self.account(name.len() + self.parts.fields.arena().len() - value_start)?;
        self.take_pseudo(Some(name), value_start)
    }

    /// Ends a request.
    pub fn finish_request(self) -> Result<RequestHead, HeadFault> {
        debug_assert_eq!(self.kind, Kind::Request);
        if self.parts.pseudo.method.is_none() {
            return Err(Malformed::PseudoMissing.into());
        }
        if self.method_is(b"CONNECT") {
            return Err(self.connect_fault());
        }
        // RFC 9114 section 4.3.1: all requests but CONNECT have exactly one of each.
        if self.parts.pseudo.scheme.is_none() || self.parts.pseudo.path.is_none() {
            return Err(Malformed::PseudoMissing.into());
        }
        let path_end = self.check_path(self.parts.method)?;
        let mut authority = self.check_authority()?;
        let mut parts = self.parts;
        if self.cookies > 1 {
            parts.fields = std::mem::take(&mut parts.fields).with_joined("cookie", b"; ");
            // A host in its place stands among the fields, which have moved.
            if parts.pseudo.authority.is_none() {
                authority = parts.fields.span_of("host").unwrap_or_default();
            }
        }
        parts.path_end = path_end;
        parts.pseudo.authority = Some(authority);
        Ok(RequestHead::from_parts(parts))
    }

    /// RFC 9114 section 4.4: CONNECT has an authority, and neither scheme nor path.
    fn connect_fault(&self) -> HeadFault {
        match &self.parts.pseudo {
            Pseudo { scheme: None, path: None, authority: Some(_), .. } => HeadFault::ConnectUnsupported,
            Pseudo { authority: None, .. } => Malformed::PseudoMissing.into(),
            _ => Malformed::PseudoUnknown.into(),
        }
    }

    /// Ends a response.
    pub fn finish_response(self) -> Result<ResponseHead, HeadFault> {
        debug_assert_eq!(self.kind, Kind::Response);
        let Some(status) = self.status else { return Err(Malformed::PseudoMissing.into()) };
        Ok(ResponseHead::from_parts(self.parts.fields, status, self.parts.content_length))
    }

    /// Ends a trailer section.
    pub fn finish_trailers(self) -> Fields {
        debug_assert_eq!(self.kind, Kind::Trailers);
        self.parts.fields
    }

    /// Takes a finished request apart again, to add fields to it.
    pub(super) fn reopen(parts: Box<Parts>) -> Self {
        let mut builder = Self::new(Kind::Request, &Limits::LOCAL, 0);
        builder.size_bytes = parts.fields.arena().len();
        builder.lines = parts.fields.len();
        // A host that is there already says what the authority says, or the head would not have been made.
        builder.host = parts.fields.get_bytes("host").and(parts.pseudo.authority);
        builder.cookies = usize::from(parts.fields.get_bytes("cookie").is_some());
        builder.parts = parts;
        builder
    }

    fn decoded_bytes_max(&self) -> usize {
        self.limits.decoded_bytes_max.min(HEAD_BYTES_MAX)
    }

    fn account(&mut self, line_bytes: usize) -> Result<(), TooLarge> {
        self.lines += 1;
        self.size_bytes += line_bytes + FIELD_OVERHEAD_BYTES;
        if self.lines > self.limits.fields_max {
            return Err(TooLarge::Fields);
        }
        if self.size_bytes > self.decoded_bytes_max() {
            return Err(TooLarge::Decoded);
        }
        Ok(())
    }

    /// RFC 9110 section 5.5: white space around a value is no part of it.
    fn trim_value(&mut self, start: usize) {
        let arena = self.parts.fields.arena_mut();
        let blank = |byte: &u8| matches!(byte, b' ' | b'\t');
        while arena.len() > start && arena.last().is_some_and(blank) {
            arena.pop();
        }
        if arena.get(start).is_some_and(blank) {
            let blanks = arena[start..].iter().take_while(|byte| blank(byte)).count();
            arena.drain(start..start + blanks);
        }
    }

    /// Fields whose value or mere presence has a rule of its own.
    fn check_special(&mut self, name_start: usize, name_end: usize) -> Result<(), Malformed> {
        let arena = self.parts.fields.arena();
        let value = Span { start: offset(name_end), end: offset(arena.len()) };
        match &arena[name_start..name_end] {
            // RFC 9114 section 4.2: connection-specific fields make a message malformed.
            name if is_connection_specific(name) => Err(Malformed::ConnectionSpecific),
            b"te"
                if self.kind != Kind::Request
                    || !self.parts.fields.bytes(value).eq_ignore_ascii_case(b"trailers") =>
            {
                Err(Malformed::Te)
            }
            b"content-length" => {
                let length =
                    parse_content_length(self.parts.fields.bytes(value)).ok_or(Malformed::ContentLength)?;
                // RFC 9110 section 8.6 lets a recipient refuse repeated lengths, equal or not.
                if self.parts.content_length.replace(length).is_some() {
                    return Err(Malformed::ContentLength);
                }
                Ok(())
            }
            b"cookie" => {
                self.cookies += 1;
                Ok(())
            }
            b"host" if self.kind == Kind::Request => {
                if self.host.replace(value).is_some() {
                    Err(Malformed::HostMismatch)
                } else {
                    Ok(())
                }
            }
            _ => Ok(()),
        }
    }

    fn take_pseudo(&mut self, name: Option<PseudoName>, value_start: usize) -> Result<(), HeadFault> {
        // RFC 9114 section 4.3: pseudo-headers come before all regular fields.
        if !self.parts.fields.is_empty() {
            return Err(Malformed::PseudoAfterField.into());
        }
        let arena = self.parts.fields.arena();
        let value = &arena[value_start..];
        let span = Span { start: offset(value_start), end: offset(arena.len()) };
        let twice = match (self.kind, name) {
            (Kind::Request, Some(PseudoName::Method)) => {
                self.parts.method = Method::from_token(value).ok_or(Malformed::Method)?;
                self.parts.pseudo.method.replace(span).is_some()
            }
            (Kind::Request, Some(PseudoName::Scheme)) => {
                check(is_scheme(value), Malformed::Scheme)?;
                self.parts.pseudo.scheme.replace(span).is_some()
            }
            (Kind::Request, Some(PseudoName::Authority)) => {
                check(is_authority(value), Malformed::Authority)?;
                self.parts.pseudo.authority.replace(span).is_some()
            }
            (Kind::Request, Some(PseudoName::Path)) => {
                check(is_path(value), Malformed::Path)?;
                self.parts.pseudo.path.replace(span).is_some()
            }
            (Kind::Response, Some(PseudoName::Status)) => {
                let status = parse_status(value).ok_or(Malformed::Status)?;
                self.status.replace(status).is_some()
            }
            _ => return Err(Malformed::PseudoUnknown.into()),
        };
        check(!twice, Malformed::PseudoTwice)?;
        self.parts.fields.commit_preface();
        Ok(())
    }

    fn method_is(&self, method: &[u8]) -> bool {
        self.parts.pseudo.method.is_some_and(|span| self.parts.fields.bytes(span) == method)
    }

    /// RFC 9114 section 4.3.1: an absolute path, or `*` for OPTIONS. Returns where the path ends and
    /// the query begins.
    fn check_path(&self, method: Method) -> Result<u32, Malformed> {
        let Some(span) = self.parts.pseudo.path else { return Err(Malformed::PseudoMissing) };
        let target = self.parts.fields.bytes(span);
        let asterisk = target == b"*" && method == Method::Options;
        check(asterisk || target.first() == Some(&b'/'), Malformed::Path)?;
        let path_bytes = target.iter().position(|&byte| byte == b'?').unwrap_or(target.len());
        Ok(span.start + offset(path_bytes))
    }

    /// RFC 9114 section 4.3.1: `:authority` or `host`, not empty, and alike when both are there.
    fn check_authority(&self) -> Result<Span, Malformed> {
        match (self.parts.pseudo.authority, self.host) {
            (Some(authority), Some(host))
                if self.parts.fields.bytes(authority) != self.parts.fields.bytes(host) =>
            {
                Err(Malformed::HostMismatch)
            }
            (Some(authority), _) => Ok(authority),
            (None, Some(host)) if is_authority(self.parts.fields.bytes(host)) => Ok(host),
            (None, _) => Err(Malformed::Authority),
        }
    }
}

fn check(holds: bool, otherwise: Malformed) -> Result<(), Malformed> {
    if holds { Ok(()) } else { Err(otherwise) }
}

/// RFC 9110 section 8.6: digits alone, no sign, no list.
fn parse_content_length(value: &[u8]) -> Option<u64> {
    if value.is_empty() {
        return None;
    }
    value.iter().try_fold(0u64, |length, byte| {
        let digit = byte.is_ascii_digit().then(|| u64::from(byte - b'0'))?;
        length.checked_mul(10)?.checked_add(digit)
    })
}

/// RFC 9110 section 15: three digits, the first not 0. RFC 9114 section 4.5 forbids 101.
fn parse_status(value: &[u8]) -> Option<u16> {
    let &[hundreds @ b'1'..=b'9', tens @ b'0'..=b'9', ones @ b'0'..=b'9'] = value else { return None };
    let digit = |byte: u8| u16::from(byte - b'0');
    let status = digit(hundreds) * 100 + digit(tens) * 10 + digit(ones);
    (status != 101).then_some(status)
}

/// RFC 3986 section 3.1.
fn is_scheme(scheme: &[u8]) -> bool {
    scheme.first().is_some_and(u8::is_ascii_alphabetic)
        && scheme.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.'))
}

/// RFC 9114 section 4.3.1: not empty, without user information; nothing that would end an authority.
fn is_authority(authority: &[u8]) -> bool {
    !authority.is_empty()
        && authority
            .iter()
            .all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'@' | b'/' | b'?' | b'#' | b'\\'))
}

/// Visible ASCII without a fragment. Percent-encoding is left to who routes.
fn is_path(path: &[u8]) -> bool {
    !path.is_empty() && !path.iter().fold(false, |bad, byte| bad | !byte.is_ascii_graphic() | (*byte == b'#'))
}

impl Method {
    fn from_token(token: &[u8]) -> Option<Self> {
        Some(match token {
            b"GET" => Self::Get,
            b"HEAD" => Self::Head,
            b"POST" => Self::Post,
            b"PUT" => Self::Put,
            b"PATCH" => Self::Patch,
            b"DELETE" => Self::Delete,
            b"OPTIONS" => Self::Options,
            other if is_token(other) => Self::Other,
            _ => return None,
        })
    }
}
