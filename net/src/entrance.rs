//! The way into the cores for requests that did not come over HTTP/3: one bounded queue a core, filled from any
//! thread, emptied by the core's reactor, answered through a one-shot channel.
//!
//! ```text
//! any thread                      core
//! admit(head)    -> queue ->      Service::admit    -> answer at once, or "send a body of at most n bytes"
//! call(request)  -> queue ->      Service::call     -> answer
//! ask(request)   -> queue ->      both, for a request that is whole already
//! ```
//! Invariants:
//! - The same [`Service`] answers as over HTTP/3, in the same order: the head is admitted before a body is read.
//! - Nothing waits without bound: a core's queue holds [`EntranceConfig::queue_max`] messages, and at most
//!   [`EntranceConfig::pending_max`] requests are with a core unanswered. What is over either is given back as a
//!   [`Shed`], counted.
//! - Every request that was taken gets exactly one answer or a [`Shed`]: a core that ends drops what it has not
//!   answered, and that tells whoever waits.
//! - A request whose asker has gone before the core took it is not served.

use std::net::IpAddr;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed, Ordering::SeqCst};
use std::sync::{Arc, OnceLock};

use crossbeam_queue::ArrayQueue;
use sluice_core::{CoreId, RemoteWaker, TurnHook, add_turn_hook, remote_waker};
use sluice_protocols::http::{RequestHead, Response};
use tokio::sync::oneshot;

use crate::body::BodyReader;
use crate::quic::steering::CoreCount;
use crate::service::{Admit, Answer, Request, Responder, Service};

/// Messages a core takes in one turn; the rest waits for the next.
const TURN_BATCH_MAX: usize = 256;
/// What is said about a body over the limit, as over HTTP/3.
const BODY_TOO_LONG: &str = "the body is longer than this resource takes";

/// Bounds of each core's entrance.
#[derive(Debug, Clone, Copy)]
pub struct EntranceConfig {
    /// Messages that may wait for a core's next turn.
    pub queue_max: usize,
    /// Requests a core may have taken and not answered.
    pub pending_max: usize,
}

impl Default for EntranceConfig {
    fn default() -> Self {
        Self { queue_max: 1_024, pending_max: 8_192 }
    }
}

/// Why a core did not answer. Nothing is known to have been done, except after [`Shed::Ended`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Shed {
    /// The core has enough to do: answer 503 and let the client come again.
    #[error("too many requests wait for the core")]
    Full,
    /// The core takes nothing any more; nothing was done.
    #[error("the core is shutting down")]
    Closed,
    /// The core ended with the request unanswered; what came of it is not known.
    #[error("the core ended before it answered")]
    Ended,
}

/// What a core says to the head of a request.
#[allow(clippy::large_enum_variant, reason = "taken apart at once; a box would cost an allocation")]
#[derive(Debug)]
pub enum Admission {
    /// Here is the answer; the body is not wanted.
    Answer(Response),
    /// Send a body of at most this many bytes.
    Body {
        /// The head, given back.
        head: RequestHead,
        /// Longest body, in bytes.
        bytes_max: usize,
    },
    /// Call at once, with a body of at most this many bytes to come in pieces ([`Request::stream`]).
    Stream {
        /// The head, given back.
        head: RequestHead,
        /// Longest body, in bytes.
        bytes_max: usize,
    },
}

/// Something that lives until the service has let go of a request, so that its owner can count.
pub type Leash = Arc<()>;

/// Gives the core that owns a request's user, if that can be told from its head.
type Owner = Box<dyn Fn(&RequestHead) -> Option<CoreId> + Send + Sync>;

/// What was refused at the entrances of all cores, in requests.
#[derive(Debug, Default)]
pub struct EntranceStats {
    /// Since a core's queue was full.
    pub refused_queue_full: AtomicU64,
    /// Since a core had too many unanswered.
    pub refused_pending: AtomicU64,
    /// Since a core was shutting down.
    pub refused_closed: AtomicU64,
}

impl EntranceStats {
    /// Every count with its reason.
    pub fn each(&self) -> [(&'static str, u64); 3] {
        [
            ("queue_full", self.refused_queue_full.load(Relaxed)),
            ("pending", self.refused_pending.load(Relaxed)),
            ("closed", self.refused_closed.load(Relaxed)),
        ]
    }
}

enum Message {
    Head { head: RequestHead, from: IpAddr, reply: oneshot::Sender<Admission> },
    Request { request: Request, is_admitted: bool, reply: oneshot::Sender<Answer>, held: Held },
    Refuse { status: u16, detail: String, reply: oneshot::Sender<Response> },
}

/// Counts a request as unanswered while it lives.
struct Held {
    gates: Arc<Gates>,
    core: usize,
    _leash: Leash,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.gates.cores[self.core].pending.fetch_sub(1, SeqCst);
    }
}

