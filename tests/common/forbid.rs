//! A host that forbids something, put upon a process by a filter of its own.

use std::io;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

/// From now on a system call fails with `error` for this thread and what it starts.
///
/// # Errors
/// The kernel does not take the filter.
#[allow(clippy::cast_possible_truncation, reason = "codes of BPF have one byte, numbers of system calls two")]
pub fn refuse(call: libc::c_long, error: libc::c_int) -> io::Result<()> {
    const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    const JUMP_IF_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
    let step = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    let mut program = [
        // The number of the system call is the first word of what a filter sees.
        step(LOAD, 0, 0, 0),
        step(JUMP_IF_EQUAL, 0, 1, call as u32),
        step(RETURN, 0, 0, libc::SECCOMP_RET_ERRNO | error.cast_unsigned()),
        step(RETURN, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let filter = libc::sock_fprog { len: 4, filter: program.as_mut_ptr() };
    // SAFETY: the kernel copies the program, which lives here meanwhile.
    let refused = unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0
            || libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const filter) != 0
    };
    if refused { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// What `command` starts gets `error` from a system call.
pub fn calls(command: &mut Command, call: libc::c_long, error: libc::c_int) {
    // SAFETY: between fork and exec it makes two system calls and allocates nothing.
    unsafe { command.pre_exec(move || refuse(call, error)) };
}
