//! Words of memory that a file keeps: what a process wrote there stands in the file although it was killed a moment later.
//! Nothing is promised over a crash of the machine.
//!
//! Invariants:
//! - A mapping is never taken down, so references to it hold as long as the process.
//! - The file's blocks are there before it is mapped, so that a disk which is full later does not take the memory away. Nobody
//!   may shorten the file meanwhile: it belongs into a directory of the process's own.

use std::fs::OpenOptions;
use std::io;
use std::os::fd::AsRawFd as _;
use std::path::Path;
use std::ptr::null_mut;
use std::sync::atomic::AtomicU64;

/// Maps the first `count` words of a file, which is made where there is none; new words are 0. Takes the memory for the rest
/// of the process's life.
///
/// # Errors
/// What the kernel says: no such directory, no room, no right.
pub fn map(path: &Path, count: usize) -> io::Result<&'static [AtomicU64]> {
    let too_many = || io::Error::new(io::ErrorKind::InvalidInput, "too many words, or none");
    let bytes = count.checked_mul(size_of::<AtomicU64>()).filter(|bytes| *bytes > 0).ok_or_else(too_many)?;
    let length = libc::off_t::try_from(bytes).map_err(|_| too_many())?;
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
    // SAFETY: no memory is handed over, and the descriptor is open as long as `file`.
    let failed = unsafe { libc::posix_fallocate(file.as_raw_fd(), 0, length) };
    if failed != 0 {
        return Err(io::Error::from_raw_os_error(failed));
    }
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: the kernel chooses the place, so no memory that is in use is replaced; the mapping outlives the descriptor.
    let at = unsafe { libc::mmap(null_mut(), bytes, protection, libc::MAP_SHARED, file.as_raw_fd(), 0) };
    if at == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the mapping is `count` words long, begins at a page and so is aligned, holds bytes of the file or zeros, each of
    // which is a valid word, and is never taken down. It is only ever reached through atomics, here and by others who map it.
    Ok(unsafe { std::slice::from_raw_parts(at.cast::<AtomicU64>(), count) })
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering::Relaxed;

    use super::*;

    #[test]
    fn what_was_written_is_there_for_whoever_maps_the_file_next() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("words");
        let first = map(&path, 1_000).unwrap();
        assert!(first.iter().all(|word| word.load(Relaxed) == 0));
        first[7].store(11, Relaxed);
        first[999].fetch_add(13, Relaxed);
        let next = map(&path, 1_000).unwrap();
        assert_eq!((next[7].load(Relaxed), next[999].load(Relaxed)), (11, 13));
        assert_eq!(std::fs::metadata(&path).unwrap().len(), 8_000);
    }

    #[test]
    fn what_cannot_be_mapped_is_told() {
        let directory = tempfile::tempdir().unwrap();
        assert!(map(&directory.path().join("none").join("words"), 8).is_err());
        assert!(map(&directory.path().join("words"), 0).is_err());
        assert!(map(&directory.path().join("words"), usize::MAX).is_err());
    }
}
