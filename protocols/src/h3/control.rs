//! The peer's control stream (RFC 9114 sections 6.2.1 and 7.2).

use smallvec::SmallVec;

use super::error::{ErrorCode, H3Error};
use super::frame::{FrameHeader, FrameHeaderReader, FrameType};
use super::request::take;
use super::varint::read_varint;
use super::{
    CONTROL_UNKNOWN_BYTES_MAX, FIELD_SECTION_BYTES_MAX, QPACK_TABLE_BYTES_MAX, Role, SETTINGS_BYTES_MAX,
    SETTINGS_COUNT_MAX,
};

pub(super) const QPACK_MAX_TABLE_CAPACITY: u64 = 0x01;
pub(super) const MAX_FIELD_SECTION_SIZE: u64 = 0x06;
pub(super) const QPACK_BLOCKED_STREAMS: u64 = 0x07;

/// The settings of one side (RFC 9114 section 7.2.4.1, RFC 9204 section 5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// How large a dynamic table its decoder keeps at most, in bytes.
    pub qpack_max_table_capacity: u64,
    /// How many of its streams may wait for the dynamic table.
    pub qpack_blocked_streams: u64,
    /// Largest field section it takes, as RFC 9114 section 4.2.2 measures. `None`: no limit.
    pub max_field_section_size: Option<u64>,
}

impl Settings {
    /// What we send as a client.
    pub const OURS: Self = Self {
        qpack_max_table_capacity: 0,
        qpack_blocked_streams: 0,
        max_field_section_size: Some(FIELD_SECTION_BYTES_MAX as u64),
    };

    /// What we send as a server: clients may keep a dynamic table with us, and no request waits for it.
    pub const SERVER: Self = Self { qpack_max_table_capacity: QPACK_TABLE_BYTES_MAX as u64, ..Self::OURS };

    /// What holds until a peer says otherwise, and for all it leaves out.
    pub const DEFAULT: Self =
        Self { qpack_max_table_capacity: 0, qpack_blocked_streams: 0, max_field_section_size: None };

    fn parse(mut payload: &[u8]) -> Result<Self, H3Error> {
        let mut settings = Self::DEFAULT;
        let mut seen: SmallVec<[u64; 16]> = SmallVec::new();
        while !payload.is_empty() {
            let (id, value) = read_setting(&mut payload)?;
            // RFC 9114 section 7.2.4: the same identifier must not come twice.
            if seen.contains(&id) {
                return Err(H3Error::connection(ErrorCode::H3_SETTINGS_ERROR, "setting came twice"));
            }
            if seen.len() == SETTINGS_COUNT_MAX {
                return Err(H3Error::connection(ErrorCode::H3_EXCESSIVE_LOAD, "too many settings"));
            }
            seen.push(id);
            match id {
                QPACK_MAX_TABLE_CAPACITY => settings.qpack_max_table_capacity = value,
                QPACK_BLOCKED_STREAMS => settings.qpack_blocked_streams = value,
                MAX_FIELD_SECTION_SIZE => settings.max_field_section_size = Some(value),
                // RFC 9114 sections 7.2.4.1 and 11.2.2: settings of HTTP/2 without a meaning here.
                0x00 | 0x02..=0x05 => {
                    return Err(H3Error::connection(ErrorCode::H3_SETTINGS_ERROR, "setting of HTTP/2"));
                }
                // RFC 9114 section 7.2.4: unknown settings are ignored.
                _ => {}
            }
        }
        Ok(settings)
    }
}

fn read_setting(payload: &mut &[u8]) -> Result<(u64, u64), H3Error> {
    let cut_short = H3Error::connection(ErrorCode::H3_FRAME_ERROR, "SETTINGS ends within a setting");
    let (id, id_bytes) = read_varint(payload).ok_or(cut_short)?;
    let (value, value_bytes) = read_varint(&payload[id_bytes..]).ok_or(cut_short)?;
    *payload = &payload[id_bytes + value_bytes..];
    Ok((id, value))
}

/// What a control stream brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ControlEvent {
    /// The peer's settings: always the first event, and once.
    Settings(Settings),
    /// The peer winds the connection up. To a client: requests on streams from this identifier on were not
    /// and will not be processed. To a server: a push identifier, of no consequence without push.
    GoAway(u64),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    FrameHeader,
    Payload { kind: FrameType, left: u64 },
    Skip { left: u64 },
}

/// Decodes the peer's control stream, behind its stream type.
///
/// The stream must never end: if it does, close the connection with `H3_CLOSED_CRITICAL_STREAM`.
#[derive(Debug)]
pub struct ControlDecoder {
    role: Role,
    state: State,
    header: FrameHeaderReader,
    /// A payload that came in several chunks; at most [`SETTINGS_BYTES_MAX`].
    payload: Vec<u8>,
    has_settings: bool,
    goaway: Option<u64>,
    max_push_id: Option<u64>,
    unknown_bytes: u64,
    failed: Option<H3Error>,
}

impl ControlDecoder {
    /// A decoder for what the peer of `role` sends.
    pub fn new(role: Role) -> Self {
        Self {
            role,
            state: State::FrameHeader,
            header: FrameHeaderReader::default(),
            payload: Vec::new(),
            has_settings: false,
            goaway: None,
            max_push_id: None,
            unknown_bytes: 0,
            failed: None,
        }
    }

