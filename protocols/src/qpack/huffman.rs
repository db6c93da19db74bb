//! The Huffman code of HPACK and QPACK (RFC 7541 section 5.2 and appendix B).
//!
//! The code is canonical: codes of one length are consecutive numbers in the order of their symbols, so the
//! table of lengths is all there is to know, and everything else is computed from it at compile time.
//!
//! Decoding looks up 13 bits at a time, which yields two symbols more often than not (bearer tokens: 6.4
//! bits a symbol), since the time goes into the chain from one lookup to the next. Longer codes belong to
//! symbols that hardly occur in fields and take a slower way.

/// RFC 7541 appendix B: length in bits of the code of each byte, and of the end-of-string symbol.
#[rustfmt::skip]
const LENGTHS: [u8; 257] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28,
    28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 28,
     6, 10, 10, 12, 13,  6,  8, 11, 10, 10,  8, 11,  8,  6,  6,  6,
     5,  5,  5,  6,  6,  6,  6,  6,  6,  6,  7,  8, 15,  6, 12, 10,
    13,  6,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,
     7,  7,  7,  7,  7,  7,  7,  7,  8,  7,  8, 13, 19, 13, 14,  6,
    15,  5,  6,  5,  6,  5,  6,  6,  6,  5,  7,  7,  6,  6,  6,  5,
     6,  7,  6,  5,  5,  6,  7,  7,  7,  7,  7, 15, 11, 14, 13, 28,
    20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23,
    24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24,
    22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23,
    21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25,
    19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27,
    20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23,
    26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26,
    30,
];

const END_OF_STRING: usize = 256;
const LENGTH_MAX: usize = 30;

/// How many bits one lookup covers. Table size: 2^13 * 4 = 32 KiB.
const LOOKUP_BITS: u32 = 13;
const LOOKUP_LEN: usize = 1 << LOOKUP_BITS;

/// Lookups between two refills: a refill leaves at least 56 bits.
const LOOKUPS_PER_REFILL: usize = 56 / LOOKUP_BITS as usize;

/// Symbols between two refills: two a lookup. They are written at once, so as many bytes must follow the
/// last one.
const OVERHANG: usize = 2 * LOOKUPS_PER_REFILL;
const _: () = assert!(OVERHANG == size_of::<u64>());

/// Fewest bits a symbol takes, for the largest possible expansion.
const LENGTH_MIN: usize = 5;

#[derive(Clone, Copy)]
struct Code {
    bits: u32,
    length: u8,
}

static CODES: [Code; 257] = codes();
static LOOKUP: [Entry; LOOKUP_LEN] = lookup();
static CANONICAL: Canonical = canonical();

/// The string is not Huffman code: it holds the end-of-string symbol, or its padding is not a shorter part
/// of it (RFC 7541 section 5.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct InvalidCode;

/// How many bytes [`encode`] appends for `text`.
pub(super) fn encoded_len(text: &[u8]) -> usize {
    let bits: usize = text.iter().map(|&byte| usize::from(LENGTHS[usize::from(byte)])).sum();
    bits.div_ceil(8)
}

/// Appends the code of `text`.
pub(super) fn encode(out: &mut Vec<u8>, text: &[u8]) {
    let mut pending: u64 = 0;
    let mut pending_bits: u32 = 0;
    for &byte in text {
        let code = CODES[usize::from(byte)];
        // At most 31 bits are pending and a code has at most 30.
        pending = pending << code.length | u64::from(code.bits);
        pending_bits += u32::from(code.length);
        if pending_bits >= 32 {
            pending_bits -= 32;
            out.extend_from_slice(&low_u32(pending >> pending_bits).to_be_bytes());
        }
    }
    // RFC 7541 section 5.2: the last byte is filled up with the beginning of end-of-string, which is all
    // ones.
    let bytes = pending_bits.div_ceil(8);
    let fill = bytes * 8 - pending_bits;
    let last = pending << fill | ((1 << fill) - 1);
    let last = low_u32(last << (32 - bytes * 8)).to_be_bytes();
    out.extend_from_slice(&last[..bytes as usize]);
}

/// Appends what `code` stands for to `out`: at most 8/5 of its length, which the caller has bounded.
pub(super) fn decode(code: &[u8], out: &mut Vec<u8>) -> Result<(), InvalidCode> {
    let start = out.len();
    out.resize(start + code.len() * 8 / LENGTH_MIN + OVERHANG, 0);
    let text = &mut out[start..];
    let mut input = Input { code, window: 0, window_bits: 0 };
    let mut written = 0;
    loop {
        input.refill();
        if input.is_padding() {
            break;
        }
        let (symbols, count) = decode_window(&mut input)?;
        text[written..written + OVERHANG].copy_from_slice(&symbols);
        written += count;
    }
    out.truncate(start + written);
    Ok(())
}