struct Gate {
    queue: ArrayQueue<Message>,
    waker: OnceLock<RemoteWaker>,
    pending: AtomicUsize,
    is_closed: AtomicBool,
}

impl Gate {
    /// Drops what waits, which tells whoever asked.
    fn clear(&self) {
        while self.queue.pop().is_some() {}
    }
}

struct Gates {
    cores: Box<[Gate]>,
    config: EntranceConfig,
    owner: Owner,
    next: AtomicUsize,
    stats: EntranceStats,
}

/// The way into the cores; cheap to clone, usable from any thread.
#[derive(Clone)]
pub struct Entrance(Arc<Gates>);

/// One core's end, to be sent to its thread and attached there. Dropped before, it closes as the attached one does.
pub struct EntranceEnd(EntranceGuard);

/// Keeps a core's end open. Dropped, the core takes nothing more, and what waits is told so.
#[must_use = "dropping it closes the entrance"]
pub struct EntranceGuard {
    gates: Arc<Gates>,
    core: CoreId,
}

/// Makes the way into `cores` cores. `owner` tells which core serves a request without a hop; requests it cannot
/// place go to the cores in turn.
///
/// # Panics
/// When a bound of `config` is 0.
pub fn entrance(
    cores: CoreCount,
    config: EntranceConfig,
    owner: impl Fn(&RequestHead) -> Option<CoreId> + Send + Sync + 'static,
) -> (Entrance, Vec<EntranceEnd>) {
    assert!(config.queue_max > 0 && config.pending_max > 0, "an entrance that lets nobody in");
    let gate = |_| Gate {
        queue: ArrayQueue::new(config.queue_max),
        waker: OnceLock::new(),
        pending: AtomicUsize::new(0),
        is_closed: AtomicBool::new(false),
    };
    let gates = Arc::new(Gates {
        cores: (0..cores.get()).map(gate).collect(),
        config,
        owner: Box::new(owner),
        next: AtomicUsize::new(0),
        stats: EntranceStats::default(),
    });
    let core = |index| CoreId::new(u16::try_from(index).expect("at most 256 cores"));
    let end = |index| EntranceEnd(EntranceGuard { gates: Arc::clone(&gates), core: core(index) });
    let ends = (0..cores.get()).map(end).collect();
    (Entrance(gates), ends)
}

impl Entrance {
    /// The core to send a request to: its user's, or else any.
    pub fn core_for(&self, head: &RequestHead) -> CoreId {
        (self.0.owner)(head).unwrap_or_else(|| self.any_core())
    }

    /// The cores in turn.
    pub fn any_core(&self) -> CoreId {
        let index = self.0.next.fetch_add(1, Relaxed) % self.0.cores.len();
        CoreId::new(u16::try_from(index).expect("at most 256 cores"))
    }

    /// Asks `core` whether it wants the body of the request with this head, which came from this address.
    ///
    /// # Errors
    /// The core takes no more, or has ended.
    pub async fn admit(&self, core: CoreId, head: RequestHead, from: IpAddr) -> Result<Admission, Shed> {
        let (reply, answer) = oneshot::channel();
        self.push(core, Message::Head { head, from, reply })?;
        answer.await.map_err(|_| Shed::Ended)
    }

    /// Has a request answered whose head was admitted. `leash` is dropped when the core is done with it, even if
    /// nobody waits for the answer any more.
    ///
    /// # Errors
    /// The core takes no more, or has ended.
    pub async fn call(&self, core: CoreId, request: Request, leash: Leash) -> Result<Answer, Shed> {
        self.request(core, request, true, leash).await
    }

    /// Admits and answers a request that is whole.
    ///
    /// # Errors
    /// The core takes no more, or has ended.
    pub async fn ask(&self, core: CoreId, request: Request, leash: Leash) -> Result<Answer, Shed> {
        self.request(core, request, false, leash).await
    }

    /// Has the service word a refusal ([`Service::refuse`]).
    ///
    /// # Errors
    /// The core takes no more, or has ended.
    pub async fn refuse(&self, status: u16, detail: impl Into<String>) -> Result<Response, Shed> {
        let (reply, answer) = oneshot::channel();
        self.push(self.any_core(), Message::Refuse { status, detail: detail.into(), reply })?;
        answer.await.map_err(|_| Shed::Ended)
    }

    /// What was refused.
    pub fn stats(&self) -> &EntranceStats {
        &self.0.stats
    }

    /// Requests with the cores and unanswered.
    pub fn pending(&self) -> usize {
        self.0.cores.iter().map(|gate| gate.pending.load(Relaxed)).sum()
    }

    async fn request(
        &self,
        core: CoreId,
        request: Request,
        is_admitted: bool,
        leash: Leash,
    ) -> Result<Answer, Shed> {
        let held = self.hold(core, leash)?;
        let (reply, answer) = oneshot::channel();
        self.push(core, Message::Request { request, is_admitted, reply, held })?;
        answer.await.map_err(|_| Shed::Ended)
    }

