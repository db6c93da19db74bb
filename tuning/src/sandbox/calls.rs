//! System calls, by seccomp (seccomp(2)): filters that every call of the process passes from then on.
//!
//! A call gets one of three answers:
//! - it is on the list and goes through;
//! - it is one that nothing here has any use for, and whoever takes a process over the first (starting programs, tracing,
//!   mounting, loading modules and the like): the process is killed. What it has acknowledged is on disk, and a process
//!   that tries this is no longer ours;
//! - anything else fails with ENOSYS, as in a kernel without it. Libraries fall back from that to older calls, which are
//!   on the list; and as kernels with all of ours hardly ever say so, the error names its cause.
//!
//! The kernel logs whatever does not go through (audit, type 1326), but for `clone3`. Calls without conditions cost nothing: since Linux 5.11
//! it remembers that a filter lets them through whatever their arguments.
//!
//! Operations of io_uring are no system calls, and pass no filter. So rings must be restricted where they are made, and
//! once the start is over no other ones can be made.

use std::collections::BTreeMap;
use std::io;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};

use super::Layer;

/// Calls that a running gateway makes, whatever their arguments, on both architectures.
const SERVICE: &[libc::c_long] = &[
    // Files.
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_pread64,
    libc::SYS_preadv,
    libc::SYS_preadv2,
    libc::SYS_write,
    libc::SYS_writev,
    libc::SYS_pwrite64,
    libc::SYS_pwritev,
    libc::SYS_pwritev2,
    libc::SYS_openat,
    libc::SYS_close,
    libc::SYS_close_range,
    libc::SYS_lseek,
    libc::SYS_fstat,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_statfs,
    libc::SYS_fstatfs,
    libc::SYS_getdents64,
    libc::SYS_mkdirat,
    libc::SYS_unlinkat,
    libc::SYS_renameat,
    libc::SYS_renameat2,
    libc::SYS_linkat,
    libc::SYS_readlinkat,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    libc::SYS_utimensat,
    libc::SYS_umask,
    libc::SYS_getcwd,
    libc::SYS_truncate,
    libc::SYS_ftruncate,
    libc::SYS_fallocate,
    libc::SYS_fsync,
    libc::SYS_fdatasync,
    libc::SYS_sync_file_range,
    libc::SYS_fadvise64,
    libc::SYS_readahead,
    libc::SYS_copy_file_range,
    libc::SYS_sendfile,
    libc::SYS_splice,
    libc::SYS_flock,
    libc::SYS_fcntl,
    libc::SYS_dup,
    libc::SYS_dup3,
    libc::SYS_pipe2,
    libc::SYS_eventfd2,
    // Waiting.
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    libc::SYS_ppoll,
    libc::SYS_pselect6,
    libc::SYS_futex,
    libc::SYS_nanosleep,
    libc::SYS_clock_nanosleep,
    libc::SYS_restart_syscall,
    libc::SYS_io_uring_enter,
    // Sockets.
    libc::SYS_socketpair,
    libc::SYS_connect,
    libc::SYS_bind,
    libc::SYS_listen,
    libc::SYS_accept,
    libc::SYS_accept4,
    libc::SYS_getsockname,
    libc::SYS_getpeername,
    libc::SYS_setsockopt,
    libc::SYS_getsockopt,
    libc::SYS_sendto,
    libc::SYS_recvfrom,
    libc::SYS_sendmsg,
    libc::SYS_recvmsg,
    libc::SYS_sendmmsg,
    libc::SYS_recvmmsg,
    libc::SYS_shutdown,
    // Memory.
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_mincore,
    libc::SYS_msync,
    libc::SYS_brk,
    libc::SYS_mlock,
    libc::SYS_munlock,
    libc::SYS_membarrier,
    // Threads and what they are told.
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_gettid,
    libc::SYS_getpid,
    libc::SYS_getppid,
    libc::SYS_set_robust_list,
    libc::SYS_get_robust_list,
    libc::SYS_rseq,
    libc::SYS_sched_yield,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_getparam,
    libc::SYS_sched_getscheduler,
    libc::SYS_getcpu,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_rt_sigtimedwait,
    libc::SYS_sigaltstack,
    // What is asked of the host.
    libc::SYS_getrandom,
    libc::SYS_clock_gettime,
    libc::SYS_clock_getres,
    libc::SYS_gettimeofday,
    libc::SYS_times,
    libc::SYS_getrusage,
    libc::SYS_sysinfo,
    libc::SYS_uname,
    libc::SYS_getuid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getegid,
    libc::SYS_capget,
];

