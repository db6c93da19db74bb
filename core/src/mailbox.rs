//! Mailboxes between cores.
//!
//! Each ordered pair of cores has two bounded rings: one for requests, one for
//! replies. Messages pushed during a turn are announced with one wake per
//! destination at the end of it, and only when that core sleeps.
//!
//! Invariants:
//! - A core has at most as many unanswered requests at a peer as the reply lane
//!   back from it holds, so a reply always finds room.
//! - A full request lane gives the request back; nothing ever blocks.
//! - Every request that asks for a reply gets exactly one: dropping a
//!   [`ReplyTo`] unanswered tells the caller so.
//! - A request whose deadline has passed on arrival is not served.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use slab::Slab;

use crate::CoreId;
use crate::reactor::{TurnHook, add_turn_hook, remote_waker};
use crate::remote::RemoteWaker;
use crate::spsc::{Consumer, Producer, ring};
use crate::stats::Counter;

/// Messages taken from one lane in one turn; the rest waits for the next.
const LANE_BATCH_MAX: usize = 256;

/// Counters of one core's mailboxes.
#[derive(Debug, Default)]
pub struct MailboxStats {
    /// Requests sent to other cores.
    pub sent: Counter,
    /// Requests refused since the lane or the reply credit was used up.
    pub refused_full: Counter,
    /// Requests received from other cores.
    pub received: Counter,
    /// Requests dropped on arrival as their deadline had passed.
    pub expired: Counter,
    /// Replies received.
    pub replies: Counter,
    /// Requests waiting in this core's inbound lanes, as of its last turn.
    pub depth: Counter,
}

struct Request<Q> {
    ticket: Option<u32>,
    deadline: Instant,
    body: Q,
}

struct Reply<R> {
    ticket: u32,
    /// `None`: the other side dropped the request unanswered.
    body: Option<R>,
}

struct PeerEnds<Q, R> {
    requests_out: Producer<Request<Q>>,
    requests_in: Consumer<Request<Q>>,
    replies_out: Producer<Reply<R>>,
    replies_in: Consumer<Reply<R>>,
}

/// One core's ends, to be sent to its thread and attached there.
pub struct MeshEnd<Q, R> {
    core: CoreId,
    peers: Vec<Option<PeerEnds<Q, R>>>,
    wakers: Arc<[OnceLock<RemoteWaker>]>,
    capacity: usize,
}

/// Makes the mailboxes that join `cores` cores; each lane holds `capacity`
/// messages (rounded up to a power of two).
pub fn mesh<Q: Send, R: Send>(cores: usize, capacity: usize) -> Vec<MeshEnd<Q, R>> {
    assert!(cores <= CoreId::COUNT_MAX);
    let wakers: Arc<[OnceLock<RemoteWaker>]> = (0..cores).map(|_| OnceLock::new()).collect();
    let mut peers: Vec<Vec<Option<PeerEnds<Q, R>>>> = Vec::with_capacity(cores);
    for _ in 0..cores {
        // The newcomer is joined to every core before it, and itself to none.
        let mut newcomer = Vec::with_capacity(cores);
        for earlier in &mut peers {
            let (ours, theirs) = join(capacity);
            newcomer.push(Some(ours));
            earlier.push(Some(theirs));
        }
        newcomer.push(None);
        peers.push(newcomer);
    }
    peers
        .into_iter()
        .enumerate()
        .map(|(index, peers)| MeshEnd {
            core: CoreId::new(u16::try_from(index).expect("at most 256 cores")),
            peers,
            wakers: Arc::clone(&wakers),
            capacity: capacity.next_power_of_two(),
        })
        .collect()
}

/// The four rings between two cores.
fn join<Q: Send, R: Send>(capacity: usize) -> (PeerEnds<Q, R>, PeerEnds<Q, R>) {
    let (a_requests_out, b_requests_in) = ring(capacity);
    let (b_requests_out, a_requests_in) = ring(capacity);
    let (a_replies_out, b_replies_in) = ring(capacity);
    let (b_replies_out, a_replies_in) = ring(capacity);
    (
        PeerEnds {
            requests_out: a_requests_out,
            requests_in: a_requests_in,
            replies_out: a_replies_out,
            replies_in: a_replies_in,
        },
        PeerEnds {
            requests_out: b_requests_out,
            requests_in: b_requests_in,
            replies_out: b_replies_out,
            replies_in: b_replies_in,
        },
    )
}