/// Code that is yet to be decoded.
struct Input<'a> {
    code: &'a [u8],
    /// The next bits, from the high end down.
    window: u64,
    /// How many of them are taken from `code`. Those behind are what follows in `code`, or 0; at its end, 1.
    window_bits: u32,
}

impl Input<'_> {
    /// Fills the window to at least 56 bits, or with all that is left.
    #[inline]
    fn refill(&mut self) {
        let next = match self.code.first_chunk() {
            Some(next) => u64::from_be_bytes(*next),
            None => last_bytes(self.code),
        };
        self.window |= next >> self.window_bits;
        // Never to 64 bits, which could not be shifted by.
        let room_bytes = (63 - self.window_bits) / 8;
        match self.code.get(room_bytes as usize..) {
            Some(rest) => {
                self.code = rest;
                self.window_bits += room_bytes * 8;
            }
            None => {
                self.window_bits += u32::try_from(self.code.len()).unwrap_or(0) * 8;
                self.code = &[];
            }
        }
    }

    /// RFC 7541 section 5.2: at the end fewer than eight bits are left, all ones.
    #[inline]
    fn is_padding(&self) -> bool {
        self.window_bits < 8 && self.window == u64::MAX
    }

    #[inline]
    fn skip(&mut self, bits: u32) {
        self.window <<= bits;
        self.window_bits -= bits;
    }
}

/// Fewer than eight bytes, with ones behind them.
fn last_bytes(code: &[u8]) -> u64 {
    code.iter().rev().fold(u64::MAX, |bits, &byte| bits >> 8 | u64::from(byte) << 56)
}

/// Decodes most of a freshly filled window: one to eight symbols, and how many.
#[inline]
fn decode_window(input: &mut Input<'_>) -> Result<([u8; OVERHANG], usize), InvalidCode> {
    let (mut window, mut symbols, mut symbol_bits, mut used) = (input.window, 0u64, 0, 0);
    for _ in 0..LOOKUPS_PER_REFILL {
        let entry = LOOKUP[(window >> (64 - LOOKUP_BITS)) as usize];
        if entry.is_long() || used + entry.length() > input.window_bits {
            break;
        }
        // Shifts by the low six bits of the entry, which are its length, without a step to isolate them.
        window = window.wrapping_shl(entry.0);
        symbols |= u64::from(entry.symbols()) << symbol_bits;
        symbol_bits += entry.count() * 8;
        used += entry.length();
    }
    if used == 0 {
        let (symbol, length) = decode_one(input)?;
        (symbols, symbol_bits, used) = (u64::from(symbol), 8, length);
    }
    input.skip(used);
    Ok((symbols.to_le_bytes(), (symbol_bits / 8) as usize))
}

/// The first symbol of the window, whatever its length, and that length: for long codes, and for the last
/// symbol of a string, whose lookup takes padding for a second one.
fn decode_one(input: &Input<'_>) -> Result<(u8, u32), InvalidCode> {
    let entry = LOOKUP[(input.window >> (64 - LOOKUP_BITS)) as usize];
    let (symbol, length) = if entry.is_long() {
        decode_long(input.window)?
    } else {
        (entry.first_symbol(), entry.first_length())
    };
    if length > input.window_bits {
        return Err(InvalidCode);
    }
    Ok((symbol, length))
}

/// The symbol at the high end of `window`, whatever its length.
#[cold]
fn decode_long(window: u64) -> Result<(u8, u32), InvalidCode> {
    for length in LENGTH_MIN..=LENGTH_MAX {
        let code = low_u32(window >> (64 - length));
        let rank = code.wrapping_sub(CANONICAL.first_code[length]);
        if rank < CANONICAL.count[length] {
            let symbol = CANONICAL.symbols[(CANONICAL.first_index[length] + rank) as usize];
            // End-of-string has no byte: RFC 7541 section 5.2 wants it refused.
            let symbol = u8::try_from(symbol).map_err(|_| InvalidCode)?;
            return Ok((symbol, u32::from(LENGTHS[usize::from(symbol)])));
        }
    }
    Err(InvalidCode)
}

#[allow(clippy::cast_possible_truncation, reason = "the low half is what is asked for")]
const fn low_u32(value: u64) -> u32 {
    value as u32
}

