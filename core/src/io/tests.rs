//! What only one of the backends can get into, driven without a reactor.

use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::net::UnixDatagram;
use std::rc::Rc;
use std::time::Instant;

use super::*;
use crate::udp::SEND_SLOTS_MAX;

/// More enters than any of these tests needs; it bounds their loops.
const TURNS_MAX: usize = 10_000;

fn eventfd() -> OwnedFd {
    // SAFETY: takes two integers; the descriptor is new and ours.
    unsafe { OwnedFd::from_raw_fd(libc::eventfd(0, libc::EFD_CLOEXEC)) }
}

fn epoll(wake: &OwnedFd) -> (Epoll, Arc<CoreStats>) {
    let stats = Arc::<CoreStats>::default();
    (Epoll::new(wake.as_raw_fd(), Arc::clone(&stats)).unwrap(), stats)
}

/// A ring with queues of this many entries; `None` where io_uring is forbidden
/// and was not asked for.
fn uring(wake: &OwnedFd, entries: u32) -> Option<(Uring, Arc<CoreStats>)> {
    let stats = Arc::<CoreStats>::default();
    match Uring::sized(wake.as_raw_fd(), Arc::clone(&stats), entries, entries) {
        Ok(io) => Some((io, stats)),
        Err(reason) => {
            let asked = IoChoice::from_environment().unwrap();
            assert_ne!(asked, IoChoice::Uring, "io_uring was asked for: {reason}");
            None
        }
    }
}

fn pair() -> (Arc<OwnedFd>, UnixDatagram) {
    let (near, far) = UnixDatagram::pair().unwrap();
    far.set_nonblocking(true).unwrap();
    (Arc::new(near.into()), far)
}

/// A slot without an address, for a socket that has a peer.
fn slot(io: &mut impl Backend, number: u16) -> Box<SendSlot> {
    let mut slot = io.acquire_slot().unwrap();
    slot.bytes().extend(number.to_be_bytes());
    slot
}

fn take_all(from: &UnixDatagram, into: &mut Vec<u16>) {
    let mut bytes = [0; 2];
    while from.recv(&mut bytes).is_ok() {
        into.push(u16::from_be_bytes(bytes));
    }
}

#[test]
fn datagrams_wait_for_a_full_socket_and_leave_in_order() {
    let wake = eventfd();
    let (mut io, stats) = epoll(&wake);
    let (near, far) = pair();
    let count = u16::try_from(SEND_SLOTS_MAX).unwrap();
    for number in 0..count {
        let slot = slot(&mut io, number);
        io.send(slot, Arc::clone(&near));
    }
    io.enter(Some(Duration::ZERO)).unwrap();
    io.reap();
    let mut seen = vec![];
    take_all(&far, &mut seen);
    assert!(seen.len() < SEND_SLOTS_MAX, "the socket was never full: nothing was tested");
    for _ in 0..TURNS_MAX {
        if seen.len() == SEND_SLOTS_MAX {
            break;
        }
        // Without a limit: the socket's room itself ends the wait.
        io.enter(None).unwrap();
        io.reap();
        io.enter(Some(Duration::ZERO)).unwrap();
        io.reap();
        take_all(&far, &mut seen);
    }
    assert_eq!(seen, (0..count).collect::<Vec<_>>());
    assert_eq!(stats.udp_send_errors.get(), 0);
    let slots: Vec<_> = (0..SEND_SLOTS_MAX).map_while(|_| io.acquire_slot()).collect();
    assert_eq!(slots.len(), SEND_SLOTS_MAX, "every slot came back");
    // Nobody but us has the socket open any more: it was let go when it was done.
    assert_eq!(Arc::strong_count(&near), 1);
}

#[test]
fn a_refused_datagram_is_counted_and_those_behind_it_are_tried() {
    let wake = eventfd();
    let (mut io, stats) = epoll(&wake);
    let (near, far) = pair();
    drop(far);
    let (other, other_far) = pair();
    for number in 0..3 {
        let lost = slot(&mut io, number);
        io.send(lost, Arc::clone(&near));
        let kept = slot(&mut io, number);
        io.send(kept, Arc::clone(&other));
    }
    io.enter(Some(Duration::ZERO)).unwrap();
    let mut seen = vec![];
    take_all(&other_far, &mut seen);
    assert_eq!(seen, [0, 1, 2]);
    assert_eq!(stats.udp_send_errors.get(), 3);
    assert_eq!(stats.udp_sends.get(), 6);
}

#[test]
fn sends_of_a_ring_wait_for_a_full_socket() {
    let wake = eventfd();
    let Some((mut io, stats)) = uring(&wake, 64) else { return };
    let (near, far) = pair();
    let count = u16::try_from(SEND_SLOTS_MAX).unwrap();
    for number in 0..count {
        let slot = slot(&mut io, number);
        io.send(slot, Arc::clone(&near));
    }
    io.enter(Some(Duration::ZERO)).unwrap();
    io.reap();
    let mut seen = vec![];
    take_all(&far, &mut seen);
    assert!(seen.len() < SEND_SLOTS_MAX, "the socket was never full: nothing was tested");
    for _ in 0..TURNS_MAX {
        if seen.len() == SEND_SLOTS_MAX {
            break;
        }
        io.enter(Some(Duration::from_millis(10))).unwrap();
        io.reap();
        take_all(&far, &mut seen);
    }
    // Those that waited race for the room.
    seen.sort_unstable();
    assert_eq!(seen, (0..count).collect::<Vec<_>>());
    for _ in 0..TURNS_MAX {
        if Arc::strong_count(&near) == 1 {
            break;
        }
        io.enter(Some(Duration::from_millis(10))).unwrap();
        io.reap();
    }
    assert_eq!(Arc::strong_count(&near), 1, "nobody but us has the socket open");
    assert_eq!(stats.udp_send_errors.get(), 0);
    let slots: Vec<_> = (0..SEND_SLOTS_MAX).map_while(|_| io.acquire_slot()).collect();
    assert_eq!(slots.len(), SEND_SLOTS_MAX, "every slot came back");
}