    fn hold(&self, core: CoreId, leash: Leash) -> Result<Held, Shed> {
        let gate = &self.0.cores[core.index()];
        let before = gate.pending.fetch_add(1, SeqCst);
        // Made first, so that the count is taken back on refusal.
        let held = Held { gates: Arc::clone(&self.0), core: core.index(), _leash: leash };
        if before >= self.0.config.pending_max {
            self.0.stats.refused_pending.fetch_add(1, Relaxed);
            return Err(Shed::Full);
        }
        Ok(held)
    }

    fn push(&self, core: CoreId, message: Message) -> Result<(), Shed> {
        let Gates { cores, stats, .. } = &*self.0;
        let gate = &cores[core.index()];
        if gate.is_closed.load(SeqCst) {
            stats.refused_closed.fetch_add(1, Relaxed);
            return Err(Shed::Closed);
        }
        if gate.queue.push(message).is_err() {
            stats.refused_queue_full.fetch_add(1, Relaxed);
            return Err(Shed::Full);
        }
        // A core that has not attached yet looks before it first sleeps.
        if let Some(waker) = gate.waker.get() {
            waker.wake();
        }
        // Either this sees the gate closed, or the core's last look at the queue saw the message.
        if gate.is_closed.load(SeqCst) {
            gate.clear();
        }
        Ok(())
    }
}

impl EntranceEnd {
    /// The core this end belongs to.
    pub fn core(&self) -> CoreId {
        self.0.core
    }

    /// Opens the entrance on the current reactor, with `service` behind it.
    ///
    /// # Panics
    /// Outside a reactor.
    pub fn attach(self, service: Rc<dyn Service>) -> EntranceGuard {
        let EntranceGuard { gates, core } = &self.0;
        add_turn_hook(Rc::new(Door { gates: Arc::clone(gates), core: *core, service }));
        let _ = gates.cores[core.index()].waker.set(remote_waker());
        self.0
    }
}

impl Drop for EntranceGuard {
    fn drop(&mut self) {
        let gate = &self.gates.cores[self.core.index()];
        gate.is_closed.store(true, SeqCst);
        gate.clear();
    }
}

/// A core's side of its gate.
struct Door {
    gates: Arc<Gates>,
    core: CoreId,
    service: Rc<dyn Service>,
}

impl Door {
    fn gate(&self) -> &Gate {
        &self.gates.cores[self.core.index()]
    }

    fn take(&self, message: Message) {
        match message {
            Message::Head { head, from, reply } if !reply.is_closed() => {
                // The client may have gone meanwhile, here and below.
                let _ = reply.send(match self.admit(&head, from) {
                    Admit::Body { bytes_max } => Admission::Body { head, bytes_max },
                    Admit::Stream { bytes_max } => Admission::Stream { head, bytes_max },
                    Admit::Reply(response) => Admission::Answer(response),
                });
            }
            Message::Request { request, is_admitted, reply, held } if !reply.is_closed() => {
                self.answer(request, is_admitted, reply, held);
            }
            Message::Refuse { status, detail, reply } if !reply.is_closed() => {
                let _ = reply.send(self.service.refuse(status, &detail));
            }
            Message::Head { .. } | Message::Request { .. } | Message::Refuse { .. } => {}
        }
    }

    fn answer(&self, mut request: Request, is_admitted: bool, reply: oneshot::Sender<Answer>, held: Held) {
        if !is_admitted {
            match self.admit(&request.head, request.peer.ip()) {
                Admit::Reply(response) => {
                    let _ = reply.send(response.into());
                    return;
                }
                Admit::Stream { .. } => {
                    request.stream = Some(BodyReader::whole(std::mem::take(&mut request.body)))
                }
                Admit::Body { .. } => {}
            }
        }
        let respond = Responder::from_fn(move |answer| {
            drop(held);
            let _ = reply.send(answer);
        });
        self.service.call(request, respond);
    }

    /// As the service says, unless the announced body is longer than that.
    fn admit(&self, head: &RequestHead, from: IpAddr) -> Admit {
        // The handshake of TCP has proven it.
        match self.service.admit(head, Some(from)) {
            Admit::Body { bytes_max } | Admit::Stream { bytes_max }
                if head.content_length().unwrap_or(0) > bytes_max as u64 =>
            {
                Admit::Reply(self.service.refuse(413, BODY_TOO_LONG))
            }
            admit => admit,
        }
    }
}

impl TurnHook for Door {
    fn poll(&self) {
        for _ in 0..TURN_BATCH_MAX {
            let Some(message) = self.gate().queue.pop() else { break };
            self.take(message);
        }
    }

    fn has_pending(&self) -> bool {
        !self.gate().queue.is_empty()
    }

    fn flush(&self) {}
}
