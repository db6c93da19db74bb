//! Gives up what a process has no use for: capabilities, new privileges, files, system calls.
//!
//! Four layers, each of which holds without the others:
//! - `no_new_privs`: nothing this process could start has more rights than it;
//! - capabilities ([`capabilities`]): none are left, nor can any come back;
//! - Landlock ([`files`]): files beneath the paths of the [`Plan`], no others;
//! - seccomp ([`calls`]): the system calls of a list, in two steps: what a start needs, and less when it is over.
//!
//! Capabilities and Landlock are the thread's that gives up and of those it starts later. So [`enter`] comes first
//! of all, while there is one thread. The capabilities to bind sockets stay with that one until [`Sandbox::bound`];
//! what has to be started before goes through [`Sandbox::start`], whose threads never have them.
//!
//! Invariants:
//! - Nothing here can be undone, and nothing is done twice: each step is a value that the next one takes.
//! - A layer the host lacks is left out and told in the [`Report`]; what to make of that is the caller's choice.

mod calls;
mod capabilities;
mod files;
mod probe;

use std::fmt;
use std::fs;
use std::io;
use std::thread;

pub use files::{Access, PathRule, replaceable};
pub use probe::{Ground, Probe, Verdict};

/// What must still work.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// Files and directories; what is missing is passed over.
    pub paths: Vec<PathRule>,
}

/// Why the process could not be confined. It may be in part by then: end it.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// Threads that run already would keep what is given up; enter earlier.
    #[error("{threads} threads run already; the sandbox must be entered by the only one")]
    TooLate {
        /// How many.
        threads: usize,
    },
    /// The thread of [`Sandbox::start`] could not be started.
    #[error("cannot start a thread")]
    Thread(#[source] io::Error),
    /// The kernel refused to take capabilities away.
    #[error("cannot drop capabilities: {0}")]
    Capabilities(String),
    /// The last filter could not be put upon every thread.
    #[error("cannot restrict the system calls of all threads: {0}")]
    Seal(String),
}

/// One layer of the sandbox on this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Layer {
    /// In force, with a word on how far.
    InForce(String),
    /// Not to be had here, and why.
    Missing(String),
}

impl Layer {
    /// Whether it is in force.
    pub fn is_in_force(&self) -> bool {
        matches!(self, Self::InForce(_))
    }
}

impl fmt::Display for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InForce(how) => f.write_str(how),
            Self::Missing(why) => write!(f, "missing ({why})"),
        }
    }
}

/// What is in force.
#[derive(Clone, Debug)]
pub struct Report {
    /// Files.
    pub landlock: Layer,
    /// System calls.
    pub seccomp: Layer,
    /// Capabilities.
    pub capabilities: Layer,
    /// Whether the process runs as root, who owns files whatever capabilities it has.
    pub is_root: bool,
}

impl Report {
    /// The layers that are missing, by name.
    pub fn missing(&self) -> impl Iterator<Item = (&'static str, &Layer)> {
        let layers =
            [("landlock", &self.landlock), ("seccomp", &self.seccomp), ("capabilities", &self.capabilities)];
        layers.into_iter().filter(|(_, layer)| !layer.is_in_force())
    }
}

/// A process that has given up what its start does not need.
#[derive(Debug)]
#[must_use = "the start's rights are kept until it is sealed"]
pub struct Sandbox {
    report: Report,
}

/// Gives up what no start needs. Only for the thread that is the process's only one.
///
/// # Errors
/// [`SandboxError::TooLate`], [`SandboxError::Capabilities`].
pub fn enter(plan: &Plan) -> Result<Sandbox, SandboxError> {
    let threads = fs::read_dir("/proc/self/task").map_or(1, Iterator::count);
    if threads > 1 {
        return Err(SandboxError::TooLate { threads });
    }
    let privileges = calls::set_no_new_privs();
    let capabilities = capabilities::keep_for_binding().map_err(SandboxError::Capabilities)?;
    let landlock = files::confine(&plan.paths);
    let seccomp = match privileges {
        Ok(()) => calls::restrict_start(),
        Err(error) => Layer::Missing(format!("no_new_privs is refused: {error}")),
    };
    let report = Report { landlock, seccomp, capabilities, is_root: capabilities::is_root() };
    Ok(Sandbox { report })
}

impl Sandbox {
    /// What is in force, or will be once it is sealed.
    pub fn report(&self) -> &Report {
        &self.report
    }

    /// Runs `start` on a thread that has no capabilities, so that none of the threads started there do. Those that give
    /// themselves no name have this thread's.
    ///
    /// # Errors
    /// [`SandboxError::Thread`], [`SandboxError::Capabilities`]; `start` did not run then.
    ///
    /// # Panics
    /// When `start` does.
    pub fn start<T: Send>(&self, name: &str, start: impl FnOnce() -> T + Send) -> Result<T, SandboxError> {
        thread::scope(|scope| {
            let started = thread::Builder::new().name(name.to_owned()).spawn_scoped(scope, || {
                capabilities::drop_all().map_err(SandboxError::Capabilities)?;
                Ok(start())
            });
            match started.map_err(SandboxError::Thread)?.join() {
                Ok(result) => result,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }

    /// All sockets are bound: the calling thread, which was the first, gives up the rest of its capabilities.
    ///
    /// # Errors
    /// [`SandboxError::Capabilities`].
    pub fn bound(self) -> Result<Bound, SandboxError> {
        capabilities::drop_all().map_err(SandboxError::Capabilities)?;
        Ok(Bound { report: self.report })
    }
}

/// A process without capabilities that has not finished its start.
#[derive(Debug)]
#[must_use = "the start's system calls are allowed until it is sealed"]
pub struct Bound {
    report: Report,
}

impl Bound {
    /// The start is over: takes the system calls that only it needs from all threads, those that run and those to
    /// come. Tells what is in force for the rest of the process.
    ///
    /// # Errors
    /// [`SandboxError::Seal`].
    pub fn seal(self) -> Result<Report, SandboxError> {
        if self.report.seccomp.is_in_force() {
            calls::restrict_service().map_err(SandboxError::Seal)?;
        }
        Ok(self.report)
    }
}

/// Whether this host has every layer, as far as can be told without entering.
pub fn is_available() -> bool {
    files::is_available() && calls::is_available()
}
