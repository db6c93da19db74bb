//! Padding of received packets, taken off in one piece.
//!
//! A client fills up its first datagrams to 1,200 bytes (RFC 9000 section 14.1) and looks for the largest packet its path
//! carries with one more that is nothing but padding (section 14.4). A PADDING frame is a single zero byte, and
//! quinn-proto takes each for a frame of its own: some twenty nanoseconds a byte, a sixth of the CPU time of a connection
//! with a handshake and ten requests. The key that decrypts a packet is ours to wrap, and there the zeros that end a
//! packet go before anybody counts them.
//!
//! Invariants:
//! - Only whole PADDING frames go: zeros may as well be the end of another frame, so the frames before them are walked,
//!   and where one is of a kind that is not known here, or is torn, the packet stays as it is.
//! - The first packet of a connection is not trimmed ([`crate::tls::handshake`]): by its length quinn-proto counts what
//!   may be sent to an address that is not proven.
//! - A packet keeps at least one byte: one without any frame is a violation of the protocol (section 12.4), one of
//!   padding alone is not.
//! - What is left is a copy. quinn-proto limits the memory that pieces of streams hold by the length of their packet; a
//!   short packet within a long allocation would hold more than it counts.

use bytes::BytesMut;
use quinn_proto::crypto::{CryptoError, KeyPair, Keys, PacketKey};

/// Less padding than this costs about as much to walk as a copy of the rest does.
const PADDING_BYTES_MIN: usize = 48;

/// Lets the keys that decrypt take padding off.
pub(crate) fn trimming(keys: Keys) -> Keys {
    Keys { packet: trimming_pair(keys.packet), ..keys }
}

/// As [`trimming`], for keys of packets alone.
pub(crate) fn trimming_pair(keys: KeyPair<Box<dyn PacketKey>>) -> KeyPair<Box<dyn PacketKey>> {
    KeyPair { local: keys.local, remote: trimming_key(keys.remote) }
}

/// As [`trimming`], for a key that decrypts.
pub(crate) fn trimming_key(key: Box<dyn PacketKey>) -> Box<dyn PacketKey> {
    Box::new(Trimming(key))
}

struct Trimming(Box<dyn PacketKey>);

impl PacketKey for Trimming {
    fn encrypt(&self, packet: u64, buffer: &mut [u8], header_len: usize) {
        self.0.encrypt(packet, buffer, header_len);
    }

    fn decrypt(&self, packet: u64, header: &[u8], payload: &mut BytesMut) -> Result<(), CryptoError> {
        self.0.decrypt(packet, header, payload)?;
        if let Some(end) = padding_begins(payload) {
            *payload = BytesMut::from(&payload[..end]);
        }
        Ok(())
    }

    fn tag_len(&self) -> usize {
        self.0.tag_len()
    }

    fn confidentiality_limit(&self) -> u64 {
        self.0.confidentiality_limit()
    }

    fn integrity_limit(&self) -> u64 {
        self.0.integrity_limit()
    }
}

/// Where the padding at the end of a packet's payload begins, if there is enough of it to be worth the trouble.
fn padding_begins(payload: &[u8]) -> Option<usize> {
    let zeros = zeros_at_end(payload);
    if zeros < PADDING_BYTES_MIN {
        return None;
    }
    let (mut at, zeros_from) = (0, payload.len() - zeros);
    while at < zeros_from {
        at += frame_len(&payload[at..])?;
    }
    // The last frame may have taken some of the zeros.
    let end = at.max(1);
    (end + PADDING_BYTES_MIN <= payload.len()).then_some(end)
}

fn zeros_at_end(payload: &[u8]) -> usize {
    const STEP: usize = 32;
    let mut rest = payload;
    while let Some((before, last)) = rest.split_last_chunk::<STEP>()
        && *last == [0; STEP]
    {
        rest = before;
    }
    while let Some((0, before)) = rest.split_last() {
        rest = before;
    }
    payload.len() - rest.len()
}

