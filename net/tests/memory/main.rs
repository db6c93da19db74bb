//! What clients can make a core keep, counted in bytes allocated on its thread.

mod counting;
mod half_open;
mod http3;
mod idle;
mod server;
mod tampering;
mod tcp;
mod transport_frames;

#[global_allocator]
static ALLOCATOR: counting::Counting = counting::Counting;

/// A number of QUIC's (RFC 9000 section 16), below 2^30.
fn varint(value: u64) -> Vec<u8> {
    match value {
        0..=0x3f => vec![u8::try_from(value).unwrap()],
        0x40..=0x3fff => (u16::try_from(value).unwrap() | 0x4000).to_be_bytes().to_vec(),
        _ => (u32::try_from(value).unwrap() | 0x8000_0000).to_be_bytes().to_vec(),
    }
}
