//! Our encoder with a dynamic table at the peer (RFC 9204 sections 2.1 and 4.3), for a client that repeats
//! itself: heads in, field sections and the instructions of our encoder stream out.
//!
//! Invariants:
//! - A section refers to nothing that the peer has not acknowledged, so that no stream is ever blocked,
//!   whatever the peer allows (RFC 9204 section 2.1.2).
//! - Lines are inserted while there is room and never dropped, so that no reference can become stale and
//!   nothing depends on when sections are acknowledged (RFC 9204 section 2.1.1).
//! - A line is inserted when it comes a second time within the last [`RECENT_LINES`] that were not in a
//!   table: what changes with each request (targets, lengths, keys) never takes room.

use std::collections::VecDeque;

use smallvec::SmallVec;
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use super::encode::{self, encode_string, never_indexed};
use super::integer::{self, Continued, prefix_max};
use super::static_table::{self, Found};
use super::table::{DynamicTable, LINE_OVERHEAD_BYTES, Line, Name, line_size};
use crate::h3::{ErrorCode, H3Error};
use crate::http::RequestHead;

/// Largest table used, in bytes, whatever the peer allows.
pub const ENCODER_TABLE_BYTES_MAX: usize = 4096;

/// How many lines that were in no table are remembered, by their hash.
const RECENT_LINES: usize = 64;

/// Most sections that wait to be acknowledged; further ones do without the table.
const OUTSTANDING_MAX: usize = 1024;

/// Most bytes of instructions that wait to be taken; while there are more, nothing is inserted.
const INSTRUCTION_BYTES_MAX: usize = 8192;

/// The dynamic table we keep at the peer's decoder.
#[derive(Debug)]
pub struct Encoder {
    table: DynamicTable,
    /// Hashes of the lines in the table, by absolute index.
    hashes: Vec<Hashes>,
    /// Lines the largest table the peer allows could hold: the modulus of Required Insert Counts.
    lines_max: u64,
    /// How many inserts the peer is known to have.
    acknowledged: u64,
    recent: [u64; RECENT_LINES],
    recent_next: usize,
    /// Sections not acknowledged yet: their stream and Required Insert Count.
    outstanding: VecDeque<(u64, u64)>,
    instructions: Vec<u8>,
    /// An instruction of the peer's decoder whose integer goes on in the next byte.
    partial: Option<(Kind, Continued)>,
}

#[derive(Debug, Clone, Copy)]
struct Hashes {
    name: u64,
    line: u64,
}

impl Hashes {
    fn new(name: &[u8], value: &[u8]) -> Self {
        let name = xxh3_64(name);
        Self { name, line: xxh3_64_with_seed(value, name) }
    }
}

/// How a line is written.
enum Form {
    Static(Found),
    /// Absolute indices.
    Line(u64),
    Name(u64),
    Literal,
}

/// What a decoder tells (RFC 9204 section 4.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Acknowledgment,
    Cancellation,
    Increment,
}

impl Encoder {
    /// An encoder to a decoder that announced tables of up to `peer_capacity_max` bytes
    /// (`QPACK_MAX_TABLE_CAPACITY`). With less than a line needs, it is the static table alone.
    pub fn new(peer_capacity_max: u64) -> Self {
        let peer_capacity_max = usize::try_from(peer_capacity_max).unwrap_or(usize::MAX);
        let capacity = peer_capacity_max.min(ENCODER_TABLE_BYTES_MAX);
        let mut table = DynamicTable::new(capacity);
        let mut instructions = Vec::new();
        if capacity > LINE_OVERHEAD_BYTES && table.set_capacity(capacity as u64).is_ok() {
            // Section 4.3.1: 001, five bits of capacity.
            integer::write(&mut instructions, 0b0010_0000, 5, capacity);
        }
        Self {
            table,
            hashes: Vec::new(),
            lines_max: (peer_capacity_max / LINE_OVERHEAD_BYTES) as u64,
            acknowledged: 0,
            recent: [0; RECENT_LINES],
            recent_next: 0,
            outstanding: VecDeque::new(),
            instructions,
            partial: None,
        }
    }