/// Bytes that the frame takes with which `rest` begins (RFC 9000 section 19); `None` for one that is torn, that ends
/// with its packet, or that a client need not pad after.
fn frame_len(rest: &[u8]) -> Option<usize> {
    let mut reader = Reader { rest };
    let kind = reader.byte()?;
    match kind {
        // PADDING, PING, HANDSHAKE_DONE, and IMMEDIATE_ACK, by which quinn wants its probes answered at once
        // (draft-ietf-quic-ack-frequency)
        0x00 | 0x01 | 0x1e | 0x1f => {}
        // ACK, with counts of ECN or without
        0x02 | 0x03 => {
            reader.integers(2)?;
            let ranges = reader.integer()?;
            reader.integer()?;
            for _ in 0..ranges {
                reader.integers(2)?;
            }
            if kind == 0x03 {
                reader.integers(3)?;
            }
        }
        // RESET_STREAM
        0x04 => reader.integers(3)?,
        // STOP_SENDING, MAX_STREAM_DATA, STREAM_DATA_BLOCKED
        0x05 | 0x11 | 0x15 => reader.integers(2)?,
        // CRYPTO, NEW_TOKEN
        0x06 => {
            reader.integer()?;
            reader.prefixed()?;
        }
        0x07 => reader.prefixed()?,
        // STREAM with a length
        0x0a | 0x0b | 0x0e | 0x0f => {
            reader.integers(1 + usize::from(kind & 0x04 != 0))?;
            reader.prefixed()?;
        }
        // MAX_DATA, MAX_STREAMS, DATA_BLOCKED, STREAMS_BLOCKED, RETIRE_CONNECTION_ID
        0x10 | 0x12 | 0x13 | 0x14 | 0x16 | 0x17 | 0x19 => reader.integers(1)?,
        // NEW_CONNECTION_ID
        0x18 => {
            reader.integers(2)?;
            let id = reader.byte()?;
            reader.skip(u64::from(id) + 16)?;
        }
        // PATH_CHALLENGE, PATH_RESPONSE
        0x1a | 0x1b => reader.skip(8)?,
        _ => return None,
    }
    Some(rest.len() - reader.rest.len())
}

struct Reader<'a> {
    rest: &'a [u8],
}