/// A request that arrived from another core.
pub struct Delivery<Q: Send + 'static, R: Send + 'static> {
    /// The core that asks.
    pub from: CoreId,
    /// When the answer is no longer wanted.
    pub deadline: Instant,
    /// What is asked.
    pub body: Q,
    /// Where the answer goes; `None` for a one-way message.
    pub reply: Option<ReplyTo<Q, R>>,
}

type Serve<Q, R> = Box<dyn Fn(Delivery<Q, R>)>;

struct Peer<Q, R> {
    ends: PeerEnds<Q, R>,
    outstanding: usize,
    touched: bool,
}

struct Waiting<R> {
    peer: usize,
    waker: Option<Waker>,
    answer: Option<Option<R>>,
    abandoned: bool,
}

/// One core's mailboxes, attached to its reactor.
pub struct Mesh<Q: Send + 'static, R: Send + 'static> {
    core: CoreId,
    peers: Vec<Option<RefCell<Peer<Q, R>>>>,
    waiting: RefCell<Slab<Waiting<R>>>,
    wakers: Arc<[OnceLock<RemoteWaker>]>,
    capacity: usize,
    serve: Serve<Q, R>,
    stats: Arc<MailboxStats>,
    any_touched: Cell<bool>,
    me: Weak<Self>,
}

impl<Q: Send + 'static, R: Send + 'static> MeshEnd<Q, R> {
    /// The core these ends belong to.
    pub fn core(&self) -> CoreId {
        self.core
    }

    /// Attaches the ends to the current reactor. `serve` is called for every
    /// request that arrives, on this core, at the start of a turn; it must not
    /// block and usually spawns a task.
    pub fn attach(
        self,
        stats: Arc<MailboxStats>,
        serve: impl Fn(Delivery<Q, R>) + 'static,
    ) -> Rc<Mesh<Q, R>> {
        let peers = self
            .peers
            .into_iter()
            .map(|ends| ends.map(|ends| RefCell::new(Peer { ends, outstanding: 0, touched: false })))
            .collect();
        let _ = self.wakers[self.core.index()].set(remote_waker());
        let mesh = Rc::new_cyclic(|me| Mesh {
            core: self.core,
            peers,
            waiting: RefCell::default(),
            wakers: self.wakers,
            capacity: self.capacity,
            serve: Box::new(serve),
            stats,
            any_touched: Cell::new(false),
            me: me.clone(),
        });
        add_turn_hook(Rc::clone(&mesh) as Rc<dyn TurnHook>);
        mesh
    }
}

/// The other core dropped the request unanswered: it is shutting down, or the
/// deadline had passed when the request arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the owning core dropped the request; try again")]
pub struct Unanswered;

impl<Q: Send + 'static, R: Send + 'static> Mesh<Q, R> {
    /// The core these mailboxes belong to.
    pub fn core(&self) -> CoreId {
        self.core
    }

    fn peer(&self, to: CoreId) -> &RefCell<Peer<Q, R>> {
        self.peers[to.index()].as_ref().expect("a core does not send to itself")
    }

    /// Sends a request and returns the wait for its answer. Dropping the wait
    /// gives up on the answer, not on the request.
    ///
    /// # Errors
    /// The request comes back when the peer's lane is full.
    ///
    /// # Panics
    /// When `to` is this core.
    pub fn call(&self, to: CoreId, deadline: Instant, body: Q) -> Result<Call<Q, R>, Q> {
        let mut peer = self.peer(to).borrow_mut();
        if peer.outstanding == self.capacity {
            self.stats.refused_full.add(1);
            return Err(body);
        }
        let waiting = Waiting { peer: to.index(), waker: None, answer: None, abandoned: false };
        let index = self.waiting.borrow_mut().insert(waiting);
        let ticket = u32::try_from(index).expect("bounded by cores times capacity");
        if let Err(request) = peer.ends.requests_out.push(Request { ticket: Some(ticket), deadline, body }) {
            self.waiting.borrow_mut().remove(index);
            self.stats.refused_full.add(1);
            return Err(request.body);
        }
        peer.outstanding += 1;
        self.touch(&mut peer);
        self.stats.sent.add(1);
        Ok(Call { mesh: self.me.clone(), ticket: Some(ticket) })
    }

