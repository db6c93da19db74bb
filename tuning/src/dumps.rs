//! Keeping a process's memory from being written out or looked at.

use std::io;

/// From now on the kernel writes no core file of this process, and other processes of the same user can neither trace it
/// nor read its memory below `/proc` (prctl(2), PR_SET_DUMPABLE; setrlimit(2), RLIMIT_CORE). Children started later keep the
/// limit; a new program in them may be traced again.
///
/// # Errors
/// The kernel refused, which only a strange seccomp filter makes it do.
pub fn forbid_dumps() -> io::Result<()> {
    let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `none` is a live rlimit, which the kernel only reads.
    if unsafe { libc::setrlimit(libc::RLIMIT_CORE, &raw const none) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: PR_SET_DUMPABLE takes plain numbers and no pointer; 0 is one that it knows.
    if unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_the_process_is_dumped_from_then_on() {
        forbid_dumps().expect("the kernel takes it");
        // SAFETY: PR_GET_DUMPABLE takes no argument.
        assert_eq!(unsafe { libc::prctl(libc::PR_GET_DUMPABLE) }, 0);
        let mut limit = libc::rlimit { rlim_cur: 1, rlim_max: 1 };
        // SAFETY: `limit` is a live rlimit, which the kernel fills.
        assert_eq!(unsafe { libc::getrlimit(libc::RLIMIT_CORE, &raw mut limit) }, 0);
        assert_eq!((limit.rlim_cur, limit.rlim_max), (0, 0));
    }
}
