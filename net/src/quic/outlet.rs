//! Where a driver's packets leave.
//!
//! The driver fills buffers that belong to whoever sends them, so that nothing
//! is copied in between: slots of the core's ring behind sockets, plain vectors
//! where a test is the network.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use sluice_core::udp::{SendBuffer, SendMeta};

use super::listen::ListenerId;

/// Takes the packets of a turn.
pub(crate) trait Outlet {
    /// Holds one train of datagrams. Dropped unsent, it goes back where it came
    /// from.
    type Buffer;

    /// An empty buffer; `None` when there is none until later.
    fn acquire(&mut self) -> Option<Self::Buffer>;

    /// The bytes of the train.
    fn bytes(buffer: &mut Self::Buffer) -> &mut Vec<u8>;

    /// Sends what was written, by one of the core's sockets.
    fn send(&mut self, listener: ListenerId, meta: &SendMeta, buffer: Self::Buffer);
}

/// Sockets of this core, looked up by the listener they belong to.
pub(crate) struct Sockets<F>(pub(crate) F);

impl<'a, F: Fn(ListenerId) -> &'a Arc<OwnedFd>> Outlet for Sockets<F> {
    type Buffer = SendBuffer;

    fn acquire(&mut self) -> Option<SendBuffer> {
        SendBuffer::acquire()
    }

    fn bytes(buffer: &mut SendBuffer) -> &mut Vec<u8> {
        buffer.bytes()
    }

    fn send(&mut self, listener: ListenerId, meta: &SendMeta, buffer: SendBuffer) {
        buffer.send((self.0)(listener), meta);
    }
}
