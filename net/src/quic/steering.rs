//! Which core a packet belongs to.
//!
//! The first two bytes of a destination connection ID, read big-endian and taken
//! modulo the number of cores, are the core's index: for the IDs we issue
//! because we choose them so, for a client's first ID because both the kernel's
//! program and [`owner`] read it the same way. Hence a client that knows how many
//! cores there are can pick the core its connection lands on, and a packet finds
//! its core whatever address it comes from.

use std::io;

use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Duration;

use quinn_proto::{ConnectionId, ConnectionIdGenerator, InvalidCid};
use sluice_core::CoreId;

/// Length of the connection IDs we issue, in bytes: two that steer, six that
/// tell connections of one core apart and make guessing pointless.
pub const CID_BYTES: usize = 8;

/// Number of cores that share a port, at least one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CoreCount(u16);

impl CoreCount {
    /// `count` cores; `None` unless `1..=256`.
    pub fn new(count: usize) -> Option<Self> {
        let count = u16::try_from(count).ok()?;
        (count >= 1 && usize::from(count) <= CoreId::COUNT_MAX).then_some(Self(count))
    }

    /// As a number.
    pub fn get(self) -> usize {
        usize::from(self.0)
    }

    fn core_of(self, steering: [u8; 2]) -> CoreId {
        CoreId::new(u16::from_be_bytes(steering) % self.0)
    }

    /// Two bytes that lead to `core`, spread evenly by `random`.
    fn bytes_for(self, core: CoreId, random: [u8; 2]) -> [u8; 2] {
        let random = u16::from_be_bytes(random);
        let aligned = random - random % self.0;
        let bytes = match aligned.checked_add(core.get()) {
            Some(bytes) => bytes,
            // The last group is cut short: step one group back.
            None => aligned - self.0 + core.get(),
        };
        bytes.to_be_bytes()
    }
}

/// A fresh destination ID for a client's first packet that leads to `core`
/// (RFC 9000 section 7.2 asks for at least eight unpredictable bytes).
pub fn initial_connection_id(core: CoreId, cores: CoreCount) -> ConnectionId {
    let mut bytes = [0; CID_BYTES];
    fill_random(&mut bytes);
    let steering = cores.bytes_for(core, [bytes[0], bytes[1]]);
    bytes[..2].copy_from_slice(&steering);
    ConnectionId::new(&bytes)
}

/// Issues connection IDs that lead back to one core.
pub(crate) struct SteeredIds {
    core: CoreId,
    cores: CoreCount,
    /// Random bytes drawn ahead, so that an ID costs no system call.
    pool: Box<[u8; 512]>,
    used: usize,
}

impl SteeredIds {
    pub(crate) fn new(core: CoreId, cores: CoreCount) -> Self {
        let mut pool = Box::new([0; 512]);
        fill_random(&mut *pool);
        Self { core, cores, pool, used: 0 }
    }
}

impl ConnectionIdGenerator for SteeredIds {
    fn generate_cid(&mut self) -> ConnectionId {
        if self.used + CID_BYTES > self.pool.len() {
            fill_random(&mut *self.pool);
            self.used = 0;
        }
        let mut bytes = [0; CID_BYTES];
        bytes.copy_from_slice(&self.pool[self.used..self.used + CID_BYTES]);
        self.used += CID_BYTES;
        let steering = self.cores.bytes_for(self.core, [bytes[0], bytes[1]]);
        bytes[..2].copy_from_slice(&steering);
        ConnectionId::new(&bytes)
    }

    fn validate(&self, cid: &ConnectionId) -> Result<(), InvalidCid> {
        let steering = [cid[0], cid[1]];
        if self.cores.core_of(steering) == self.core { Ok(()) } else { Err(InvalidCid) }
    }