    /// The next event, taken off the front of `chunk`. `None`: the chunk is used up. All errors concern the
    /// connection.
    pub fn next(&mut self, chunk: &mut &[u8]) -> Result<Option<ControlEvent>, H3Error> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        self.step(chunk).inspect_err(|error| self.failed = Some(*error))
    }

    /// Bytes of unknown frames so far. There is no bound on their sum, since clients may send extension
    /// frames for each request on a connection (RFC 9218 PRIORITY_UPDATE); a caller may set one in
    /// proportion to requests.
    pub fn unknown_bytes(&self) -> u64 {
        self.unknown_bytes
    }

    fn step(&mut self, chunk: &mut &[u8]) -> Result<Option<ControlEvent>, H3Error> {
        loop {
            match self.state {
                State::FrameHeader => {
                    let Some(header) = self.header.read(chunk) else { return Ok(None) };
                    self.begin(header)?;
                }
                State::Payload { kind, left } => {
                    let (piece, left) = take(chunk, left);
                    self.payload.extend_from_slice(piece);
                    if left > 0 {
                        self.state = State::Payload { kind, left };
                        return Ok(None);
                    }
                    self.state = State::FrameHeader;
                    let payload = std::mem::take(&mut self.payload);
                    if let Some(event) = self.end(kind, &payload)? {
                        return Ok(Some(event));
                    }
                }
                State::Skip { left } => {
                    let (_, left) = take(chunk, left);
                    if left > 0 {
                        self.state = State::Skip { left };
                        return Ok(None);
                    }
                    self.state = State::FrameHeader;
                }
            }
        }
    }

    /// Takes up a frame by its header.
    fn begin(&mut self, header: FrameHeader) -> Result<(), H3Error> {
        let FrameHeader { kind, payload_bytes: left, .. } = header;
        // RFC 9114 section 6.2.1: SETTINGS comes first; section 7.2.4: and never again.
        match (kind == FrameType::SETTINGS, self.has_settings) {
            (false, false) => {
                return Err(H3Error::connection(
                    ErrorCode::H3_MISSING_SETTINGS,
                    "first frame is not SETTINGS",
                ));
            }
            (true, true) => return Err(unexpected("second SETTINGS")),
            _ => {}
        }
        self.state = match kind {
            FrameType::SETTINGS => {
                check_size(left <= SETTINGS_BYTES_MAX, ErrorCode::H3_EXCESSIVE_LOAD)?;
                State::Payload { kind, left }
            }
            // RFC 9114 section 7.2.7: only clients send MAX_PUSH_ID.
            FrameType::MAX_PUSH_ID if self.role == Role::Client => {
                return Err(unexpected("MAX_PUSH_ID from a server"));
            }
            FrameType::GOAWAY | FrameType::MAX_PUSH_ID | FrameType::CANCEL_PUSH => {
                // Their payload is one variable-length integer.
                check_size((1..=8).contains(&left), ErrorCode::H3_FRAME_ERROR)?;
                State::Payload { kind, left }
            }
            // RFC 9114 sections 7.2.1, 7.2.2 and 7.2.5.
            FrameType::DATA | FrameType::HEADERS | FrameType::PUSH_PROMISE => {
                return Err(unexpected("frame is not allowed on a control stream"));
            }
            kind if kind.is_reserved_http2() => return Err(unexpected("frame type of HTTP/2")),
            _ => {
                check_size(left <= CONTROL_UNKNOWN_BYTES_MAX, ErrorCode::H3_EXCESSIVE_LOAD)?;
                self.unknown_bytes = self.unknown_bytes.saturating_add(header.header_bytes + left);
                State::Skip { left }
            }
        };
        Ok(())
    }

    /// Acts on a whole payload.
    fn end(&mut self, kind: FrameType, payload: &[u8]) -> Result<Option<ControlEvent>, H3Error> {
        if kind == FrameType::SETTINGS {
            let settings = Settings::parse(payload)?;
            self.has_settings = true;
            return Ok(Some(ControlEvent::Settings(settings)));
        }
        let id = match read_varint(payload) {
            Some((id, taken)) if taken == payload.len() => id,
            _ => return Err(H3Error::connection(ErrorCode::H3_FRAME_ERROR, "frame is not one integer")),
        };
        match kind {
            FrameType::GOAWAY => self.goaway(id).map(Some),
            FrameType::MAX_PUSH_ID => self.max_push_id(id).map(|()| None),
            // RFC 9114 section 7.2.3: no push was ever promised or allowed, so it names one that is not.
            _ => Err(id_error("CANCEL_PUSH without a push")),
        }
    }

    /// RFC 9114 section 5.2: identifiers never grow; to a client they are those of request streams.
    fn goaway(&mut self, id: u64) -> Result<ControlEvent, H3Error> {
        if self.role == Role::Client && !id.is_multiple_of(4) {
            return Err(id_error("GOAWAY does not name a request stream"));
        }
        if self.goaway.is_some_and(|before| id > before) {
            return Err(id_error("GOAWAY with a growing identifier"));
        }
        self.goaway = Some(id);
        Ok(ControlEvent::GoAway(id))
    }

    /// RFC 9114 section 7.2.7: it never shrinks.
    fn max_push_id(&mut self, id: u64) -> Result<(), H3Error> {
        if self.max_push_id.is_some_and(|before| id < before) {
            return Err(id_error("MAX_PUSH_ID with a shrinking identifier"));
        }
        self.max_push_id = Some(id);
        Ok(())
    }
}

fn check_size(fits: bool, code: ErrorCode) -> Result<(), H3Error> {
    if fits { Ok(()) } else { Err(H3Error::connection(code, "frame of this size on a control stream")) }
}

fn unexpected(reason: &'static str) -> H3Error {
    H3Error::connection(ErrorCode::H3_FRAME_UNEXPECTED, reason)
}

fn id_error(reason: &'static str) -> H3Error {
    H3Error::connection(ErrorCode::H3_ID_ERROR, reason)
}
