//! The system calls on a thread's CPU set. Unsafe code of this crate is here, in `dumps` and, for limits and the ring, in `checks`.

use std::io;
use std::mem::size_of;

use super::TuningError;

/// A `cpu_set_t` holds this many CPUs; hosts with more are out of scope.
#[allow(clippy::cast_sign_loss, reason = "a positive constant of the C library")]
const CPUS_MAX: usize = libc::CPU_SETSIZE as usize;

/// The CPUs the calling thread may use (affinity mask and cpuset), ascending. Never empty.
///
/// # Errors
/// The kernel refused, which happens only on hosts with more than 1024 CPUs or under a strange seccomp filter.
pub fn allowed_cpus() -> Result<Vec<usize>, TuningError> {
    let mut set = empty_set();
    // SAFETY: `set` is a live, writable cpu_set_t and its true size is passed; 0 means the calling thread.
    let result = unsafe { libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &raw mut set) };
    if result != 0 {
        return Err(TuningError::Affinity(io::Error::last_os_error()));
    }
    // SAFETY: CPU_ISSET only reads within the set, and every index is below CPU_SETSIZE.
    Ok((0..CPUS_MAX).filter(|cpu| unsafe { libc::CPU_ISSET(*cpu, &set) }).collect())
}

/// Binds the calling thread to one CPU until it is bound anew; threads it starts later inherit that.
///
/// # Errors
/// There is no such CPU, or the process may not use it.
pub fn pin_current_thread(cpu: usize) -> Result<(), TuningError> {
    if cpu >= CPUS_MAX {
        return Err(TuningError::NoSuchCpu { cpu, max: CPUS_MAX - 1 });
    }
    let mut set = empty_set();
    // SAFETY: `cpu` is below CPU_SETSIZE, checked above, so the write stays within the set.
    unsafe { libc::CPU_SET(cpu, &mut set) };
    // SAFETY: `set` is a live cpu_set_t and its true size is passed; 0 means the calling thread.
    let result = unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set) };
    if result == 0 { Ok(()) } else { Err(TuningError::Pin { cpu, source: io::Error::last_os_error() }) }
}

fn empty_set() -> libc::cpu_set_t {
    // SAFETY: cpu_set_t is an array of integers, for which all zeroes is a value: the empty set.
    unsafe { std::mem::zeroed() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pinned_thread_may_use_that_cpu_alone() {
        let allowed = allowed_cpus().expect("the kernel tells");
        let last = *allowed.last().expect("at least one CPU");
        std::thread::spawn(move || {
            pin_current_thread(last).expect("an allowed CPU");
            assert_eq!(allowed_cpus().expect("the kernel tells"), [last]);
        })
        .join()
        .expect("pinned");
        assert_eq!(allowed_cpus().expect("the kernel tells"), allowed, "other threads are not touched");
    }

    #[test]
    fn a_cpu_that_does_not_exist_is_refused() {
        let absent = pin_current_thread(CPUS_MAX - 1);
        if allowed_cpus().expect("the kernel tells").len() < CPUS_MAX {
            assert!(matches!(absent, Err(TuningError::Pin { .. })), "{absent:?}");
        }
        assert!(matches!(pin_current_thread(CPUS_MAX), Err(TuningError::NoSuchCpu { .. })));
    }
}
