//! CPU time of another process, from the kernel's own accounting.

use std::fs;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};

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

/// CPU time of the calling thread (`/proc/thread-self/schedstat`); zero where the
/// kernel does not say.
pub fn thread_time() -> Duration {
    let text = fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanos = text.split_whitespace().next().and_then(|first| first.parse().ok());
    Duration::from_nanos(nanos.unwrap_or(0))
}

/// Binds the calling thread to a CPU by asking `taskset` (util-linux), which every
/// supported system has; a system call of our own would need unsafe code here.
pub fn pin_thread(cpu: usize) -> anyhow::Result<()> {
    let thread = fs::read_link("/proc/thread-self").context("no /proc/thread-self")?;
    let id = thread.file_name().context("odd /proc/thread-self")?;
    let status = Command::new("taskset")
        .args(["--cpu-list", "--pid", &cpu.to_string()])
        .arg(id)
        .stdout(Stdio::null())
        .status()
        .context("cannot run taskset")?;
    if status.success() { Ok(()) } else { bail!("taskset refused CPU {cpu}") }
}

/// CPUs that a process may run on (`/proc/PID/status`, `Cpus_allowed_list`).
pub fn allowed_cpus(pid: u32) -> anyhow::Result<Vec<usize>> {
    let status =
        fs::read_to_string(format!("/proc/{pid}/status")).with_context(|| format!("no process {pid}"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    parse_list(line.context("no Cpus_allowed_list")?.trim())
}

/// Reads a list such as `0-2,5`.
fn parse_list(text: &str) -> anyhow::Result<Vec<usize>> {
    let mut cpus = Vec::new();
    for part in text.split(',').filter(|part| !part.is_empty()) {
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        cpus.extend(from.parse::<usize>()?..=to.parse()?);
    }
    Ok(cpus)
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
    fn lists_of_cpus_are_read() {
        assert_eq!(parse_list("0-2,5").unwrap(), [0, 1, 2, 5]);
        assert_eq!(parse_list("7").unwrap(), [7]);
        assert!(parse_list("x").is_err());
        assert!(!allowed_cpus(std::process::id()).unwrap().is_empty());
    }

    #[test]
    fn a_missing_process_is_an_error() {
        assert!(process_time(u32::MAX).is_err());
    }
}
