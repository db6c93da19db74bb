//! CPU time of another process, from the kernel's own accounting.

use std::fs;
use std::time::Duration;

use anyhow::Context;

/// CPU time (user and system) that all threads of a process have used, in
/// nanosecond resolution (`/proc/PID/task/TID/schedstat`, proc(5)). Threads that
/// have ended are not counted.
pub fn process_time(pid: u32) -> anyhow::Result<Duration> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).with_context(|| format!("no process {pid}"))?;
    let mut nanos = 0;
    for task in tasks {
        let path = task?.path().join("schedstat");
        // A thread may end between the listing and the reading.
        let Ok(text) = fs::read_to_string(&path) else { continue };
        let first = text.split_whitespace().next().context("empty schedstat")?;
        nanos += first.parse::<u64>().with_context(|| format!("odd schedstat {text:?}"))?;
    }
    Ok(Duration::from_nanos(nanos))
}

/// Resident memory of a process in bytes (`/proc/PID/status`, `VmRSS`).
pub fn resident_bytes(pid: u32) -> anyhow::Result<u64> {
    let status =
        fs::read_to_string(format!("/proc/{pid}/status")).with_context(|| format!("no process {pid}"))?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).context("no VmRSS")?;
    let kib: u64 = line.split_whitespace().nth(1).context("odd VmRSS")?.parse()?;
    Ok(kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_shows_in_the_time_of_its_process() {
        let before = process_time(std::process::id()).unwrap();
        let mut sum = 0u64;
        for n in 0..50_000_000u64 {
            sum = std::hint::black_box(sum.wrapping_add(n));
        }
        // The kernel brings the figure up to date when the thread is switched.
        std::thread::sleep(Duration::from_millis(1));
        assert!(process_time(std::process::id()).unwrap() > before);
        assert!(resident_bytes(std::process::id()).unwrap() > 0);
    }

    #[test]
    fn a_missing_process_is_an_error() {
        assert!(process_time(u32::MAX).is_err());
    }
}
