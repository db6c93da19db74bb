//! QUIC on one core: quinn-proto driven straight from the reactor's turn, with
//! no task, lock or channel in between.

pub(crate) mod driver;
pub mod listen;
pub(crate) mod networks;
pub(crate) mod outlet;
pub(crate) mod padding;
pub mod steering;

use std::time::Duration;

use quinn_proto::{IdleTimeout, MtuDiscoveryConfig, TransportConfig, VarInt};

/// Bytes a peer may send on all streams of a connection before we read them.
const CONNECTION_WINDOW_BYTES: u32 = 1 << 20;
/// Bytes a peer may send on one stream before we read them.
const STREAM_WINDOW_BYTES: u32 = 256 << 10;
/// Bytes we hold for a connection that the peer has not acknowledged.
const SEND_WINDOW_BYTES: u64 = 1 << 20;
/// HTTP/3 needs three unidirectional streams (RFC 9114 section 6.2); a few more
/// leave room for reserved types that come and go.
const UNI_STREAMS_MAX: u32 = 8;

/// Step of the search for the largest packet. Just over half the way from 1,200
/// to 1,452 bytes: the first probe asks for all that an Ethernet path carries,
/// and 1,325 comes next where that is lost. Halving the way down to 20 bytes, as
/// is the default, costs a small connection four full packets each way.
const MTU_STEP_BYTES: u16 = 127;
/// Requests a client may have open before it has shown that it wants more. What
/// quinn-proto keeps for a connection grows with the streams it allows, used or
/// not: about 100 bytes each, and 360 more once each was used. Most connections
/// never have more than a few open, and pay for those alone.
const STREAMS_FIRST_MAX: u32 = 12;
/// With this many open a client is given all the streams there are: early enough
/// for the word to arrive before it has to wait.
pub(crate) const STREAMS_WIDEN_AT: usize = 6;
const _: () = assert!(STREAMS_WIDEN_AT < STREAMS_FIRST_MAX as usize);
/// The least time between two stateless resets of a core. After a crash every client that was connected should learn of
/// it well before its idle timeout (30 s): at this pace 12,500 on a core, a hundred thousand over eight, take 12.5 s;
/// with the 20 ms that are quinn-proto's default they would take four minutes.
pub(crate) const RESET_INTERVAL: Duration = Duration::from_millis(1);

/// Transport limits of both sides; `streams_max` bounds the peer's requests.
pub(crate) fn transport(streams_max: u32, idle: Duration) -> TransportConfig {
    let mut config = TransportConfig::default();
    let mut mtu_discovery = MtuDiscoveryConfig::default();
    mtu_discovery.minimum_change(MTU_STEP_BYTES);
    config
        .max_concurrent_bidi_streams(VarInt::from_u32(streams_max.min(STREAMS_FIRST_MAX)))
        .max_concurrent_uni_streams(VarInt::from_u32(UNI_STREAMS_MAX))
        .receive_window(VarInt::from_u32(CONNECTION_WINDOW_BYTES))
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW_BYTES))
        .send_window(SEND_WINDOW_BYTES)
        .send_fairness(false)
        .datagram_receive_buffer_size(None)
        .mtu_discovery_config(Some(mtu_discovery))
        .max_idle_timeout(IdleTimeout::try_from(idle).ok());
    config
}
