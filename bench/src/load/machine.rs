//! The machine and the build that a result was measured with.
//!
//! Read once, from files the kernel offers to everyone; what cannot be read is
//! left empty and shown as unknown.

use std::fs;

use serde::{Deserialize, Serialize};

/// Where a run was made.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Machine {
    /// CPU as the kernel names it.
    pub cpu_model: String,
    /// CPUs that are online.
    pub cpus: u64,
    /// Kernel release.
    pub kernel: String,
    /// Architecture.
    pub arch: String,
    /// Memory in bytes.
    pub memory_bytes: u64,
    /// Frequency governor of CPU 0; empty where there is none (most virtual machines).
    pub governor: String,
    /// Whether the CPU says that it is virtual.
    pub is_virtual: bool,
}

impl Machine {
    /// Asks the kernel.
    pub fn read() -> Self {
        let text = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let (cpu, memory) = (text("/proc/cpuinfo"), text("/proc/meminfo"));
        let release = text("/proc/sys/kernel/osrelease");
        let governor = text("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor");
        Self::of(&cpu, &memory, &release, &governor)
    }

    fn of(cpuinfo: &str, meminfo: &str, release: &str, governor: &str) -> Self {
        let field = |name: &str| {
            let line = cpuinfo.lines().find(|line| line.split(':').next().is_some_and(|n| n.trim() == name));
            line.and_then(|line| line.split_once(':')).map(|(_, value)| value.trim()).unwrap_or_default()
        };
        let total = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"));
        let kib = total.and_then(|rest| rest.split_whitespace().next()).and_then(|kib| kib.parse().ok());
        let processors = cpuinfo.lines().filter(|line| line.starts_with("processor")).count();
        // x86 says "model name"; other architectures may say "Hardware" or nothing.
        let model = [field("model name"), field("Hardware")].into_iter().find(|name| !name.is_empty());
        Self {
            cpu_model: model.unwrap_or_default().to_owned(),
            cpus: processors as u64,
            kernel: release.trim().to_owned(),
            arch: std::env::consts::ARCH.to_owned(),
            memory_bytes: kib.unwrap_or(0u64).saturating_mul(1024),
            governor: governor.trim().to_owned(),
            is_virtual: field("flags").split(' ').any(|flag| flag == "hypervisor"),
        }
    }
}

/// Which build ran.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Build {
    /// Version of the package.
    pub version: String,
    /// Commit it was built from, when `./dev` built it in a checkout.
    #[serde(default)]
    pub commit: Option<String>,
    /// Compiler.
    pub rustc: String,
    /// Cargo profile and optimisation level.
    pub profile: String,
}

impl Build {
    /// The running program; the values are put in by `build.rs`.
    pub fn of_this_program() -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION").into(),
            commit: option_env!("SLUICE_BUILD_COMMIT").map(Into::into),
            rustc: option_env!("SLUICE_BUILD_RUSTC").unwrap_or("unknown").into(),
            profile: option_env!("SLUICE_BUILD_PROFILE").unwrap_or("unknown").into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_files_are_read() {
        let cpuinfo = "processor\t: 0\nmodel name\t: Example CPU @ 2 GHz\nflags\t\t: fpu hypervisor\n\n\
                       processor\t: 1\nmodel name\t: Example CPU @ 2 GHz\n";
        let machine =
            Machine::of(cpuinfo, "MemTotal:       4096 kB\nMemFree: 1 kB\n", "6.1.0\n", "powersave\n");
        assert_eq!(machine.cpu_model, "Example CPU @ 2 GHz");
        assert_eq!((machine.cpus, machine.memory_bytes), (2, 4 << 20));
        assert_eq!((machine.kernel.as_str(), machine.governor.as_str()), ("6.1.0", "powersave"));
        assert!(machine.is_virtual);
    }

    #[test]
    fn unreadable_files_leave_fields_empty() {
        let machine = Machine::of("", "MemTotal: many kB", "", "");
        assert_eq!((machine.cpus, machine.memory_bytes, machine.is_virtual), (0, 0, false));
        assert!(machine.cpu_model.is_empty());
    }

    #[test]
    fn this_machine_and_this_build_are_known() {
        let machine = Machine::read();
        assert!(machine.cpus > 0 && machine.memory_bytes > 0 && !machine.kernel.is_empty());
        let build = Build::of_this_program();
        assert!(build.rustc.starts_with("rustc ") && build.profile.contains("opt-level"), "{build:?}");
    }
}
