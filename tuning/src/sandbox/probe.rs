//! Attempts at what a sandbox refuses, and at what must still work, to show on a host what it comes to. Each is made in a
//! process of its own that has entered and sealed the sandbox: some are its end.

use std::ffi::CStr;
use std::fs;
use std::io;
use std::net::ToSocketAddrs as _;
use std::path::PathBuf;
use std::ptr::{null, null_mut};
use std::thread;

/// What becomes of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It works.
    Works,
    /// It fails with an error.
    Fails,
    /// The process is killed.
    Kills,
}

impl Verdict {
    /// The word for lists.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Works => "works",
            Self::Fails => "fails",
            Self::Kills => "kills",
        }
    }
}

/// What attempts are made on.
#[derive(Clone, Debug)]
pub struct Ground {
    /// A directory that may be written to.
    pub writable: PathBuf,
    /// A file that anybody may read, beneath none of the allowed paths.
    pub outside: PathBuf,
}

/// An attempt.
#[derive(Clone, Copy, Debug)]
pub struct Probe {
    /// Its name in lists.
    pub name: &'static str,
    /// What becomes of it in the sandbox.
    pub expected: Verdict,
    attempt: fn(&Ground) -> io::Result<()>,
}

impl Probe {
    /// All of them.
    pub const ALL: &'static [Self] = &[
        Self::new("start a program", Verdict::Kills, start_program),
        Self::new("trace a process", Verdict::Kills, trace),
        Self::new("mount a file system", Verdict::Kills, mount),
        Self::new("leave the namespaces", Verdict::Kills, unshare),
        Self::new("load a BPF program", Verdict::Kills, load_bpf),
        Self::new("read another process", Verdict::Kills, read_process),
        Self::new("fork", Verdict::Fails, fork),
        Self::new("signal another process", Verdict::Fails, signal),
        Self::new("open a packet socket", Verdict::Fails, packet_socket),
        Self::new("make an io_uring", Verdict::Fails, make_ring),
        Self::new("make memory executable", Verdict::Fails, executable_memory),
        Self::new("become another user", Verdict::Fails, become_another),
        Self::new("bind a thread to a CPU", Verdict::Fails, bind_to_cpu),
        Self::new("read a file elsewhere", Verdict::Fails, read_outside),
        Self::new("read another process's environment", Verdict::Fails, read_environment),
        Self::new("list the root directory", Verdict::Fails, list_root),
        Self::new("write beside the allowed", Verdict::Fails, write_outside),
        Self::new("write, rename and remove a file", Verdict::Works, write_inside),
        Self::new("start a thread", Verdict::Works, start_thread),
        Self::new("resolve a name", Verdict::Works, resolve),
        Self::new("name the functions of a backtrace", Verdict::Works, backtrace),
    ];

    const fn new(name: &'static str, expected: Verdict, attempt: fn(&Ground) -> io::Result<()>) -> Self {
        Self { name, expected, attempt }
    }

    /// The probe of a name.
    pub fn named(name: &str) -> Option<&'static Self> {
        Self::ALL.iter().find(|probe| probe.name == name)
    }

    /// Makes the attempt.
    ///
    /// # Errors
    /// What the system said. The process may be killed instead.
    pub fn attempt(&self, ground: &Ground) -> io::Result<()> {
        (self.attempt)(ground)
    }
}

/// The result of a call that says -1 when it fails.
fn checked(result: libc::c_long) -> io::Result<()> {
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn start_program(_: &Ground) -> io::Result<()> {
    const PATH: &CStr = c"/bin/true";
    let arguments = [PATH.as_ptr(), null()];
    // SAFETY: both lists end with null and live here; when it works, nothing of this process is left.
    checked(unsafe { libc::execv(PATH.as_ptr(), arguments.as_ptr()) }.into())
}

fn trace(_: &Ground) -> io::Result<()> {
    // SAFETY: asks to be traced by the parent, who does not: no memory is touched.
    checked(unsafe {
        libc::ptrace(libc::PTRACE_TRACEME, 0, null_mut::<libc::c_void>(), null_mut::<libc::c_void>())
    })
}

fn mount(_: &Ground) -> io::Result<()> {
    // SAFETY: constant texts; a mount on a path that is not there changes nothing.
    checked(
        unsafe { libc::mount(c"none".as_ptr(), c"/nonexistent".as_ptr(), c"tmpfs".as_ptr(), 0, null()) }
            .into(),
    )
}

fn unshare(_: &Ground) -> io::Result<()> {
    // SAFETY: plain numbers.
    checked(unsafe { libc::unshare(libc::CLONE_NEWNS) }.into())
}

fn load_bpf(_: &Ground) -> io::Result<()> {
    // SAFETY: a null attribute of no bytes is refused before it is read.
    checked(unsafe { libc::syscall(libc::SYS_bpf, 0, null::<u8>(), 0) })
}

fn read_process(_: &Ground) -> io::Result<()> {
    // SAFETY: no memory is named on either side.
    checked(unsafe { libc::process_vm_readv(libc::getppid(), null(), 0, null(), 0, 0) } as libc::c_long)
}

fn fork(_: &Ground) -> io::Result<()> {
    // SAFETY: the child ends at once, by the one call that is safe to make there.
    let child = unsafe { libc::fork() };
    if child == 0 {
        // SAFETY: ends the child without running anything of ours.
        unsafe { libc::_exit(0) };
    }
    checked(child.into())
}

fn signal(_: &Ground) -> io::Result<()> {
    // SAFETY: signal 0 is none; whether it could be sent is all that is asked.
    checked(unsafe { libc::kill(libc::getppid(), 0) }.into())
}

fn packet_socket(_: &Ground) -> io::Result<()> {
    // SAFETY: plain numbers; the descriptor is closed with the process.
    checked(unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW, 0) }.into())
}