    /// Appends the field section of a request's head that goes out on this stream, and perhaps
    /// [instructions](Self::instructions) that make later ones shorter.
    pub fn encode_request(&mut self, out: &mut Vec<u8>, stream_id: u64, head: &RequestHead) {
        let pseudo = [
            (":method", Some(head.method_str())),
            (":scheme", Some(head.scheme())),
            (":authority", head.authority()),
            (":path", Some(head.path_and_query())),
        ];
        let pseudo = pseudo.iter().filter_map(|(name, value)| Some((*name, (*value)?.as_bytes())));
        let lines: SmallVec<[(&str, &[u8]); 24]> = pseudo.chain(head.fields().iter_bytes()).collect();
        let forms: SmallVec<[Form; 24]> =
            lines.iter().map(|(name, value)| self.form(name.as_bytes(), value)).collect();
        let required = forms.iter().filter_map(Form::required_insert_count).max().unwrap_or(0);
        // Section 4.5.1: the base is the Required Insert Count, so their difference is 0.
        integer::write(out, 0, 8, length(self.encoded_insert_count(required)));
        out.push(0);
        if required > 0 {
            self.outstanding.push_back((stream_id, required));
        }
        for ((name, value), form) in lines.iter().zip(&forms) {
            write_line(out, required, name.as_bytes(), value, form);
        }
    }

    /// What is to be sent on our encoder stream, behind its type; whoever sends it takes it away.
    pub fn instructions(&mut self) -> &mut Vec<u8> {
        &mut self.instructions
    }

    /// Takes what came on the peer's decoder stream, behind its type. Errors concern the connection and are
    /// `QPACK_DECODER_STREAM_ERROR`.
    pub fn feed(&mut self, chunk: &[u8]) -> Result<(), H3Error> {
        for &byte in chunk {
            let whole = match self.partial.take() {
                Some((kind, mut continued)) => match continued.push(byte) {
                    Ok(Some(value)) => Some((kind, value)),
                    Ok(None) => {
                        self.partial = Some((kind, continued));
                        None
                    }
                    Err(_) => return Err(error("integer is too large")),
                },
                None => self.begin(byte),
            };
            if let Some((kind, value)) = whole {
                self.obey(kind, value)?;
            }
        }
        Ok(())
    }

    fn begin(&mut self, byte: u8) -> Option<(Kind, u64)> {
        let (kind, prefix_bits) = match byte >> 6 {
            0b10 | 0b11 => (Kind::Acknowledgment, 7),
            0b01 => (Kind::Cancellation, 6),
            _ => (Kind::Increment, 6),
        };
        let max = prefix_max(prefix_bits);
        if byte & max < max {
            return Some((kind, u64::from(byte & max)));
        }
        self.partial = Some((kind, Continued::new(max)));
        None
    }

    fn obey(&mut self, kind: Kind, value: u64) -> Result<(), H3Error> {
        match kind {
            // Section 4.4.1: sections of a stream are acknowledged in their order.
            Kind::Acknowledgment => {
                let place = self.outstanding.iter().position(|(stream_id, _)| *stream_id == value);
                let section = place.and_then(|place| self.outstanding.remove(place));
                let (_, required) =
                    section.ok_or_else(|| error("acknowledges a section that was not sent"))?;
                self.acknowledged = self.acknowledged.max(required);
            }
            Kind::Cancellation => self.outstanding.retain(|(stream_id, _)| *stream_id != value),
            // Section 4.4.3.
            Kind::Increment => {
                let count = self.acknowledged.saturating_add(value);
                if value == 0 || count > self.table.inserted() {
                    return Err(error("counts inserts that were not sent"));
                }
                self.acknowledged = count;
            }
        }
        Ok(())
    }

