//! Answers as they go onto a stream: their frames, in pieces, and how far writing came.

use bytes::Bytes;
use quinn_proto as qp;
use quinn_proto::StreamId;
use sluice_protocols::h3;
use sluice_protocols::http::Response;
use sluice_protocols::qpack;
use smallvec::{SmallVec, smallvec};

/// Bodies up to this length are sent in one piece with their head.
const INLINE_BODY_BYTES_MAX: usize = 4096;

/// What is to be written, in order.
pub(super) type Pieces = SmallVec<[Bytes; 2]>;

/// Bytes of them all.
pub(super) fn len(pieces: &Pieces) -> usize {
    pieces.iter().map(Bytes::len).sum()
}

/// How far writing came.
#[derive(PartialEq, Eq)]
pub(super) enum Written {
    All,
    /// The client must make room first.
    Blocked,
    /// The client does not want it any more.
    Refused,
}

/// Writes as much as the client has room for, and ends the stream behind the
/// last piece when asked to. What was taken is cut off.
pub(super) fn write_pieces(
    quic: &mut qp::Connection,
    id: StreamId,
    pieces: &mut Pieces,
    finish: bool,
) -> Written {
    let mut stream = quic.send_stream(id);
    let mut done = 0;
    while done < pieces.len() {
        // It is asked until it has no room at all: only then does it tell when
        // there is some.
        match stream.write_chunks(&mut pieces[done..]) {
            Ok(written) => done += written.chunks,
            Err(qp::WriteError::Blocked) => {
                pieces.drain(..done);
                return Written::Blocked;
            }
            Err(qp::WriteError::Stopped(_) | qp::WriteError::ClosedStream) => return Written::Refused,
        }
    }
    if finish {
        // The client may have stopped the stream meanwhile, which is no loss.
        let _ = stream.finish();
    }
    Written::All
}

/// Puts frames together. Its memory is used again for each; what comes out has memory of exactly its
/// length, since quinn-proto holds it until it is acknowledged.
#[derive(Debug, Default)]
pub(crate) struct Writer {
    scratch: Vec<u8>,
    heads: qpack::ResponseEncoder,
}

impl Writer {
    /// The frames of an answer, in pieces ready for the stream. A body that is long is taken out of
    /// `response`.
    pub(super) fn whole(&mut self, response: &mut Response, is_head: bool) -> Pieces {
        let Self { scratch, heads } = self;
        let Response { status, fields, body } = &*response;
        // RFC 9110 section 8.6: no content-length where there can be no content.
        let has_length = !matches!(status, 204 | 304) && response.header("content-length").is_none();
        let length = has_length.then_some(body.len());
        scratch.clear();
        if h3::write_headers(scratch, |out| heads.encode(out, *status, fields, length)).is_err() {
            // A field that cannot be sent is a fault of ours, not of the client.
            tracing::error!(status, "answer with an invalid field");
            scratch.clear();
            let written = h3::write_headers(scratch, |out| heads.encode(out, 500, &[], None));
            debug_assert!(written.is_ok(), "a bare status always encodes");
            return smallvec![Bytes::copy_from_slice(scratch)];
        }
        // RFC 9110 section 6.4.1: these have no content, whatever the service gave them.
        if is_head || body.is_empty() || matches!(status, 204 | 304) {
            return smallvec![Bytes::copy_from_slice(scratch)];
        }
        h3::write_data_header(scratch, body.len() as u64);
        if body.len() <= INLINE_BODY_BYTES_MAX {
            scratch.extend_from_slice(body);
            return smallvec![Bytes::copy_from_slice(scratch)];
        }
        smallvec![Bytes::copy_from_slice(scratch), std::mem::take(&mut response.body)]
    }

    /// The head of an answer whose body comes in pieces; `None` when a field of it cannot be sent.
    pub(super) fn head(&mut self, head: &Response) -> Option<Pieces> {
        let Self { scratch, heads } = self;
        scratch.clear();
        h3::write_headers(scratch, |out| heads.encode(out, head.status, &head.fields, None)).ok()?;
        Some(smallvec![Bytes::copy_from_slice(scratch)])
    }

    /// A piece of a body as a frame.
    pub(super) fn piece(&mut self, piece: Bytes) -> Pieces {
        let scratch = &mut self.scratch;
        scratch.clear();
        h3::write_data_header(scratch, piece.len() as u64);
        if piece.len() <= INLINE_BODY_BYTES_MAX {
            scratch.extend_from_slice(&piece);
            return smallvec![Bytes::copy_from_slice(scratch)];
        }
        smallvec![Bytes::copy_from_slice(scratch), piece]
    }
}