    /// Sends a message that has no answer.
    ///
    /// # Errors
    /// The message comes back when the peer's lane is full.
    pub fn send(&self, to: CoreId, deadline: Instant, body: Q) -> Result<(), Q> {
        let mut peer = self.peer(to).borrow_mut();
        if let Err(request) = peer.ends.requests_out.push(Request { ticket: None, deadline, body }) {
            self.stats.refused_full.add(1);
            return Err(request.body);
        }
        self.touch(&mut peer);
        self.stats.sent.add(1);
        Ok(())
    }

    fn touch(&self, peer: &mut Peer<Q, R>) {
        peer.touched = true;
        self.any_touched.set(true);
    }

    fn answer(&self, to: usize, ticket: u32, body: Option<R>) {
        let mut peer = self.peers[to].as_ref().expect("it asked").borrow_mut();
        let pushed = peer.ends.replies_out.push(Reply { ticket, body });
        assert!(pushed.is_ok(), "reply lanes hold every outstanding request");
        self.touch(&mut peer);
    }

    fn take_replies(&self, index: usize, peer: &RefCell<Peer<Q, R>>) {
        for _ in 0..LANE_BATCH_MAX {
            let reply = {
                let mut peer = peer.borrow_mut();
                let Some(reply) = peer.ends.replies_in.pop() else { break };
                peer.outstanding -= 1;
                reply
            };
            self.stats.replies.add(1);
            let mut waiting = self.waiting.borrow_mut();
            let entry = &mut waiting[reply.ticket as usize];
            assert_eq!(entry.peer, index, "a reply comes from the core that was asked");
            if entry.abandoned {
                waiting.remove(reply.ticket as usize);
                continue;
            }
            entry.answer = Some(reply.body);
            if let Some(waker) = entry.waker.take() {
                waker.wake();
            }
        }
    }

    fn take_requests(&self, index: usize, peer: &RefCell<Peer<Q, R>>, now: Instant) {
        for _ in 0..LANE_BATCH_MAX {
            let Some(request) = peer.borrow_mut().ends.requests_in.pop() else { break };
            self.stats.received.add(1);
            let reply = request.ticket.map(|ticket| ReplyTo {
                mesh: self.me.clone(),
                to: index,
                ticket: Some(ticket),
            });
            if request.deadline < now {
                self.stats.expired.add(1);
                continue;
            }
            let from = CoreId::new(u16::try_from(index).expect("at most 256 cores"));
            (self.serve)(Delivery { from, deadline: request.deadline, body: request.body, reply });
        }
    }
}

impl<Q: Send + 'static, R: Send + 'static> TurnHook for Mesh<Q, R> {
    fn poll(&self) {
        let now = crate::now();
        for (index, peer) in self.peers.iter().enumerate() {
            let Some(peer) = peer else { continue };
            self.take_replies(index, peer);
            self.take_requests(index, peer, now);
        }
    }

    fn has_pending(&self) -> bool {
        self.peers.iter().flatten().any(|peer| {
            let peer = peer.borrow();
            !peer.ends.requests_in.is_empty() || !peer.ends.replies_in.is_empty()
        })
    }

    fn flush(&self) {
        if !self.any_touched.replace(false) {
            return;
        }
        let mut deepest = 0;
        for (index, peer) in self.peers.iter().enumerate() {
            let Some(peer) = peer else { continue };
            let mut peer = peer.borrow_mut();
            deepest = deepest.max(peer.ends.requests_out.depth());
            if std::mem::take(&mut peer.touched)
                // A core that has not attached yet looks before it first sleeps.
                && let Some(waker) = self.wakers[index].get()
            {
                waker.wake();
            }
        }
        self.stats.depth.set(deepest as u64);
    }
}

