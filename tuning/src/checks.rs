//! Whether the host's settings suit a gateway: what was found, what is wanted, and the command that mends it.

use std::fmt;
use std::fs;
use std::io;

use super::allowed_cpus;

/// Oldest kernel with all we use: single issuer and deferred task work (6.1), multishot receive (6.0).
const KERNEL_MIN: (u32, u32) = (6, 1);
/// A socket takes bursts of this many bytes while its core is busy: 25 ms at about 1.3 Gbit/s.
const SOCKET_BUFFER_BYTES: u64 = 4 << 20;
/// 256 column families with a few dozen files each, connections to upstreams, and room.
const FILES_MIN: u64 = 65_536;
/// Rings and registered buffers of 64 cores; memory of rings is not charged here since kernel 5.12, buffers are.
const MEMLOCK_BYTES_MIN: u64 = 8 << 20;

/// How much a finding matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// As wanted.
    Good,
    /// Costs some speed.
    Advice,
    /// Costs much speed, or fails under load.
    Warning,
    /// The gateway cannot run, or only on its slower ways.
    Error,
}

impl Severity {
    /// The word for lists.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Advice => "advice",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

/// One setting of the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The setting, by the name under which it is known.
    pub name: &'static str,
    /// What it is.
    pub found: String,
    /// What it should be, and why.
    pub wanted: &'static str,
    /// What to do; empty when all is well.
    pub fix: String,
    /// How much it matters.
    pub severity: Severity,
}

impl Finding {
    fn new(name: &'static str, found: impl fmt::Display, wanted: &'static str) -> Self {
        Self { name, found: found.to_string(), wanted, fix: String::new(), severity: Severity::Good }
    }

    /// Makes it a fault unless `good`.
    fn unless(mut self, good: bool, severity: Severity, fix: impl Into<String>) -> Self {
        if !good {
            self.severity = severity;
            self.fix = fix.into();
        }
        self
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} is {}; wanted: {}", self.severity.name(), self.name, self.found, self.wanted)?;
        if self.fix.is_empty() { Ok(()) } else { write!(f, "; do: {}", self.fix) }
    }
}

