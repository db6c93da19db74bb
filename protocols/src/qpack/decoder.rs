//! Our decoder with its dynamic table (RFC 9204 sections 2.2, 4.3 and 4.4): the peer's encoder stream in,
//! heads and the instructions of our decoder stream out.
//!
//! Invariants:
//! - No stream ever waits for the table: a section that needs an insert which has not arrived is an error of
//!   the connection, since we announce 0 blocked streams (section 2.1.2).
//! - An instruction that is not whole is kept as far as it came, at most what the table may hold and two
//!   integers of ten bytes; it is looked at again only when as many bytes have come as it must have, so that
//!   bytes coming one by one cost no more than all at once.
//! - What comes out does not depend on how the encoder stream is cut into chunks.

use std::rc::Rc;

use super::decode::{self, HeadError, References, capacity, check_size, decode_lines, read_integer};
use super::integer::{self, IntegerError};
use super::table::{DynamicTable, LINE_OVERHEAD_BYTES, Line, Name};
use super::{huffman, static_table};
use crate::h3::{ErrorCode, H3Error};
use crate::http::{Fields, HeadBuilder, Limits, RequestHead};

/// A decoded field section.
#[derive(Debug)]
pub struct Decoded<T> {
    /// What it says.
    pub head: T,
    /// Whether its Required Insert Count was above 0, so that the peer must be told that it was decoded:
    /// [`Decoder::write_section_acknowledgment`] (RFC 9204 section 4.4.1).
    pub refers_to_table: bool,
}

/// The peer's dynamic table, and how far the peer knows that we have it.
#[derive(Debug)]
pub struct Decoder {
    table: DynamicTable,
    /// The beginning of an instruction.
    partial: Vec<u8>,
    /// How many bytes it must have at least before it is worth another look.
    partial_bytes_min: usize,
    /// Inserts that we have acknowledged, or will have with what the caller was told to write.
    acknowledged: u64,
    /// Size of the last head that referred to the table: a guess at that of the next.
    head_bytes: usize,
    failed: Option<H3Error>,
}

impl Decoder {
    /// A decoder that announces tables of up to `capacity_max` bytes (`QPACK_MAX_TABLE_CAPACITY`) and 0
    /// blocked streams. The table itself begins with capacity 0 and takes no memory.
    pub fn new(capacity_max: usize) -> Self {
        Self {
            table: DynamicTable::new(capacity_max),
            partial: Vec::new(),
            partial_bytes_min: 0,
            acknowledged: 0,
            head_bytes: 0,
            failed: None,
        }
    }