    fn form(&mut self, name: &[u8], value: &[u8]) -> Form {
        let found = static_table::find(name, value);
        if let Some(line @ Found::Line(_)) = found {
            return Form::Static(line);
        }
        if self.table.capacity_max() <= LINE_OVERHEAD_BYTES || self.outstanding.len() >= OUTSTANDING_MAX {
            return found.map_or(Form::Literal, Form::Static);
        }
        let hashes = Hashes::new(name, value);
        match self.find(|line| line.line == hashes.line, |line| line.name() == name && line.value() == value)
        {
            Some(index) if index < self.acknowledged => return Form::Line(index),
            Some(_) => {}
            None => self.note(name, value, hashes),
        }
        if let Some(found) = found {
            return Form::Static(found);
        }
        match self.find(|line| line.name == hashes.name, |line| line.name() == name) {
            Some(index) if index < self.acknowledged => Form::Name(index),
            _ => Form::Literal,
        }
    }

    /// The absolute index of the first line with the right hash that is the right one.
    fn find(&self, has_hash: impl Fn(&Hashes) -> bool, is_right: impl Fn(&Line) -> bool) -> Option<u64> {
        let found = self.hashes.iter().position(has_hash)? as u64;
        self.table.get(found).is_some_and(is_right).then_some(found)
    }

    /// Inserts a line that came before, or remembers it.
    fn note(&mut self, name: &[u8], value: &[u8], hashes: Hashes) {
        if !self.recent.contains(&hashes.line) {
            self.recent[self.recent_next] = hashes.line;
            self.recent_next = (self.recent_next + 1) % RECENT_LINES;
            return;
        }
        if line_size(name, value) > self.table.free() || self.instructions.len() > INSTRUCTION_BYTES_MAX {
            return;
        }
        self.write_insert(name, value, hashes);
        let line = Line::new(Name::Shared(name.into()), value.into());
        if self.table.insert(line).is_ok() {
            self.hashes.push(hashes);
        }
    }

    fn write_insert(&mut self, name: &[u8], value: &[u8], hashes: Hashes) {
        let known = self.find(|line| line.name == hashes.name, |line| line.name() == name);
        let out = &mut self.instructions;
        match (static_table::find(name, value), known) {
            // Section 4.3.2: 1, T = 1, six bits of index.
            (Some(Found::Name(index) | Found::Line(index)), _) => integer::write(out, 0b1100_0000, 6, index),
            // 1, T = 0, six bits of index, counted back from the last insert.
            (None, Some(index)) => {
                integer::write(out, 0b1000_0000, 6, length(self.table.inserted() - index - 1));
            }
            // Section 4.3.3: 01 H, five bits of length.
            (None, None) => encode_string(out, 0b0100_0000, 5, name),
        }
        encode_string(out, 0, 7, value);
    }

    /// RFC 9204 section 4.5.1.1.
    fn encoded_insert_count(&self, required: u64) -> u64 {
        if required == 0 { 0 } else { required % (2 * self.lines_max) + 1 }
    }
}

impl Form {
    fn required_insert_count(&self) -> Option<u64> {
        match self {
            Self::Line(index) | Self::Name(index) => Some(index + 1),
            Self::Static(_) | Self::Literal => None,
        }
    }
}

fn write_line(out: &mut Vec<u8>, base: u64, name: &[u8], value: &[u8], form: &Form) {
    match form {
        Form::Static(found) => encode::write_line(out, name, value, Some(*found)),
        Form::Literal => encode::write_line(out, name, value, None),
        // Section 4.5.2: 1, T = 0, six bits of index relative to the base.
        Form::Line(index) => integer::write(out, 0b1000_0000, 6, length(base - index - 1)),
        // Section 4.5.4: 01 N, T = 0, four bits of index relative to the base.
        Form::Name(index) => {
            let pattern = 0b0100_0000 | never_indexed(name, 0b0010_0000);
            integer::write(out, pattern, 4, length(base - index - 1));
            encode_string(out, 0, 7, value);
        }
    }
}

fn error(reason: &'static str) -> H3Error {
    H3Error::Connection { code: ErrorCode::QPACK_DECODER_STREAM_ERROR, reason }
}

/// Indices and counts of a table of [`ENCODER_TABLE_BYTES_MAX`].
fn length(value: u64) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}