/// Looks at this host. Settings it does not tell are left out.
pub fn checks() -> Vec<Finding> {
    let cpus = allowed_cpus().unwrap_or_default();
    let governors: Vec<String> = cpus
        .iter()
        .filter_map(|cpu| read(&format!("/sys/devices/system/cpu/cpu{cpu}/cpufreq/scaling_governor")))
        .collect();
    [
        read("/proc/sys/kernel/osrelease").map(|text| kernel(&text)),
        Some(io_uring(read("/proc/sys/kernel/io_uring_disabled").as_deref(), probe_io_uring())),
        read("/proc/sys/net/core/rmem_max").and_then(|text| socket_buffer("net.core.rmem_max", &text)),
        read("/proc/sys/net/core/wmem_max").and_then(|text| socket_buffer("net.core.wmem_max", &text)),
        limit(libc::RLIMIT_NOFILE).map(files),
        limit(libc::RLIMIT_MEMLOCK).map(memlock),
        read("/sys/kernel/mm/transparent_hugepage/enabled").and_then(|text| huge_pages(&text)),
        governor(&governors),
        read("/sys/fs/cgroup/cpu.max").and_then(|text| cpu_quota(&text, cpus.len())),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn read(path: &str) -> Option<String> {
    fs::read_to_string(path).ok()
}

/// `6.1.0-18-amd64` and the like.
fn kernel(release: &str) -> Finding {
    let release = release.trim();
    let version = parse_release(release);
    Finding::new("kernel", release, "6.1 or newer: io_uring with multishot receive and deferred task work")
        .unless(
            version.is_some_and(|version| version >= KERNEL_MIN),
            Severity::Error,
            "install a newer kernel; Debian 12 has 6.1",
        )
}

fn parse_release(release: &str) -> Option<(u32, u32)> {
    let mut figures = release.split(|c: char| !c.is_ascii_digit());
    Some((figures.next()?.parse().ok()?, figures.next()?.parse().ok()?))
}

/// The sysctl (absent before 6.6) and what the system call itself says: a container may forbid it as well.
fn io_uring(disabled: Option<&str>, probe: Probe) -> Finding {
    let sysctl = disabled.map_or("absent", str::trim);
    let found = match probe {
        Probe::Allowed => "allowed".to_owned(),
        Probe::Forbidden => format!("forbidden (kernel.io_uring_disabled is {sysctl})"),
        Probe::Absent => "not in this kernel".to_owned(),
    };
    let fix = match (probe, sysctl) {
        (Probe::Forbidden, "1" | "2") => "sysctl -w kernel.io_uring_disabled=0",
        (Probe::Forbidden, _) => {
            "allow io_uring_setup, io_uring_enter and io_uring_register in the seccomp profile of the container"
        }
        _ => "install a kernel with CONFIG_IO_URING",
    };
    Finding::new("io_uring", found, "allowed: without it the cores use epoll").unless(
        probe == Probe::Allowed,
        Severity::Error,
        fix,
    )
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Probe {
    Allowed,
    Forbidden,
    Absent,
}

/// Asks for a ring of no entries, which is never granted; the way of refusing tells.
fn probe_io_uring() -> Probe {
    // SAFETY: with 0 entries and no parameter block the kernel can only refuse; it reads and writes nothing of ours.
    let result = unsafe { libc::syscall(libc::SYS_io_uring_setup, 0, std::ptr::null_mut::<libc::c_void>()) };
    if result >= 0 {
        return Probe::Allowed;
    }
    match io::Error::last_os_error().raw_os_error() {
        Some(libc::ENOSYS) => Probe::Absent,
        Some(libc::EPERM | libc::EACCES) => Probe::Forbidden,
        _ => Probe::Allowed,
    }
}

fn socket_buffer(name: &'static str, text: &str) -> Option<Finding> {
    let bytes: u64 = text.trim().parse().ok()?;
    let finding =
        Finding::new(name, bytes, "4194304 or more: UDP bursts are lost when a socket's buffer is small");
    let fix = format!("sysctl -w {name}={SOCKET_BUFFER_BYTES}");
    Some(finding.unless(bytes >= SOCKET_BUFFER_BYTES, Severity::Warning, fix))
}

/// A soft and a hard resource limit.
#[derive(Clone, Copy, Debug)]
struct Limit {
    soft: u64,
    hard: u64,
}

/// Which limit: the C library's own type for it differs between libraries.
#[cfg(target_env = "gnu")]
type Resource = libc::__rlimit_resource_t;
#[cfg(not(target_env = "gnu"))]
type Resource = libc::c_int;

fn limit(resource: Resource) -> Option<Limit> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is a live, writable rlimit, which is all that getrlimit touches.
    let result = unsafe { libc::getrlimit(resource, &raw mut limit) };
    (result == 0).then_some(Limit { soft: limit.rlim_cur, hard: limit.rlim_max })
}

/// Files this process may have open, sockets among them; `None` when the host does not tell.
pub fn open_files_max() -> Option<u64> {
    limit(libc::RLIMIT_NOFILE).map(|limit| limit.soft)
}

fn figure(limit: u64) -> String {
    if limit == libc::RLIM_INFINITY { "unlimited".to_owned() } else { limit.to_string() }
}

fn files(limit: Limit) -> Finding {
    let fix = if limit.hard >= FILES_MIN {
        format!("ulimit -n {FILES_MIN}, or LimitNOFILE={FILES_MIN} in the service")
    } else {
        format!("LimitNOFILE={FILES_MIN} in the service, or raise nofile in /etc/security/limits.conf")
    };
    Finding::new(
        "RLIMIT_NOFILE",
        figure(limit.soft),
        "65536 or more: storage and connections need open files",
    )
    .unless(limit.soft >= FILES_MIN, Severity::Warning, fix)
}

fn memlock(limit: Limit) -> Finding {
    let wanted = "8388608 or more: buffers registered with io_uring are locked memory";
    Finding::new("RLIMIT_MEMLOCK", figure(limit.soft), wanted).unless(
        limit.soft >= MEMLOCK_BYTES_MIN,
        Severity::Warning,
        "LimitMEMLOCK=infinity in the service, or ulimit -l unlimited",
    )
}

/// `always [madvise] never`: the word in brackets holds.
fn huge_pages(text: &str) -> Option<Finding> {
    let (_, rest) = text.split_once('[')?;
    let (chosen, _) = rest.split_once(']')?;
    let finding = Finding::new(
        "transparent_hugepage",
        chosen,
        "madvise or never: always makes memory grow and stalls threads",
    );
    let fix = "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled";
    Some(finding.unless(chosen != "always", Severity::Advice, fix))
}

/// The governors of the CPUs we may use; none on hosts that do not scale (most virtual machines).
fn governor(governors: &[String]) -> Option<Finding> {
    let slow = governors.iter().map(|text| text.trim()).find(|name| *name != "performance");
    let found = slow.or_else(|| governors.first().map(|text| text.trim()))?;
    let finding =
        Finding::new("cpu governor", found, "performance: others are slow to speed up after idling");
    Some(finding.unless(slow.is_none(), Severity::Advice, "cpupower frequency-set -g performance"))
}

/// `200000 100000` is two CPUs' worth of time, `max 100000` no quota.
fn cpu_quota(text: &str, cpu_count: usize) -> Option<Finding> {
    let (quota, period) = text.trim().split_once(' ')?;
    let wanted = "at least one CPU of time for each core: a core that is throttled stalls all its users";
    if quota == "max" {
        return Some(Finding::new("cgroup cpu.max", "no quota", wanted));
    }
    let (quota, period): (u64, u64) = (quota.parse().ok()?, period.parse().ok()?);
    let enough = quota >= period.checked_mul(u64::try_from(cpu_count).ok()?)?;
    let found = format!("{quota} us in every {period} us for {cpu_count} CPUs");
    let fix = "run no more cores than the quota has CPUs, or give whole CPUs with a cpuset instead";
    Some(Finding::new("cgroup cpu.max", found, wanted).unless(enough, Severity::Warning, fix))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn severity(finding: Option<Finding>) -> Option<Severity> {
        finding.map(|finding| {
            assert_eq!(finding.fix.is_empty(), finding.severity == Severity::Good, "{finding}");
            finding.severity
        })
    }

    #[test]
    fn kernels_from_6_1_on_are_good() {
        for release in ["6.1.0-18-amd64\n", "6.18.44-custom", "6.10.0", "7.0", "10.2.1"] {
            assert_eq!(severity(Some(kernel(release))), Some(Severity::Good), "{release}");
        }
        for release in ["6.0.19", "5.15.0-91-generic", "4.19", "", "unknown"] {
            assert_eq!(severity(Some(kernel(release))), Some(Severity::Error), "{release}");
        }
    }

    #[test]
    fn a_forbidden_ring_says_who_forbids_it() {
        assert_eq!(severity(Some(io_uring(None, Probe::Allowed))), Some(Severity::Good));
        assert_eq!(severity(Some(io_uring(Some("0\n"), Probe::Allowed))), Some(Severity::Good));
        let by_sysctl = io_uring(Some("2\n"), Probe::Forbidden);
        assert_eq!((by_sysctl.severity, by_sysctl.fix.contains("sysctl")), (Severity::Error, true));
        let by_container = io_uring(Some("0\n"), Probe::Forbidden);
        assert!(by_container.fix.contains("seccomp"), "{by_container}");
        let absent = io_uring(None, Probe::Absent);
        assert!(absent.fix.contains("CONFIG_IO_URING"), "{absent}");
    }

    #[test]
    fn small_socket_buffers_are_warned_about_with_the_command() {
        let small = socket_buffer("net.core.rmem_max", "212992\n").expect("a figure");
        assert_eq!((small.severity, &*small.fix), (Severity::Warning, "sysctl -w net.core.rmem_max=4194304"));
        assert_eq!(severity(socket_buffer("net.core.rmem_max", "4194304\n")), Some(Severity::Good));
        assert_eq!(socket_buffer("net.core.rmem_max", "?"), None);
    }

    #[test]
    fn limits_are_judged_by_what_holds_now() {
        let few = files(Limit { soft: 1024, hard: 1_048_576 });
        assert!(few.severity == Severity::Warning && few.fix.starts_with("ulimit -n 65536"), "{few}");
        let hard = files(Limit { soft: 1024, hard: 4096 });
        assert!(hard.fix.starts_with("LimitNOFILE"), "{hard}");
        let unlimited = Limit { soft: libc::RLIM_INFINITY, hard: libc::RLIM_INFINITY };
        assert_eq!(files(unlimited).severity, Severity::Good);
        assert_eq!(memlock(unlimited).found, "unlimited");
        assert_eq!(memlock(Limit { soft: 65_536, hard: 65_536 }).severity, Severity::Warning);
    }

    #[test]
    fn the_word_in_brackets_is_the_one_that_holds() {
        assert_eq!(severity(huge_pages("[always] madvise never\n")), Some(Severity::Advice));
        assert_eq!(severity(huge_pages("always [madvise] never\n")), Some(Severity::Good));
        assert_eq!(severity(huge_pages("always madvise [never]\n")), Some(Severity::Good));
        assert_eq!(huge_pages("always madvise never"), None);
    }

    #[test]
    fn one_slow_governor_is_enough_to_mention() {
        let names = |names: &[&str]| names.iter().map(|name| format!("{name}\n")).collect::<Vec<_>>();
        assert_eq!(severity(governor(&names(&["performance", "performance"]))), Some(Severity::Good));
        let mixed = governor(&names(&["performance", "schedutil"])).expect("a finding");
        assert_eq!((mixed.severity, &*mixed.found), (Severity::Advice, "schedutil"));
        assert_eq!(governor(&[]), None);
    }

    #[test]
    fn a_quota_below_the_cpus_is_warned_about() {
        assert_eq!(severity(cpu_quota("max 100000\n", 8)), Some(Severity::Good));
        assert_eq!(severity(cpu_quota("200000 100000\n", 2)), Some(Severity::Good));
        assert_eq!(severity(cpu_quota("150000 100000\n", 2)), Some(Severity::Warning));
        assert_eq!(cpu_quota("strange", 2), None);
    }

    #[test]
    fn this_host_can_be_checked() {
        let findings = checks();
        for name in ["kernel", "io_uring", "RLIMIT_NOFILE"] {
            assert_eq!(findings.iter().filter(|finding| finding.name == name).count(), 1, "{name}");
        }
    }
}
