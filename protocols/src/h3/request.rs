//! The frames of a request stream (RFC 9114 section 4.1).

use super::error::{ErrorCode, H3Error};
use super::frame::{FrameHeader, FrameHeaderReader, FrameType};
use super::{IDLE_FRAME_BYTES_MAX, INTERIM_RESPONSES_MAX, Role};

/// What a request stream brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event<'a> {
    /// The field section of the message's head. For a client: of an interim response, too, after which
    /// [`FrameDecoder::expect_another_head`] is due.
    Headers(&'a [u8]),
    /// A piece of the body, never empty. It always lies in the chunk that was handed in.
    Data(&'a [u8]),
    /// The field section of the trailers.
    Trailers(&'a [u8]),
}

/// What may come next (RFC 9114 section 4.1: HEADERS, DATA*, HEADERS?).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Head,
    Body,
    End,
}

/// Where in a frame we are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    FrameHeader,
    /// Of a HEADERS frame.
    Section {
        left: usize,
    },
    Data {
        left: u64,
    },
    Skip {
        left: u64,
    },
}

/// What a step found, without a borrow of the decoder.
enum Found<'c> {
    SectionInChunk(&'c [u8]),
    SectionCollected,
    Data(&'c [u8]),
}

/// Decodes one request stream, on either side.
#[derive(Debug)]
pub struct FrameDecoder {
    role: Role,
    section_bytes_max: usize,
    phase: Phase,
    state: State,
    header: FrameHeaderReader,
    /// A field section that came in several chunks.
    section: Vec<u8>,
    idle_bytes: u64,
    interim_responses: u32,
    body_announced: Option<u64>,
    body_bytes: u64,
    failed: Option<H3Error>,
}

impl FrameDecoder {
    /// A decoder for what the peer of `role` sends. Field sections over `section_bytes_max` are refused on
    /// sight of their length; [`super::FIELD_SECTION_BYTES_MAX`] is usual.
    pub fn new(role: Role, section_bytes_max: usize) -> Self {
        Self {
            role,
            section_bytes_max,
            phase: Phase::Head,
            state: State::FrameHeader,
            header: FrameHeaderReader::default(),
            section: Vec::new(),
            idle_bytes: 0,
            interim_responses: 0,
            body_announced: None,
            body_bytes: 0,
            failed: None,
        }
    }

    /// The next event, taken off the front of `chunk`. `None`: the chunk is used up.
    ///
    /// A field section that lies whole in the chunk is borrowed from it, else it is collected.
    pub fn next<'d, 'c: 'd>(&'d mut self, chunk: &mut &'c [u8]) -> Result<Option<Event<'d>>, H3Error> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        let found = self.step(chunk).inspect_err(|error| self.failed = Some(*error))?;
        let section = match found {
            None => return Ok(None),
            Some(Found::Data(piece)) => return Ok(Some(Event::Data(piece))),
            Some(Found::SectionInChunk(section)) => section,
            Some(Found::SectionCollected) => &self.section,
        };
        Ok(Some(if self.phase == Phase::End { Event::Trailers(section) } else { Event::Headers(section) }))
    }

    /// Says how long the body must be, by `content-length`. Call it on the head, before the next event; not
    /// for responses that have no body whatever they announce (RFC 9110 section 6.4.1).
    pub fn expect_body(&mut self, bytes: u64) {
        self.body_announced = Some(bytes);
    }

    /// Says that the head was that of an interim response (1xx), so that another must follow.
    pub fn expect_another_head(&mut self) -> Result<(), H3Error> {
        self.interim_responses += 1;
        let fault = if self.role == Role::Server || self.phase != Phase::Body || self.body_bytes > 0 {
            Some(H3Error::stream(ErrorCode::H3_MESSAGE_ERROR, "interim response out of place"))
        } else if self.interim_responses > INTERIM_RESPONSES_MAX {
            Some(H3Error::stream(ErrorCode::H3_EXCESSIVE_LOAD, "too many interim responses"))
        } else {
            None
        };
        if let Some(error) = fault {
            self.failed = Some(error);
            return Err(error);
        }
        self.phase = Phase::Head;
        Ok(())
    }

    /// Body bytes announced by DATA frames so far.
    pub fn body_bytes(&self) -> u64 {
        self.body_bytes
    }

    /// Says that the peer ended the stream, after all chunks were used up. `Ok`: the message is whole.
    pub fn finish(&mut self) -> Result<(), H3Error> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        self.check_end().inspect_err(|error| self.failed = Some(*error))
    }

    fn check_end(&self) -> Result<(), H3Error> {
        // RFC 9114 section 7.1: a frame cut short by the end of its stream is a connection error.
        if self.state != State::FrameHeader || self.header.is_partial() {
            return Err(H3Error::connection(ErrorCode::H3_FRAME_ERROR, "stream ended within a frame"));
        }
        if self.phase == Phase::Head {
            // RFC 9114 section 4.1.
            let code = match self.role {
                Role::Server => ErrorCode::H3_REQUEST_INCOMPLETE,
                Role::Client => ErrorCode::H3_MESSAGE_ERROR,
            };
            return Err(H3Error::stream(code, "stream ended before the head"));
        }
        self.check_body_whole()
    }

    /// RFC 9114 section 4.1.2: the DATA frames must add up to `content-length`.
    fn check_body_whole(&self) -> Result<(), H3Error> {
        if self.body_announced.is_some_and(|announced| announced != self.body_bytes) {
            return Err(H3Error::stream(ErrorCode::H3_MESSAGE_ERROR, "body shorter than content-length"));
        }
        Ok(())
    }

    fn step<'c>(&mut self, chunk: &mut &'c [u8]) -> Result<Option<Found<'c>>, H3Error> {
        loop {
            match self.state {
                State::FrameHeader => {
                    let Some(header) = self.header.read(chunk) else { return Ok(None) };
                    self.begin(header)?;
                }
                State::Section { left } => return Ok(self.take_section(chunk, left)),
                State::Data { left } => {
                    let (piece, left) = take(chunk, left);
                    self.state = if left == 0 { State::FrameHeader } else { State::Data { left } };
                    return Ok((!piece.is_empty()).then_some(Found::Data(piece)));
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

    fn take_section<'c>(&mut self, chunk: &mut &'c [u8], left: usize) -> Option<Found<'c>> {
        let (piece, after) = chunk.split_at(left.min(chunk.len()));
        *chunk = after;
        if piece.len() == left && self.section.is_empty() {
            self.state = State::FrameHeader;
            return Some(Found::SectionInChunk(piece));
        }
        self.section.extend_from_slice(piece);
        if piece.len() < left {
            self.state = State::Section { left: left - piece.len() };
            return None;
        }
        self.state = State::FrameHeader;
        Some(Found::SectionCollected)
    }

    /// Takes up a frame by its header.
    fn begin(&mut self, header: FrameHeader) -> Result<(), H3Error> {
        // A collected section has been handed out by now; its buffer is not kept for the length of the body.
        self.section = Vec::new();
        match header.kind {
            FrameType::HEADERS => self.begin_section(header.payload_bytes),
            FrameType::DATA => self.begin_data(header),
            FrameType::PUSH_PROMISE if self.role == Role::Client => {
                // RFC 9114 section 7.2.5: we never allowed a push, so any push ID is too large.
                Err(H3Error::connection(ErrorCode::H3_ID_ERROR, "PUSH_PROMISE without MAX_PUSH_ID"))
            }
            FrameType::SETTINGS
            | FrameType::GOAWAY
            | FrameType::CANCEL_PUSH
            | FrameType::MAX_PUSH_ID
            | FrameType::PUSH_PROMISE => {
                // RFC 9114 sections 7.2.3 to 7.2.7.
                Err(unexpected("frame is not allowed on a request stream"))
            }
            // RFC 9114 section 7.2.8.
            kind if kind.is_reserved_http2() => Err(unexpected("frame type of HTTP/2")),
            // RFC 9114 section 9: unknown frames are ignored. Section 10.5 lets us bound that.
            _ => {
                self.count_idle(header.header_bytes.saturating_add(header.payload_bytes))?;
                self.state = State::Skip { left: header.payload_bytes };
                Ok(())
            }
        }
    }

    fn begin_section(&mut self, declared_bytes: u64) -> Result<(), H3Error> {
        let phase = match self.phase {
            Phase::Head => Phase::Body,
            Phase::Body => {
                self.check_body_whole()?;
                Phase::End
            }
            Phase::End => return Err(unexpected("HEADERS after the trailers")),
        };
        let left = usize::try_from(declared_bytes).unwrap_or(usize::MAX);
        if left > self.section_bytes_max {
            return Err(H3Error::HeadersTooLarge { declared_bytes });
        }
        self.phase = phase;
        self.state = State::Section { left };
        Ok(())
    }

    fn begin_data(&mut self, header: FrameHeader) -> Result<(), H3Error> {
        match self.phase {
            Phase::Head => return Err(unexpected("DATA before HEADERS")),
            Phase::End => return Err(unexpected("DATA after the trailers")),
            Phase::Body => {}
        }
        self.body_bytes = self.body_bytes.saturating_add(header.payload_bytes);
        if self.body_announced.is_some_and(|announced| self.body_bytes > announced) {
            return Err(H3Error::stream(ErrorCode::H3_MESSAGE_ERROR, "body longer than content-length"));
        }
        if header.payload_bytes == 0 {
            return self.count_idle(header.header_bytes);
        }
        self.state = State::Data { left: header.payload_bytes };
        Ok(())
    }

    fn count_idle(&mut self, bytes: u64) -> Result<(), H3Error> {
        self.idle_bytes = self.idle_bytes.saturating_add(bytes);
        if self.idle_bytes > IDLE_FRAME_BYTES_MAX {
            return Err(H3Error::connection(ErrorCode::H3_EXCESSIVE_LOAD, "too many frames without effect"));
        }
        Ok(())
    }
}

fn unexpected(reason: &'static str) -> H3Error {
    H3Error::connection(ErrorCode::H3_FRAME_UNEXPECTED, reason)
}

/// Takes up to `left` bytes off the front of `chunk`; returns them and how many are still to come.
pub(super) fn take<'c>(chunk: &mut &'c [u8], left: u64) -> (&'c [u8], u64) {
    let count = usize::try_from(left).unwrap_or(usize::MAX).min(chunk.len());
    let (piece, rest) = chunk.split_at(count);
    *chunk = rest;
    (piece, left - count as u64)
}