/// What the next 13 bits stand for. From the low end: 6 bits of length of all symbols, 2 bits of their
/// number, the first symbol, the second, 4 bits of length of the first alone. 0: the code is longer.
#[derive(Clone, Copy)]
struct Entry(u32);

impl Entry {
    const LONG: Self = Self(0);

    const fn one(symbol: u8, length: u32) -> Self {
        Self(length | 1 << 6 | (symbol as u32) << 8 | length << 24)
    }

    const fn and(self, second: Self) -> Self {
        let length = self.length() + second.length();
        Self(length | 2 << 6 | (self.0 & 0xff00) | (second.0 & 0xff00) << 8 | self.length() << 24)
    }

    const fn is_long(self) -> bool {
        self.0 == 0
    }

    const fn length(self) -> u32 {
        self.0 & 0x3f
    }

    const fn count(self) -> u32 {
        self.0 >> 6 & 0x3
    }

    const fn first_length(self) -> u32 {
        self.0 >> 24
    }

    const fn first_symbol(self) -> u8 {
        self.0.to_le_bytes()[1]
    }

    /// The first symbol in the low byte, the second above it, 0 if there is none.
    const fn symbols(self) -> u16 {
        let [_, first, second, _] = self.0.to_le_bytes();
        u16::from_le_bytes([first, second])
    }
}

/// The code by length: its symbols in canonical order, and where each length begins.
struct Canonical {
    symbols: [u16; 257],
    first_code: [u32; LENGTH_MAX + 1],
    first_index: [u32; LENGTH_MAX + 1],
    count: [u32; LENGTH_MAX + 1],
}

#[allow(clippy::cast_possible_truncation, reason = "symbols go up to 256")]
const fn canonical() -> Canonical {
    let mut table = Canonical {
        symbols: [0; 257],
        first_code: [0; LENGTH_MAX + 1],
        first_index: [0; LENGTH_MAX + 1],
        count: [0; LENGTH_MAX + 1],
    };
    let (mut code, mut index, mut length) = (0, 0, 1);
    while length <= LENGTH_MAX {
        code <<= 1;
        table.first_code[length] = code;
        table.first_index[length] = index;
        let mut symbol = 0;
        while symbol < LENGTHS.len() {
            if LENGTHS[symbol] as usize == length {
                table.symbols[index as usize] = symbol as u16;
                table.count[length] += 1;
                index += 1;
                code += 1;
            }
            symbol += 1;
        }
        length += 1;
    }
    // The last code of a complete code is all ones, and here it is end-of-string.
    assert!(code == 1 << LENGTH_MAX && table.symbols[256] as usize == END_OF_STRING);
    table
}

#[allow(clippy::cast_possible_truncation, reason = "the index goes up to 256")]
const fn codes() -> [Code; 257] {
    let canonical = canonical();
    let mut codes = [Code { bits: 0, length: 0 }; 257];
    let mut index = 0;
    while index < codes.len() {
        let symbol = canonical.symbols[index] as usize;
        let length = LENGTHS[symbol] as usize;
        let bits = canonical.first_code[length] + (index as u32 - canonical.first_index[length]);
        codes[symbol] = Code { bits, length: LENGTHS[symbol] };
        index += 1;
    }
    codes
}

const fn lookup() -> [Entry; LOOKUP_LEN] {
    let singles = lookup_singles();
    let mut table = singles;
    let mut window = 0;
    while window < LOOKUP_LEN {
        let first = singles[window];
        if !first.is_long() {
            let rest = window << first.length() & (LOOKUP_LEN - 1);
            let second = singles[rest];
            if !second.is_long() && first.length() + second.length() <= LOOKUP_BITS {
                table[window] = first.and(second);
            }
        }
        window += 1;
    }
    table
}

#[allow(clippy::cast_possible_truncation, reason = "symbols below end-of-string are bytes")]
const fn lookup_singles() -> [Entry; LOOKUP_LEN] {
    let codes = codes();
    let mut table = [Entry::LONG; LOOKUP_LEN];
    let mut symbol = 0;
    while symbol < END_OF_STRING {
        let length = codes[symbol].length as u32;
        if length <= LOOKUP_BITS {
            // All windows that begin with this code.
            let free = LOOKUP_BITS - length;
            let first = (codes[symbol].bits as usize) << free;
            let mut window = first;
            while window < first + (1 << free) {
                table[window] = Entry::one(symbol as u8, length);
                window += 1;
            }
        }
        symbol += 1;
    }
    table
}
