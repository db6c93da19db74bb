//! A host that forbids io_uring, as containers do: a seccomp filter that answers
//! EPERM. Filters hold for a thread and what it starts, so each test forbids it
//! to a thread of its own.

#[allow(dead_code, unreachable_pub, reason = "other tests put it upon programs that they start")]
#[path = "../../tests/common/forbid.rs"]
mod forbid;

use std::net::UdpSocket as PlainSocket;
use std::sync::Arc;

use sluice_core::udp::UdpSocket;
use sluice_core::{CoreId, IoBackend, IoChoice, Reactor, ReactorConfig, SetupError};

fn without(system_call: libc::c_long, test: impl FnOnce() + Send + 'static) {
    let thread = std::thread::spawn(move || {
        forbid::refuse(system_call, libc::EPERM).unwrap();
        test();
    });
    thread.join().unwrap();
}

fn reactor(io: IoChoice) -> Result<Reactor, SetupError> {
    Reactor::new(ReactorConfig { io: Some(io), ..ReactorConfig::new(CoreId::new(0)) })
}

fn receives_a_datagram(reactor: &Reactor) {
    let socket = PlainSocket::bind("127.0.0.1:0").unwrap();
    socket.set_nonblocking(true).unwrap();
    let to = socket.local_addr().unwrap();
    let bytes = reactor.block_on(async move {
        let socket = UdpSocket::new(Arc::new(socket.into())).unwrap();
        PlainSocket::bind("127.0.0.1:0").unwrap().send_to(b"hello", to).unwrap();
        std::future::poll_fn(|cx| socket.poll_arrived(cx)).await;
        socket.with_arrived(|_, bytes| bytes.to_vec())
    });
    assert_eq!(bytes.unwrap().flatten().as_deref(), Some(&b"hello"[..]));
}

#[test]
fn auto_takes_epoll_where_rings_cannot_be_made() {
    without(libc::SYS_io_uring_setup, || {
        let reactor = reactor(IoChoice::Auto).unwrap();
        assert_eq!(reactor.io(), IoBackend::Epoll);
        receives_a_datagram(&reactor);
    });
}

#[test]
fn auto_takes_epoll_where_rings_can_be_made_but_not_used() {
    for system_call in [libc::SYS_io_uring_enter, libc::SYS_io_uring_register] {
        without(system_call, || {
            let reactor = reactor(IoChoice::Auto).unwrap();
            assert_eq!(reactor.io(), IoBackend::Epoll);
            receives_a_datagram(&reactor);
        });
    }
}

#[test]
fn who_insists_on_io_uring_is_told_what_to_change() {
    without(libc::SYS_io_uring_setup, || {
        let Err(error) = reactor(IoChoice::Uring) else { panic!("a ring was made") };
        assert!(matches!(error, SetupError::Ring { .. }), "{error:?}");
        assert!(error.to_string().contains("seccomp"), "{error}");
    });
}

#[test]
fn epoll_is_taken_when_it_is_asked_for() {
    let reactor = reactor(IoChoice::Epoll).unwrap();
    assert_eq!(reactor.io(), IoBackend::Epoll);
    receives_a_datagram(&reactor);
}

#[test]
fn epoll_without_its_precise_wait_still_receives() {
    without(libc::SYS_epoll_pwait2, || {
        let reactor = reactor(IoChoice::Epoll).unwrap();
        reactor.block_on(async { sluice_core::sleep(std::time::Duration::from_millis(1)).await }).unwrap();
        receives_a_datagram(&reactor);
    });
}