/// The same under the older names that only x86-64 has.
#[cfg(target_arch = "x86_64")]
const OLDER: &[libc::c_long] = &[
    libc::SYS_open,
    libc::SYS_stat,
    libc::SYS_lstat,
    libc::SYS_access,
    libc::SYS_readlink,
    libc::SYS_unlink,
    libc::SYS_rename,
    libc::SYS_mkdir,
    libc::SYS_rmdir,
    libc::SYS_link,
    libc::SYS_chmod,
    libc::SYS_getdents,
    libc::SYS_pipe,
    libc::SYS_dup2,
    libc::SYS_eventfd,
    libc::SYS_poll,
    libc::SYS_select,
    libc::SYS_epoll_create,
    libc::SYS_epoll_wait,
    libc::SYS_time,
    libc::SYS_getrlimit,
];
#[cfg(not(target_arch = "x86_64"))]
const OLDER: &[libc::c_long] = &[];

/// What only a start does: making rings, binding threads to CPUs, and giving up rights.
const START: &[libc::c_long] = &[
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_register,
    libc::SYS_sched_setaffinity,
    libc::SYS_seccomp,
    libc::SYS_capset,
    libc::SYS_prctl,
];

/// Not there, without a word in the kernel's log, for each new thread tries it: its flags stand in memory, where no filter
/// sees them, and glibc goes on to `clone`.
const ABSENT: &[libc::c_long] = &[libc::SYS_clone3];

/// What ends the process.
const KILLING: &[libc::c_long] = &[
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    libc::SYS_setns,
    libc::SYS_unshare,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_acct,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
];

/// `ioctl` requests: of sockets and pipes, whether something is a terminal and how wide, and what a file system calls a file
/// (RocksDB).
const IOCTLS: [u64; 6] =
    [libc::FIONBIO, libc::FIONREAD, libc::FIOCLEX, libc::TCGETS, libc::TIOCGWINSZ, FS_IOC_GETVERSION];
/// `_IOR('v', 1, long)`, the same on both architectures.
const FS_IOC_GETVERSION: u64 = 0x8008_7601;
/// `prctl` with which memory gets a name that `/proc/self/maps` shows.
const PR_SET_VMA: u64 = 0x5356_4d41;

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// `no_new_privs` for the calling thread and those it starts.
pub(super) fn set_no_new_privs() -> io::Result<()> {
    // SAFETY: plain numbers; the call touches no memory.
    match unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Whether the kernel has filters at all.
pub(super) fn is_available() -> bool {
    let action: u32 = libc::SECCOMP_RET_KILL_PROCESS;
    // SAFETY: the kernel reads one u32, which lives here.
    unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_GET_ACTION_AVAIL, 0, &raw const action) == 0 }
}

/// Leaves the calling thread, and those it starts, what a start needs.
pub(super) fn restrict_start() -> Layer {
    let installed = || {
        install(&killing(), libc::SECCOMP_FILTER_FLAG_LOG)?;
        install(&lacking(), 0)?;
        install(&allowing(Step::Start), libc::SECCOMP_FILTER_FLAG_LOG)
    };
    match installed() {
        Ok(()) => Layer::InForce(format!("{} allowed", SERVICE.len() + OLDER.len() + CONDITIONAL)),
        Err(error) => Layer::Missing(error.to_string()),
    }
}