fn make_ring(_: &Ground) -> io::Result<()> {
    // `struct io_uring_params` has 120 bytes.
    let mut parameters = [0_u64; 15];
    // SAFETY: the kernel writes to the parameters, which live here; the descriptor is closed with the process.
    checked(unsafe { libc::syscall(libc::SYS_io_uring_setup, 1, parameters.as_mut_ptr()) })
}

fn executable_memory(_: &Ground) -> io::Result<()> {
    let protection = libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC;
    // SAFETY: new memory at an address of the kernel's choice, which nobody uses.
    let memory =
        unsafe { libc::mmap(null_mut(), 4096, protection, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0) };
    if memory == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn become_another(_: &Ground) -> io::Result<()> {
    // SAFETY: plain numbers.
    checked(unsafe { libc::syscall(libc::SYS_setuid, 65_534) })
}

fn bind_to_cpu(_: &Ground) -> io::Result<()> {
    let cpu = *crate::allowed_cpus().map_err(io::Error::other)?.first().unwrap_or(&0);
    crate::pin_current_thread(cpu).map_err(|error| match error {
        crate::TuningError::Pin { source, .. } => source,
        other => io::Error::other(other),
    })
}

fn read_outside(ground: &Ground) -> io::Result<()> {
    fs::File::open(&ground.outside).map(drop)
}

fn read_environment(_: &Ground) -> io::Result<()> {
    fs::read(format!("/proc/{}/environ", std::os::unix::process::parent_id())).map(drop)
}

fn list_root(_: &Ground) -> io::Result<()> {
    fs::read_dir("/").map(drop)
}

fn write_outside(ground: &Ground) -> io::Result<()> {
    let name = format!(".sandbox-{}", std::process::id());
    let path = ground.outside.with_file_name(name);
    fs::write(&path, "x")?;
    fs::remove_file(path)
}

fn write_inside(ground: &Ground) -> io::Result<()> {
    let path = ground.writable.join(format!(".sandbox-{}", std::process::id()));
    let renamed = path.with_extension("renamed");
    fs::write(&path, "x")?;
    fs::rename(&path, &renamed)?;
    fs::remove_file(renamed)
}

fn start_thread(_: &Ground) -> io::Result<()> {
    let threads: Vec<_> = (0..2).map(|_| thread::Builder::new().spawn(|| {})).collect::<io::Result<_>>()?;
    threads
        .into_iter()
        .try_for_each(|thread| thread.join().map_err(|_| io::Error::other("a thread panicked")))
}

fn resolve(_: &Ground) -> io::Result<()> {
    ("localhost", 1).to_socket_addrs().map(drop)
}

fn backtrace(_: &Ground) -> io::Result<()> {
    let text = std::backtrace::Backtrace::force_capture().to_string();
    // Symbols come from the binary itself, which must be readable for them. A function that was inlined has no path before
    // its name, but its file.
    let is_named = text.contains("sandbox::probe") || text.contains("sandbox/probe.rs");
    if text.contains("backtrace") && is_named {
        return Ok(());
    }
    Err(io::Error::other(format!("no names in it: {text}")))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_are_unique_and_found() {
        let names: BTreeSet<_> = Probe::ALL.iter().map(|probe| probe.name).collect();
        assert_eq!(names.len(), Probe::ALL.len());
        assert!(names.iter().all(|name| Probe::named(name).is_some()));
        assert!(Probe::named("fly").is_none());
    }
}