    /// Takes what came on the peer's encoder stream, behind its type. Errors concern the connection and are
    /// all `QPACK_ENCODER_STREAM_ERROR`; after one, each further call says the same.
    pub fn feed(&mut self, chunk: &[u8]) -> Result<(), H3Error> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        self.take(chunk).map_err(|reason| {
            let error = H3Error::Connection { code: ErrorCode::QPACK_ENCODER_STREAM_ERROR, reason };
            self.failed = Some(error);
            error
        })
    }

    /// Whether the peer may refer to the table: it has inserted something.
    pub fn is_in_use(&self) -> bool {
        self.table.inserted() > 0
    }

    /// Decodes the field section of a request's head. Two allocations: the head and its arena.
    ///
    /// # Errors
    /// As [`super::decode_request`]; then nothing is to be acknowledged, and a stream that is given up over
    /// it is to be cancelled.
    pub fn decode_request(
        &mut self,
        section: &[u8],
        limits: &Limits,
    ) -> Result<Decoded<RequestHead>, HeadError> {
        let mut builder = HeadBuilder::request(limits, self.room(section));
        let refers_to_table = self.decode(section, limits, &mut builder)?;
        Ok(Decoded { head: builder.finish_request()?, refers_to_table })
    }

    /// Decodes the field section of trailers; see [`Self::decode_request`].
    pub fn decode_trailers(&mut self, section: &[u8], limits: &Limits) -> Result<Decoded<Fields>, HeadError> {
        let mut builder = HeadBuilder::trailers(limits, self.room(section));
        let refers_to_table = self.decode(section, limits, &mut builder)?;
        Ok(Decoded { head: builder.finish_trailers(), refers_to_table })
    }

    /// Appends an acknowledgment of a section of this stream (RFC 9204 section 4.4.1): 1, seven bits of
    /// stream identifier. Due once for each section with [`Decoded::refers_to_table`].
    pub fn write_section_acknowledgment(&self, out: &mut Vec<u8>, stream_id: u64) {
        integer::write(out, 0b1000_0000, 7, length(stream_id));
    }

    /// Appends a cancellation of this stream (RFC 9204 section 4.4.2): 01, six bits of stream identifier.
    /// Due when a request stream is reset or given up before its end while the table [is in
    /// use](Self::is_in_use).
    pub fn write_stream_cancellation(&self, out: &mut Vec<u8>, stream_id: u64) {
        integer::write(out, 0b0100_0000, 6, length(stream_id));
    }

    /// Appends how many inserts the peer does not know to have arrived, if there are any (RFC 9204 section
    /// 4.4.3): 00, six bits of increment. Before this the peer may not refer to them.
    pub fn write_insert_count_increment(&mut self, out: &mut Vec<u8>) {
        let increment = self.table.inserted() - self.acknowledged;
        if increment > 0 {
            integer::write(out, 0, 6, length(increment));
            self.acknowledged = self.table.inserted();
        }
    }

    fn room(&self, section: &[u8]) -> usize {
        match section.first() {
            Some(0) | None => capacity(section),
            Some(_) => capacity(section).max(self.head_bytes),
        }
    }

    fn decode(
        &mut self,
        mut section: &[u8],
        limits: &Limits,
        builder: &mut HeadBuilder,
    ) -> Result<bool, HeadError> {
        if section.first().is_none_or(|first| *first == 0) {
            decode::decode_section(section, limits, builder)?;
            return Ok(false);
        }
        check_size(section, limits)?;
        let required = self.required_insert_count(read_integer(8, &mut section)?)?;
        let base = read_base(required, &mut section)?;
        let view = View { table: &self.table, required, base };
        decode_lines(section, builder, &view)?;
        self.head_bytes = builder.arena_mut().len();
        self.acknowledged = self.acknowledged.max(required);
        Ok(true)
    }

    /// RFC 9204 section 4.5.1.1, for an encoded count above 0: it is sent modulo twice the number of lines
    /// the largest table can hold.
    fn required_insert_count(&self, encoded: u64) -> Result<u64, HeadError> {
        const INVALID: HeadError = HeadError::Decompression("invalid Required Insert Count");
        let inserted = self.table.inserted();
        let lines_max = (self.table.capacity_max() / LINE_OVERHEAD_BYTES) as u64;
        let range = 2 * lines_max;
        if encoded > range {
            return Err(INVALID);
        }
        let largest = inserted + lines_max;
        let mut required = largest / range * range + encoded - 1;
        if required > largest {
            required = required.checked_sub(range).ok_or(INVALID)?;
        }
        if required == 0 {
            return Err(INVALID);
        }
        // Section 2.1.2: the stream would be blocked, and none may be.
        if required > inserted {
            return Err(HeadError::Decompression("refers to inserts that have not arrived"));
        }
        Ok(required)
    }

    fn take(&mut self, mut chunk: &[u8]) -> Result<(), &'static str> {
        while !chunk.is_empty() {
            if self.partial.is_empty() {
                match self.step(chunk)? {
                    Step::Whole { bytes } => chunk = &chunk[bytes..],
                    Step::Partial { bytes_min } => {
                        self.partial = chunk.to_vec();
                        self.partial_bytes_min = bytes_min;
                        return Ok(());
                    }
                }
                continue;
            }
            let missing = self.partial_bytes_min.saturating_sub(self.partial.len());
            let (piece, rest) = chunk.split_at(missing.min(chunk.len()));
            self.partial.extend_from_slice(piece);
            chunk = rest;
            if self.partial.len() < self.partial_bytes_min {
                return Ok(());
            }
            let partial = std::mem::take(&mut self.partial);
            self.partial_bytes_min = 0;
            match self.step(&partial)? {
                // No more was added than it must have, so it ends where `partial` does.
                Step::Whole { bytes } => debug_assert_eq!(bytes, partial.len()),
                Step::Partial { bytes_min } => {
                    self.partial = partial;
                    self.partial_bytes_min = bytes_min;
                }
            }
        }
        Ok(())
    }

    /// Carries out the instruction at the front of `input`, if it is whole.
    fn step(&mut self, input: &[u8]) -> Result<Step, &'static str> {
        let string_bytes_max = self.table.capacity_max().saturating_sub(LINE_OVERHEAD_BYTES);
        let mut reader = Reader { input, at: 0, string_bytes_max };
        match self.carry_out(&mut reader) {
            Ok(()) => Ok(Step::Whole { bytes: reader.at }),
            Err(Stop::Partial { bytes_min }) => Ok(Step::Partial { bytes_min }),
            Err(Stop::Invalid(reason)) => Err(reason),
        }
    }

    fn carry_out(&mut self, reader: &mut Reader<'_>) -> Result<(), Stop> {
        const NO_ROOM: Stop = Stop::Invalid("more than the dynamic table may hold");
        let Some(&first) = reader.input.first() else { return Err(Stop::Partial { bytes_min: 1 }) };
        let line = match first >> 5 {
            // Section 4.3.2, insert with name reference: 1 T index(6), value.
            0b100..=0b111 => {
                let index = reader.integer(6)?;
                let value = reader.string(7)?;
                let name = if first & 0b0100_0000 == 0 {
                    self.relative(index)?.shared_name()
                } else {
                    let found = static_table::get(index);
                    Name::Static(found.ok_or(Stop::Invalid("no such line in the static table"))?.0)
                };
                Line::new(name, value.decode()?)
            }
            // Section 4.3.3, insert with literal name: 01 H length(5), name, value.
            0b010 | 0b011 => {
                let name = reader.string(5)?;
                let value = reader.string(7)?;
                Line::new(Name::Shared(name.decode()?), value.decode()?)
            }
            // Section 4.3.1, set dynamic table capacity: 001 capacity(5).
            0b001 => {
                let capacity = reader.integer(5)?;
                return self.table.set_capacity(capacity).map_err(|_| NO_ROOM);
            }
            // Section 4.3.4, duplicate: 000 index(5).
            _ => {
                let index = reader.integer(5)?;
                self.relative(index)?.clone()
            }
        };
        self.table.insert(line).map_err(|_| NO_ROOM)
    }

    /// The line an instruction refers to: index 0 is the one inserted last (RFC 9204 section 3.2.5).
    fn relative(&self, index: u64) -> Result<&Line, Stop> {
        let absolute = self.table.inserted().checked_sub(1).and_then(|last| last.checked_sub(index));
        absolute
            .and_then(|absolute| self.table.get(absolute))
            .ok_or(Stop::Invalid("no such line in the dynamic table"))
    }
}