/// The wait for an answer from another core.
pub struct Call<Q: Send + 'static, R: Send + 'static> {
    mesh: Weak<Mesh<Q, R>>,
    ticket: Option<u32>,
}

impl<Q: Send + 'static, R: Send + 'static> Future for Call<Q, R> {
    type Output = Result<R, Unanswered>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(mesh) = self.mesh.upgrade() else { return Poll::Ready(Err(Unanswered)) };
        let ticket = self.ticket.expect("not polled after completion");
        let mut waiting = mesh.waiting.borrow_mut();
        let entry = &mut waiting[ticket as usize];
        match entry.answer.take() {
            Some(answer) => {
                waiting.remove(ticket as usize);
                self.ticket = None;
                Poll::Ready(answer.ok_or(Unanswered))
            }
            None => {
                entry.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl<Q: Send + 'static, R: Send + 'static> Drop for Call<Q, R> {
    fn drop(&mut self) {
        let (Some(ticket), Some(mesh)) = (self.ticket, self.mesh.upgrade()) else { return };
        let mut waiting = mesh.waiting.borrow_mut();
        if waiting[ticket as usize].answer.is_some() {
            waiting.remove(ticket as usize);
        } else {
            // The place stays taken until the reply comes: that is the credit.
            waiting[ticket as usize].abandoned = true;
            waiting[ticket as usize].waker = None;
        }
    }
}

/// Where the answer to a request goes. Dropping it unused answers
/// [`Unanswered`].
pub struct ReplyTo<Q: Send + 'static, R: Send + 'static> {
    mesh: Weak<Mesh<Q, R>>,
    to: usize,
    ticket: Option<u32>,
}

impl<Q: Send + 'static, R: Send + 'static> ReplyTo<Q, R> {
    /// Answers.
    pub fn send(mut self, body: R) {
        self.finish(Some(body));
    }

    fn finish(&mut self, body: Option<R>) {
        if let (Some(ticket), Some(mesh)) = (self.ticket.take(), self.mesh.upgrade()) {
            mesh.answer(self.to, ticket, body);
        }
    }
}

impl<Q: Send + 'static, R: Send + 'static> Drop for ReplyTo<Q, R> {
    fn drop(&mut self) {
        self.finish(None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Reactor, ReactorConfig, sleep, spawn, yield_now};
    use proptest::prelude::*;
    use std::time::Duration;

    fn far() -> Instant {
        crate::now() + Duration::from_secs(60)
    }

    /// Runs `client` on core 0 against `serve` on core 1, in two threads.
    fn pair<F, Fut, T>(capacity: usize, serve: fn(Delivery<u64, u64>), client: F) -> T
    where
        F: FnOnce(Rc<Mesh<u64, u64>>) -> Fut + Send + 'static,
        Fut: Future<Output = T> + 'static,
        T: Send + 'static,
    {
        let mut ends = mesh::<u64, u64>(2, capacity);
        let (server, caller) = (ends.pop().unwrap(), ends.pop().unwrap());
        let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let reactor = Reactor::new(ReactorConfig::new(CoreId::new(1))).unwrap();
            reactor
                .block_on(async move {
                    let _mesh = server.attach(Arc::default(), serve);
                    while !stopped.load(std::sync::atomic::Ordering::Relaxed) {
                        sleep(Duration::from_millis(1)).await;
                    }
                })
                .unwrap();
        });
        let output = Reactor::new(ReactorConfig::new(CoreId::new(0)))
            .unwrap()
            .block_on(async move {
                let mesh = caller.attach(Arc::default(), |_| panic!("nobody asks the client"));
                client(mesh).await
            })
            .unwrap();
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        thread.join().unwrap();
        output
    }

    fn double(delivery: Delivery<u64, u64>) {
        delivery.reply.unwrap().send(delivery.body * 2);
    }

    #[test]
    fn every_call_gets_its_own_answer() {
        let sum = pair(64, double, |mesh| async move {
            let mut sum = 0;
            for round in 0..200u64 {
                let calls: Vec<_> =
                    (0..50).map(|n| (n, mesh.call(CoreId::new(1), far(), round + n).ok().unwrap())).collect();
                for (n, call) in calls {
                    assert_eq!(call.await, Ok((round + n) * 2));
                    sum += 1;
                }
            }
            sum
        });
        assert_eq!(sum, 10_000);
    }

    #[test]
    fn a_full_lane_gives_the_request_back_and_heals() {
        pair(4, double, |mesh| async move {
            let mut calls = vec![];
            loop {
                match mesh.call(CoreId::new(1), far(), 1) {
                    Ok(call) => calls.push(call),
                    Err(body) => {
                        assert_eq!(body, 1);
                        break;
                    }
                }
            }
            assert_eq!(calls.len(), 4);
            assert_eq!(mesh.stats.refused_full.get(), 1);
            for call in calls {
                assert_eq!(call.await, Ok(2));
            }
            assert_eq!(mesh.call(CoreId::new(1), far(), 21).ok().unwrap().await, Ok(42));
        });
    }

    #[test]
    fn a_dropped_request_tells_the_caller() {
        pair(8, drop, |mesh| async move {
            assert_eq!(mesh.call(CoreId::new(1), far(), 5).ok().unwrap().await, Err(Unanswered));
        });
    }

    #[test]
    fn a_request_past_its_deadline_is_not_served() {
        pair(
            8,
            |_| panic!("served after its deadline"),
            |mesh| async move {
                let past = crate::now() - Duration::from_secs(1);
                assert_eq!(mesh.call(CoreId::new(1), past, 5).ok().unwrap().await, Err(Unanswered));
            },
        );
    }

    #[test]
    fn abandoned_calls_give_their_credit_back() {
        pair(4, double, |mesh| async move {
            for n in 0..400u64 {
                loop {
                    match mesh.call(CoreId::new(1), far(), n) {
                        Ok(call) => break drop(call),
                        Err(_) => yield_now().await,
                    }
                }
            }
            while !mesh.waiting.borrow().is_empty() {
                yield_now().await;
            }
            assert_eq!(mesh.call(CoreId::new(1), far(), 4).ok().unwrap().await, Ok(8));
        });
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        /// Any mixture of calls, one-way messages and abandoned waits: each
        /// answer belongs to its question, and no credit is lost.
        #[test]
        fn any_mixture_is_answered_in_full(capacity in 1usize..32, plan in prop::collection::vec(0u8..3, 1..300)) {
            fn serve(delivery: Delivery<u64, u64>) {
                if let Some(reply) = delivery.reply {
                    // Every third answer comes later, out of order.
                    if delivery.body.is_multiple_of(3) {
                        spawn(async move { yield_now().await; reply.send(delivery.body + 1) });
                    } else {
                        reply.send(delivery.body + 1);
                    }
                }
            }
            let answered = pair(capacity, serve, |mesh| async move {
                let mut waits = vec![];
                let mut answered = 0;
                for (n, kind) in plan.into_iter().enumerate() {
                    let n = n as u64;
                    loop {
                        let full = match kind {
                            0 => mesh.send(CoreId::new(1), far(), n).is_err(),
                            _ => match mesh.call(CoreId::new(1), far(), n) {
                                Ok(call) if kind == 1 => { waits.push((n, call)); false }
                                Ok(call) => { drop(call); false }
                                Err(_) => true,
                            },
                        };
                        if !full { break; }
                        if let Some((n, call)) = waits.pop() {
                            assert_eq!(call.await, Ok(n + 1));
                            answered += 1;
                        } else {
                            yield_now().await;
                        }
                    }
                }
                for (n, call) in waits {
                    assert_eq!(call.await, Ok(n + 1));
                    answered += 1;
                }
                while !mesh.waiting.borrow().is_empty() {
                    yield_now().await;
                }
                answered
            });
            prop_assert!(answered <= 300);
        }
    }
}
