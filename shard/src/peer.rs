//! Requests that came to a core which does not own their user, on their way to the one that does.
//!
//! Who asks is either still to be checked by the owner (API keys) or was proven by the first core (tokens, which tell no
//! owner before they were checked); it crosses beside the request, where no client can put it.
//!
//! Invariants: a request hops at most once; it is answered exactly once, by whoever it reached last. A body in pieces,
//! either way, crosses as its reading end: pieces go from end to end past the mailboxes, bounded for each body
//! ([`sluice_net::body`]), and either end learns that the other has gone.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Instant;

use bytes::Bytes;
use sluice_core::CoreId;
use sluice_core::mailbox::{Mesh, MeshEnd};
use sluice_net::{Answer, BodyReader, Request};
use sluice_protocols::http::RequestHead;

use crate::auth::{self, Passed, Shown};
use crate::placement::Placement;

/// A request, sent from one core to another.
#[derive(Debug)]
pub struct PeerRequest {
    /// Method, target and fields.
    pub head: RequestHead,
    /// The body.
    pub body: Bytes,
    /// The body in pieces, instead.
    pub stream: Option<BodyReader>,
    /// Who sent it to the first core.
    pub peer: SocketAddr,
    /// Whether it came as 0-RTT data.
    pub early_data: bool,
    /// When the first core had it whole.
    pub arrived: Instant,
    /// Whom the first core has proven to ask; nobody where the owner is to check that.
    proven: Option<Box<Passed>>,
}

/// One core's ends of the mailboxes, before they are attached.
pub type PeerEnd = MeshEnd<PeerRequest, Answer>;
/// One core's mailboxes.
pub(crate) type PeerMesh = Rc<Mesh<PeerRequest, Answer>>;

/// Requests that one core may have unanswered at another.
pub const LANE_REQUESTS_MAX: usize = 1_024;

/// Makes the mailboxes that join `cores` cores.
pub fn mesh(cores: usize) -> Vec<PeerEnd> {
    sluice_core::mailbox::mesh(cores, LANE_REQUESTS_MAX)
}

/// The core that owns the user a request names by its API key, so that whoever can choose a core saves the hop.
/// Nothing is proven by it.
pub fn owner_of(head: &RequestHead, placement: &Placement) -> Option<CoreId> {
    let Shown::Key(text) = auth::shown(head).ok()? else { return None };
    let user = auth::parse(text).ok()?.user();
    Some(placement.owner(placement.shard_of(&user)))
}

impl PeerRequest {
    pub(crate) fn new(request: Request, arrived: Instant, proven: Option<Box<Passed>>) -> Self {
        let Request { head, body, stream, peer, early_data } = request;
        Self { head, body, stream, peer, early_data, arrived, proven }
    }

    pub(crate) fn into_request(self) -> (Request, Instant, Option<Box<Passed>>) {
        let Self { head, body, stream, peer, early_data, arrived, proven } = self;
        (Request { head, body, stream, peer, early_data }, arrived, proven)
    }
}