#[test]
fn refused_sends_of_a_ring_are_counted_even_beyond_its_queue() {
    let wake = eventfd();
    let Some((mut io, stats)) = uring(&wake, 4) else { return };
    let (near, far) = pair();
    drop(far);
    let (other, other_far) = pair();
    const REFUSED: u16 = 64;
    for number in 0..REFUSED {
        let lost = slot(&mut io, number);
        io.send(lost, Arc::clone(&near));
        let kept = slot(&mut io, number);
        io.send(kept, Arc::clone(&other));
        // A few at a time, so that the socket that is read has room for them.
        if number % 4 == 3 {
            io.enter(Some(Duration::ZERO)).unwrap();
        }
        let mut seen = vec![];
        take_all(&other_far, &mut seen);
    }
    for _ in 0..TURNS_MAX {
        if stats.udp_send_errors.get() == u64::from(REFUSED) {
            break;
        }
        io.enter(Some(Duration::ZERO)).unwrap();
        io.reap();
    }
    assert_eq!(stats.udp_send_errors.get(), u64::from(REFUSED));
    assert!(stats.completion_overflows.get() > 0, "the queue never overflowed: nothing was tested");
    assert_eq!(Arc::strong_count(&near), 1);
    let slots: Vec<_> = (0..SEND_SLOTS_MAX).map_while(|_| io.acquire_slot()).collect();
    assert_eq!(slots.len(), SEND_SLOTS_MAX, "every slot came back");
}

#[test]
fn a_core_without_epoll_pwait2_neither_wakes_early_nor_sleeps_through_a_wake() {
    let wake = eventfd();
    let (io, _) = epoll(&wake);
    let mut io = io.without_pwait2();
    let limit = Duration::from_micros(2_300);
    let before = Instant::now();
    io.enter(Some(limit)).unwrap();
    assert!(before.elapsed() >= limit);
    for _ in 0..2 {
        let one = 1u64;
        // SAFETY: writes eight live bytes to our own eventfd.
        assert_eq!(unsafe { libc::write(wake.as_raw_fd(), (&raw const one).cast(), 8) }, 8);
        // An hour is not waited for: each write is heard, though none is read.
        io.enter(Some(Duration::from_secs(3600))).unwrap();
        io.reap();
    }
}

#[test]
fn a_receive_takes_one_owner_at_a_time() {
    let wake = eventfd();
    let (mut io, _) = epoll(&wake);
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let fd = Arc::new(OwnedFd::from(socket));
    let first = io.attach(Arc::clone(&fd)).unwrap();
    assert_eq!(io.attach(Arc::clone(&fd)).unwrap_err().raw_os_error(), Some(libc::EEXIST));
    io.detach(first);
    assert!(io.attach(fd).is_ok());
}

#[test]
fn completions_beyond_their_queue_are_counted_and_none_is_lost() {
    let wake = eventfd();
    let Some((mut io, stats)) = uring(&wake, 4) else { return };
    let target = Rc::new(eventfd());
    // Eventfds take eight bytes; each write adds one.
    let ops: Vec<_> = (0..64)
        .map(|_| {
            let mut word = Box::new(1u64);
            let from = (&raw mut *word).cast::<u8>().cast_const();
            let operation = Operation::Write { fd: target.as_raw_fd(), from, len: 8 };
            io.start(operation, Box::new((word, Rc::clone(&target))))
        })
        .collect();
    let mut left = ops;
    for _ in 0..TURNS_MAX {
        if left.is_empty() {
            break;
        }
        // The kernel may leave writes to threads of its own, which a busy machine keeps waiting.
        io.enter(Some(Duration::from_millis(10))).unwrap();
        io.reap();
        left.retain(|&index| match io.poll_op(index, Waker::noop()) {
            Some((result, _)) => {
                assert_eq!(result, 8);
                false
            }
            None => true,
        });
    }
    assert!(left.is_empty(), "{} operations never completed", left.len());
    let mut sum = 0u64;
    // SAFETY: reads eight bytes into a live integer.
    assert_eq!(unsafe { libc::read(target.as_raw_fd(), (&raw mut sum).cast(), 8) }, 8);
    assert_eq!(sum, 64);
    assert!(stats.completion_overflows.get() > 0, "the queue never overflowed: nothing was tested");
    assert_eq!(stats.completions_lost.get(), 0);
}

#[test]
fn a_ring_does_nothing_but_what_we_ask_of_it() {
    let wake = eventfd();
    let Some((mut io, _stats)) = uring(&wake, 8) else { return };
    let path = c"/dev/null";
    let opening = io_uring::opcode::OpenAt::new(io_uring::types::Fd(libc::AT_FDCWD), path.as_ptr()).build();
    assert_eq!(io.result_of(&opening), -libc::EACCES);
    assert_eq!(io.result_of(&io_uring::opcode::Nop::new().build()), -libc::EACCES);
    // Nor does it learn anything new: neither files nor buffers nor another list of what is allowed.
    let error = io.register_files(&[wake.as_raw_fd()]).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EACCES));
}