/// How far an instruction got.
enum Step {
    Whole {
        bytes: usize,
    },
    /// It has at least this many bytes, more than are there.
    Partial {
        bytes_min: usize,
    },
}

enum Stop {
    Partial { bytes_min: usize },
    Invalid(&'static str),
}

/// Reads the parts of one instruction. Strings are decoded when all of it is there.
struct Reader<'a> {
    input: &'a [u8],
    at: usize,
    string_bytes_max: usize,
}

impl<'a> Reader<'a> {
    fn integer(&mut self, prefix_bits: u32) -> Result<u64, Stop> {
        let mut rest = &self.input[self.at..];
        let value = integer::read(prefix_bits, &mut rest).map_err(|error| match error {
            IntegerError::CutShort => Stop::Partial { bytes_min: self.input.len() + 1 },
            IntegerError::TooLarge => Stop::Invalid("integer is too large"),
        })?;
        self.at = self.input.len() - rest.len();
        Ok(value)
    }

    /// RFC 9204 section 4.1.2. A string is refused by its announced length when it cannot fit the table,
    /// or is Huffman code that takes more room than all it might stand for: either is no longer than the
    /// text where an encoder takes the shorter form. The strings of one instruction share that bound, so it
    /// is one of what is kept, too.
    fn string(&mut self, prefix_bits: u32) -> Result<Text<'a>, Stop> {
        let is_huffman = self.input.get(self.at).is_some_and(|byte| byte >> prefix_bits & 1 == 1);
        let announced = self.integer(prefix_bits)?;
        let length = usize::try_from(announced).unwrap_or(usize::MAX);
        if length > self.string_bytes_max {
            return Err(Stop::Invalid("line is longer than the dynamic table may hold"));
        }
        self.string_bytes_max -= length;
        let end = self.at + length;
        let bytes = self.input.get(self.at..end).ok_or(Stop::Partial { bytes_min: end })?;
        self.at = end;
        Ok(Text { bytes, is_huffman })
    }
}

struct Text<'a> {
    bytes: &'a [u8],
    is_huffman: bool,
}

impl Text<'_> {
    fn decode(&self) -> Result<Rc<[u8]>, Stop> {
        if !self.is_huffman {
            return Ok(self.bytes.into());
        }
        let mut text = Vec::new();
        huffman::decode(self.bytes, &mut text).map_err(|_| Stop::Invalid("invalid Huffman code"))?;
        Ok(text.as_slice().into())
    }
}

/// What one section may refer to.
struct View<'a> {
    table: &'a DynamicTable,
    required: u64,
    base: u64,
}

impl View<'_> {
    /// RFC 9204 section 2.2.1: a section that refers to a line at or above its Required Insert Count, or to
    /// one that was dropped, fails to decompress.
    #[inline]
    fn absolute(&self, index: Option<u64>) -> Result<&Line, HeadError> {
        index
            .filter(|absolute| *absolute < self.required)
            .and_then(|absolute| self.table.get(absolute))
            .ok_or(HeadError::Decompression("no such line in the dynamic table"))
    }
}

impl References for View<'_> {
    #[inline]
    fn relative(&self, index: u64) -> Result<&Line, HeadError> {
        self.absolute(self.base.checked_sub(1).and_then(|last| last.checked_sub(index)))
    }

    #[inline]
    fn post_base(&self, index: u64) -> Result<&Line, HeadError> {
        self.absolute(self.base.checked_add(index))
    }
}

/// RFC 9204 section 4.5.1.2: sign bit, and seven bits of the distance from the Required Insert Count.
fn read_base(required: u64, section: &mut &[u8]) -> Result<u64, HeadError> {
    let is_below = section.first().is_some_and(|byte| byte & 0x80 != 0);
    let delta = read_integer(7, section)?;
    let base = if is_below {
        required.checked_sub(delta).and_then(|above| above.checked_sub(1))
    } else {
        required.checked_add(delta)
    };
    base.ok_or(HeadError::Decompression("negative base"))
}

/// What is written is a stream identifier or a number of inserts: 62 bits at most.
fn length(value: u64) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}