/// Leaves every thread of the process what serving needs.
pub(super) fn restrict_service() -> Result<(), String> {
    let flags = libc::SECCOMP_FILTER_FLAG_LOG | libc::SECCOMP_FILTER_FLAG_TSYNC;
    install(&allowing(Step::Service), flags).map_err(|error| error.to_string())
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Step {
    Start,
    Service,
}

/// Calls that depend on their arguments, see [`conditional`].
const CONDITIONAL: usize = 8;

fn killing() -> BpfProgram {
    let rules = KILLING.iter().map(|call| (*call, Vec::new())).collect();
    compile(rules, SeccompAction::Allow, SeccompAction::KillProcess)
}

fn lacking() -> BpfProgram {
    let rules = ABSENT.iter().map(|call| (*call, Vec::new())).collect();
    compile(rules, SeccompAction::Allow, not_there())
}

fn not_there() -> SeccompAction {
    SeccompAction::Errno(libc::ENOSYS.cast_unsigned())
}

fn allowing(step: Step) -> BpfProgram {
    // What another filter answers goes through this one.
    let free = SERVICE.iter().chain(OLDER).chain(ABSENT);
    let mut rules: Rules = free.map(|call| (*call, Vec::new())).collect();
    let conditional = conditional();
    debug_assert_eq!(conditional.len(), CONDITIONAL);
    rules.extend(conditional);
    if step == Step::Start {
        rules.extend(START.iter().map(|call| (*call, Vec::new())));
    }
    compile(rules, not_there(), SeccompAction::Allow)
}

fn compile(rules: Rules, mismatch: SeccompAction, matching: SeccompAction) -> BpfProgram {
    let architecture = std::env::consts::ARCH.try_into().expect("one of the two we are built for");
    let filter = SeccompFilter::new(rules, mismatch, matching, architecture);
    filter.and_then(|filter| filter.try_into()).expect("the lists are constants, and tests compile them")
}

/// Calls that are let through with some arguments alone.
fn conditional() -> Rules {
    let exec = flag(libc::PROT_EXEC);
    BTreeMap::from([
        // Threads, not processes. `clone3` hides its flags from filters; its answer makes glibc use this one.
        (libc::SYS_clone, any([all([masked(0, flag(libc::CLONE_THREAD), flag(libc::CLONE_THREAD))])])),
        // No memory that is both written and run: libraries are mapped from files.
        (
            libc::SYS_mmap,
            any([
                all([masked(2, exec, 0)]),
                all([masked(3, flag(libc::MAP_ANONYMOUS), 0), masked(2, flag(libc::PROT_WRITE), 0)]),
            ]),
        ),
        (libc::SYS_mprotect, any([all([masked(2, exec, 0)])])),
        // The internet, our own socket, and the kernel's list of addresses, which resolving names looks at.
        (
            libc::SYS_socket,
            any([
                all([equal(0, flag(libc::AF_UNIX))]),
                all([equal(0, flag(libc::AF_INET))]),
                all([equal(0, flag(libc::AF_INET6))]),
                all([equal(0, flag(libc::AF_NETLINK)), equal(2, flag(libc::NETLINK_ROUTE))]),
            ]),
        ),
        (libc::SYS_ioctl, any(IOCTLS.map(|request| all([equal(1, request)])))),
        // A thread that aborts signals itself; no other process is reached by this one. Nor are limits set.
        (libc::SYS_tgkill, any([all([equal(0, u64::from(std::process::id()))])])),
        (libc::SYS_prlimit64, any([all([long(2, 0)])])),
        // Names for threads and memory.
        (libc::SYS_prctl, any([flag(libc::PR_SET_NAME), PR_SET_VMA].map(|option| all([equal(0, option)])))),
    ])
}

fn flag(value: libc::c_int) -> u64 {
    u64::from(value.cast_unsigned())
}

fn any<const N: usize>(rules: [SeccompRule; N]) -> Vec<SeccompRule> {
    rules.into()
}

fn all<const N: usize>(conditions: [SeccompCondition; N]) -> SeccompRule {
    SeccompRule::new(conditions.into()).expect("no rule here is without a condition")
}

/// The argument is `value`, as a number of 32 bits, which is what the kernel takes.
fn equal(argument: u8, value: u64) -> SeccompCondition {
    condition(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, value)
}

/// The argument is `value`, as a number or pointer of 64 bits.
fn long(argument: u8, value: u64) -> SeccompCondition {
    condition(argument, SeccompCmpArgLen::Qword, SeccompCmpOp::Eq, value)
}

/// The bits of `mask` are as in `value`.
fn masked(argument: u8, mask: u64, value: u64) -> SeccompCondition {
    condition(argument, SeccompCmpArgLen::Qword, SeccompCmpOp::MaskedEq(mask), value)
}

fn condition(argument: u8, length: SeccompCmpArgLen, operator: SeccompCmpOp, value: u64) -> SeccompCondition {
    SeccompCondition::new(argument, length, operator, value).expect("a call has six arguments")
}

#[derive(Debug, thiserror::Error)]
enum InstallError {
    #[error("the filter is refused: {0}")]
    Refused(#[from] io::Error),
    #[error("thread {0} has filters of its own")]
    Thread(libc::c_long),
}

/// Puts a filter upon the calling thread, or with TSYNC upon all. With LOG the kernel logs what it refuses.
fn install(program: &BpfProgram, flags: libc::c_ulong) -> Result<(), InstallError> {
    let length = u16::try_from(program.len()).expect("the compiler bounds programs at 4,096 steps");
    let filter = libc::sock_fprog { len: length, filter: program.as_ptr().cast_mut().cast() };
    // Without SPEC_ALLOW kernels before 5.16 slow the whole process down, against code that it does not trust.
    let flags = flags | libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW;
    // SAFETY: the kernel copies the program, which lives here meanwhile and has as many steps as it says; its steps are
    // laid out as the kernel's own.
    let result =
        unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const filter) };
    match result {
        0 => Ok(()),
        -1 => Err(io::Error::last_os_error().into()),
        thread => Err(InstallError::Thread(thread)),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_filter_compiles() {
        for program in [killing(), lacking(), allowing(Step::Start), allowing(Step::Service)] {
            assert!(program.len() > 3);
        }
    }

    #[test]
    fn no_call_is_on_two_lists() {
        let all: Vec<_> = SERVICE.iter().chain(OLDER).chain(START).chain(ABSENT).chain(KILLING).collect();
        assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), all.len());
        let conditional = conditional();
        assert_eq!(conditional.len(), CONDITIONAL);
        // `prctl` alone is free at the start and bound to conditions later.
        let twice: Vec<_> = all.iter().filter(|call| conditional.contains_key(**call)).collect();
        assert_eq!(twice, [&&libc::SYS_prctl]);
    }

    #[test]
    fn the_start_may_do_all_that_service_may() {
        assert!(allowing(Step::Start).len() > SERVICE.len() + START.len());
        for call in START {
            assert!(!SERVICE.contains(call));
        }
    }
}