impl Reader<'_> {
    fn byte(&mut self) -> Option<u8> {
        let (&byte, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(byte)
    }

    /// A variable-length integer (RFC 9000 section 16).
    fn integer(&mut self) -> Option<u64> {
        let first = self.byte()?;
        let mut value = u64::from(first & 0x3f);
        for _ in 1..1 << (first >> 6) {
            value = value << 8 | u64::from(self.byte()?);
        }
        Some(value)
    }

    fn integers(&mut self, count: usize) -> Option<()> {
        (0..count).try_for_each(|_| self.integer().map(drop))
    }

    fn skip(&mut self, bytes: u64) -> Option<()> {
        self.rest = self.rest.get(usize::try_from(bytes).ok()?..)?;
        Some(())
    }

    /// Bytes after their length.
    fn prefixed(&mut self) -> Option<()> {
        let bytes = self.integer()?;
        self.skip(bytes)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn integer(value: u64) -> Vec<u8> {
        match value {
            0..0x40 => vec![value.to_be_bytes()[7]],
            0x40..0x4000 => (value | 0x4000).to_be_bytes()[6..].to_vec(),
            0x4000..0x4000_0000 => (value | 0x8000_0000).to_be_bytes()[4..].to_vec(),
            _ => (value | 0xc000_0000_0000_0000).to_be_bytes().to_vec(),
        }
    }

    fn any_integer() -> impl Strategy<Value = u64> {
        (any::<u64>(), 2..64_u32).prop_map(|(value, shift)| value >> shift)
    }

    fn integers(kind: u8, count: usize) -> BoxedStrategy<Vec<u8>> {
        prop::collection::vec(any_integer(), count)
            .prop_map(move |values| [vec![kind], values.into_iter().flat_map(integer).collect()].concat())
            .boxed()
    }

    fn data() -> impl Strategy<Value = Vec<u8>> {
        // Data that ends with zeros is what must not be mistaken for padding.
        (prop::collection::vec(any::<u8>(), 0..20), 0..100_usize)
            .prop_map(|(bytes, zeros)| [bytes, vec![0; zeros]].concat())
    }

    fn prefixed(head: BoxedStrategy<Vec<u8>>) -> BoxedStrategy<Vec<u8>> {
        (head, data()).prop_map(|(head, data)| [head, integer(data.len() as u64), data].concat()).boxed()
    }

    fn ack(with_ecn: bool) -> BoxedStrategy<Vec<u8>> {
        let counts = if with_ecn { 3 } else { 0 };
        let part = |count| prop::collection::vec(any_integer(), count);
        (part(2), 0..5_usize, any_integer())
            .prop_flat_map(move |(first, ranges, range)| {
                (Just((first, ranges, range)), part(2 * ranges), part(counts))
            })
            .prop_map(move |((first, ranges, range), rest, counts)| {
                let numbers = [first, vec![ranges as u64, range], rest, counts].concat();
                [vec![2 + u8::from(with_ecn)], numbers.into_iter().flat_map(integer).collect()].concat()
            })
            .boxed()
    }

    fn new_connection_id() -> BoxedStrategy<Vec<u8>> {
        let tail = prop::collection::vec(any::<u8>(), 1..=20).prop_flat_map(|id| {
            prop::collection::vec(prop::bool::ANY.prop_map(u8::from), 16)
                .prop_map(move |token| [integer(id.len() as u64), id.clone(), token].concat())
        });
        (integers(0x18, 2), tail).prop_map(|(head, tail)| [head, tail].concat()).boxed()
    }

    fn frame() -> impl Strategy<Value = Vec<u8>> {
        let fixed = |kind: u8, len: usize| {
            prop::collection::vec(any::<u8>(), len).prop_map(move |rest| [vec![kind], rest].concat()).boxed()
        };
        let mut all = vec![
            fixed(0x00, 0),
            fixed(0x01, 0),
            fixed(0x1e, 0),
            fixed(0x1f, 0),
            fixed(0x1a, 8),
            fixed(0x1b, 8),
        ];
        all.extend([ack(false), ack(true), new_connection_id(), integers(0x04, 3)]);
        all.extend([0x05, 0x11, 0x15].map(|kind| integers(kind, 2)));
        all.extend([0x10, 0x12, 0x13, 0x14, 0x16, 0x17, 0x19].map(|kind| integers(kind, 1)));
        all.extend([prefixed(integers(0x06, 1)), prefixed(integers(0x07, 0))]);
        all.extend([0x0a, 0x0b].map(|kind| prefixed(integers(kind, 1))));
        all.extend([0x0e, 0x0f].map(|kind| prefixed(integers(kind, 2))));
        prop::strategy::Union::new(all)
    }

    /// A frame that nobody can tell from padding but by what came before, or that ends with its packet.
    fn last_frame() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![
            Just(vec![0x08, 0x04]),
            Just(vec![0x0c, 0x04, 0x40, 0x00]),
            Just(vec![0x30]),
            Just(vec![0x1c, 0, 0, 0]),
            Just(vec![0x40, 0x06]),
        ]
    }

    proptest! {
        #[test]
        fn padding_goes_and_nothing_else(frames in prop::collection::vec(frame(), 0..8), padding in 0..1500_usize) {
            let frames = frames.concat();
            let kept = frames.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
            let payload = [frames.clone(), vec![0; padding]].concat();
            match padding_begins(&payload) {
                // Padding in the midst of the frames may be the end of them, too.
                Some(end) => prop_assert!(end >= kept.max(1) && end <= frames.len().max(1)),
                None => prop_assert!(padding < PADDING_BYTES_MIN + 1),
            }
        }

        #[test]
        fn a_frame_that_ends_with_its_packet_keeps_its_zeros(
            frames in prop::collection::vec(frame(), 0..4), last in last_frame(), zeros in 0..1500_usize,
        ) {
            let payload = [frames.concat(), last, vec![0; zeros]].concat();
            prop_assert_eq!(padding_begins(&payload), None);
        }

        #[test]
        fn of_anything_at_all_only_zeros_go(bytes in data(), zeros in 0..300_usize) {
            let payload = [bytes, vec![0; zeros]].concat();
            if let Some(end) = padding_begins(&payload) {
                prop_assert!(end > 0 && payload[end..].iter().all(|&byte| byte == 0));
            }
        }
    }

    #[test]
    fn a_probe_for_a_larger_packet_is_all_but_gone() {
        let mut probe = vec![0; 1_424];
        assert_eq!(padding_begins(&probe), Some(1));
        probe[0] = 0x01;
        assert_eq!(padding_begins(&probe), Some(1));
        probe[1] = 0x1f;
        assert_eq!(padding_begins(&probe), Some(2));
    }

    #[test]
    fn zeros_of_a_frame_are_its_own() {
        // CRYPTO at 0, 100 bytes, all zero.
        let payload = [&[0x06, 0, 0x40, 100][..], &[0; 100 + 60]].concat();
        assert_eq!(padding_begins(&payload), Some(104));
        // One byte short of what it says: torn.
        assert_eq!(padding_begins(&payload[..103]), None);
        assert_eq!(padding_begins(&[]), None);
    }
}