    fn cid_len(&self) -> usize {
        CID_BYTES
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

fn fill_random(bytes: &mut [u8]) {
    // Without randomness no connection is safe: there is nothing to go on with.
    getrandom::fill(bytes).expect("the system's random source works");
}

/// Whether a packet came in by the port all cores share or by one core's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Port {
    /// The port that the kernel's program spreads over the cores.
    Shared,
    /// A core's own port.
    Own(CoreId),
}

/// The bit of a packet's first byte by which a long header is known (RFC 9000 section 17.2).
pub(super) const LONG_HEADER: u8 = 0x80;

/// The core that owns the connection a datagram belongs to; `None` when it is
/// too short to say, and nobody's.
///
/// New connections (RFC 9000 section 17.2: Initial and 0-RTT packets) belong, on
/// a core's own port, to that core; their first connection ID is the client's
/// free choice and steers on the shared port only.
pub(crate) fn owner(datagram: &[u8], port: Port, cores: CoreCount) -> Option<CoreId> {
    let first = *datagram.first()?;
    let id_at = if first & LONG_HEADER == 0 { 1 } else { 6 };
    if let (Port::Own(core), LONG_HEADER) = (port, first & LONG_HEADER) {
        let kind = (first >> 4) & 0b11;
        let has_chosen_id = kind == 0b10;
        if !has_chosen_id {
            return Some(core);
        }
    }
    let steering = datagram.get(id_at..id_at + 2)?;
    Some(cores.core_of([steering[0], steering[1]]))
}

/// Attaches the steering program to a group of sockets that share a port; `fd`
/// is any of them, after all were bound in the order of their cores. From then on
/// no socket of the group may be closed alone: the rest would be renumbered.
///
/// # Errors
/// As `setsockopt(2)`.
pub(crate) fn attach(fd: BorrowedFd<'_>, cores: CoreCount) -> io::Result<()> {
    let mut program = program(cores);
    let filter = libc::sock_fprog {
        len: u16::try_from(program.len()).expect("a handful of instructions"),
        filter: program.as_mut_ptr(),
    };
    let len = libc::socklen_t::try_from(size_of::<libc::sock_fprog>()).expect("16");
    // SAFETY: the kernel copies the program during the call; `filter` and the
    // instructions it points to outlive it.
    let result = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_REUSEPORT_CBPF,
            (&raw const filter).cast(),
            len,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Takes the program off a group of sockets again; the kernel then spreads
/// packets by their addresses.
///
/// # Errors
/// As `setsockopt(2)`.
pub(crate) fn detach(fd: BorrowedFd<'_>) -> io::Result<()> {
    let unused: libc::c_int = 0;
    let len = libc::socklen_t::try_from(size_of::<libc::c_int>()).expect("4");
    // SAFETY: the kernel reads at most `len` bytes from `unused`, which outlives
    // the call.
    let result = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_DETACH_REUSEPORT_BPF,
            (&raw const unused).cast(),
            len,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Classic BPF (Linux `Documentation/networking/filter.rst`). The UDP payload
/// starts at offset 0; the result is an index into the group, in bind order.
fn program(cores: CoreCount) -> [libc::sock_filter; 7] {
    const LD_BYTE_ABS: u16 = 0x30;
    const LD_HALF_ABS: u16 = 0x28;
    const JUMP: u16 = 0x05;
    const JUMP_IF_SET: u16 = 0x45;
    const MODULO: u16 = 0x94;
    const RETURN_A: u16 = 0x16;
    let op = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    [
        op(LD_BYTE_ABS, 0, 0, 0),
        op(JUMP_IF_SET, 0, 2, u32::from(LONG_HEADER)),
        // Long header: the ID starts at byte 6, past version and length.
        op(LD_HALF_ABS, 0, 0, 6),
        op(JUMP, 0, 0, 1),
        // Short header: right behind the first byte.
        op(LD_HALF_ABS, 0, 0, 1),
        op(MODULO, 0, 0, u32::from(cores.0)),
        op(RETURN_A, 0, 0, 0),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn short(id: [u8; 2]) -> Vec<u8> {
        vec![0x40, id[0], id[1], 9, 9, 9]
    }

    fn long(kind: u8, id: [u8; 2]) -> Vec<u8> {
        vec![0xc0 | (kind << 4), 0, 0, 0, 1, 8, id[0], id[1], 9, 9, 9, 9, 9, 9]
    }

    #[test]
    fn packets_of_a_connection_go_to_the_core_its_id_names() {
        let cores = CoreCount::new(4).unwrap();
        for port in [Port::Shared, Port::Own(CoreId::new(1))] {
            assert_eq!(owner(&short([0, 6]), port, cores), Some(CoreId::new(2)));
            assert_eq!(owner(&long(0b10, [0, 7]), port, cores), Some(CoreId::new(3)), "handshake");
        }
    }

    #[test]
    fn a_new_connection_on_an_own_port_stays_there() {
        let cores = CoreCount::new(4).unwrap();
        for kind in [0b00, 0b01] {
            assert_eq!(owner(&long(kind, [0, 7]), Port::Own(CoreId::new(1)), cores), Some(CoreId::new(1)));
            assert_eq!(owner(&long(kind, [0, 7]), Port::Shared, cores), Some(CoreId::new(3)));
        }
    }

    #[test]
    fn any_random_number_leads_to_the_core_that_was_asked_for() {
        for cores in [1, 2, 3, 4, 7, 16, 255, 256] {
            let count = CoreCount::new(cores).unwrap();
            for random in 0..=u16::MAX {
                let core = CoreId::new(random % count.0);
                assert_eq!(count.core_of(count.bytes_for(core, random.to_be_bytes())), core);
                let last = CoreId::new(count.0 - 1);
                assert_eq!(count.core_of(count.bytes_for(last, random.to_be_bytes())), last);
            }
        }
    }

    #[test]
    fn a_fragment_of_a_header_belongs_to_nobody() {
        let cores = CoreCount::new(2).unwrap();
        assert_eq!(owner(&[], Port::Shared, cores), None);
        assert_eq!(owner(&[0x40, 1], Port::Shared, cores), None);
        assert_eq!(owner(&[0xc0, 0, 0, 0, 1, 8, 1], Port::Shared, cores), None);
    }

    proptest! {
        #[test]
        fn issued_ids_lead_home(cores in 1usize..=256, pick in any::<prop::sample::Index>()) {
            let count = CoreCount::new(cores).unwrap();
            let core = CoreId::new(u16::try_from(pick.index(cores)).unwrap());
            let mut ids = SteeredIds::new(core, count);
            for _ in 0..200 {
                let id = ids.generate_cid();
                prop_assert!(ids.validate(&id).is_ok());
                prop_assert_eq!(owner(&short([id[0], id[1]]), Port::Shared, count), Some(core));
            }
            let first = initial_connection_id(core, count);
            prop_assert_eq!(owner(&long(0, [first[0], first[1]]), Port::Shared, count), Some(core));
        }
    }
}
