//! The watchdog: one thread a process that looks at every core now and then, and logs the stack of one whose turn has
//! lasted too long.
//!
//! Invariants:
//! - A core pays two plain stores a turn. Only one that stalls is interrupted, once a turn.
//! - The watchdog ends with the last core; it sleeps longer while no core does anything.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::STALL_LONG;
use super::signal::{self, StackCell, Tid};
use crate::CoreId;
use crate::stats::CoreStats;

/// Between two looks at cores that work. A turn is looked at twice before it has lasted [`STALL_LONG`] and a half.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// Between two looks while no core has done anything since the last one.
const LOOK_EVERY_IDLE: Duration = Duration::from_millis(100);
/// How long a core may take to write down its stack; one that sleeps in the kernel may not be interruptible.
const ANSWER_WITHIN: Duration = Duration::from_millis(20);
/// At most one stack is logged in this time: finding names costs CPU time that a host in trouble lacks.
const REPORT_EVERY: Duration = Duration::from_secs(1);
/// Frames told of a stack.
const FRAMES_TOLD_MAX: usize = 24;

/// What the watchdog sees of a core.
#[derive(Debug)]
pub(crate) struct Watched {
    core: CoreId,
    thread: Tid,
    /// Odd while a turn runs; grows with every begin and end, so a turn has a number of its own.
    phase: AtomicU64,
    stack: StackCell,
    stats: Arc<CoreStats>,
    #[cfg(test)]
    pub(super) told: Mutex<Option<String>>,
}

impl Watched {
    /// A turn begins. Called by the core's thread alone, so a load and a store do.
    #[inline]
    pub(super) fn begin(&self) {
        let phase = self.phase.load(Ordering::Relaxed);
        self.phase.store(phase.wrapping_add(1) | 1, Ordering::Relaxed);
    }

    /// The turn ends.
    #[inline]
    pub(super) fn end(&self) {
        let phase = self.phase.load(Ordering::Relaxed);
        self.phase.store(phase.wrapping_add(1) & !1, Ordering::Relaxed);
    }
}

struct Registry {
    cores: Vec<Entry>,
    is_running: bool,
}

/// A core, and what was last seen of it.
struct Entry {
    watched: Arc<Watched>,
    phase: u64,
    since: Instant,
    is_told: bool,
}

static REGISTRY: Mutex<Registry> = Mutex::new(Registry { cores: Vec::new(), is_running: false });
static CHANGED: Condvar = Condvar::new();

fn registry() -> MutexGuard<'static, Registry> {
    // Entries are pushed and removed whole, so a poisoned lock is usable.
    REGISTRY.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Watches the calling thread, which runs the turns of `core`, until [`stop`].
pub(super) fn start(core: CoreId, stats: Arc<CoreStats>) -> Arc<Watched> {
    let watched = Arc::new(Watched {
        core,
        thread: Tid::current(),
        phase: AtomicU64::new(0),
        stack: StackCell::default(),
        stats,
        #[cfg(test)]
        told: Mutex::default(),
    });
    signal::hold(&watched.stack);
    let mut registry = registry();
    let entry = Entry { watched: Arc::clone(&watched), phase: 0, since: Instant::now(), is_told: false };
    registry.cores.push(entry);
    if !registry.is_running {
        let spawned = std::thread::Builder::new().name("sluice-watchdog".into()).spawn(run);
        registry.is_running = spawned.is_ok();
        if let Err(error) = spawned {
            tracing::warn!(%error, "no thread for the watchdog: long turns are logged without a stack");
        }
    }
    watched
}

/// Ends the watch of the calling thread.
pub(super) fn stop(watched: &Arc<Watched>) {
    signal::release();
    registry().cores.retain(|entry| !Arc::ptr_eq(&entry.watched, watched));
    CHANGED.notify_all();
}

fn run() {
    let mut reported: Option<Instant> = None;
    let mut pause = LOOK_EVERY;
    loop {
        let stalled = {
            let registry = registry();
            let waited = CHANGED.wait_timeout(registry, pause).unwrap_or_else(PoisonError::into_inner);
            let mut registry = waited.0;
            if registry.cores.is_empty() {
                registry.is_running = false;
                return;
            }
            let now = Instant::now();
            let (mut is_idle, mut stalled) = (true, None);
            for entry in &mut registry.cores {
                let phase = entry.watched.phase.load(Ordering::Relaxed);
                if phase != entry.phase {
                    (entry.phase, entry.since, entry.is_told) = (phase, now, false);
                }
                is_idle &= entry.since != now && phase % 2 == 0;
                let is_due = reported.is_none_or(|at| now - at >= REPORT_EVERY);
                if phase % 2 == 1 && !entry.is_told && now - entry.since >= STALL_LONG && is_due {
                    entry.is_told = true;
                    stalled = Some((Arc::clone(&entry.watched), now - entry.since));
                    break;
                }
            }
            pause = if is_idle { LOOK_EVERY_IDLE } else { LOOK_EVERY };
            stalled
        };
        if let Some((watched, lasted)) = stalled {
            reported = Some(Instant::now());
            tell(&watched, lasted);
        }
    }
}

/// Logs what the core is at.
fn tell(watched: &Watched, lasted: Duration) {
    watched.stack.clear();
    if let Err(error) = signal::ask(watched.thread) {
        tracing::debug!(core = %watched.core, %error, "the stack of a long turn cannot be had");
        return;
    }
    let until = Instant::now() + ANSWER_WITHIN;
    let frames = loop {
        if let Some(frames) = watched.stack.written() {
            break frames;
        }
        if Instant::now() >= until {
            tracing::debug!(core = %watched.core, "a core in a long turn does not answer");
            return;
        }
        std::thread::sleep(Duration::from_millis(1));
    };
    let stack = describe(&frames);
    watched.stats.stall_stacks.add(1);
    let busy_ms = u64::try_from(lasted.as_millis()).unwrap_or(u64::MAX);
    tracing::warn!(core = %watched.core, busy_ms, stack, "a turn keeps the core busy");
    #[cfg(test)]
    watched.told.lock().unwrap().replace(stack);
}

/// The functions from where the thread was outwards, a line each; addresses where the binary has no names.
fn describe(frames: &[usize]) -> String {
    let mut lines = Vec::new();
    for &address in frames {
        let mut is_named = false;
        backtrace::resolve(std::ptr::without_provenance_mut(address), |symbol| {
            is_named = true;
            let mut line = String::new();
            match symbol.name() {
                Some(name) => drop(write!(line, "{name:#}")),
                None => drop(write!(line, "{address:#x}")),
            }
            if let (Some(file), Some(number)) = (symbol.filename(), symbol.lineno()) {
                let _ = write!(line, " ({}:{number})", file.display());
            }
            lines.push(line);
        });
        if !is_named {
            lines.push(format!("{address:#x}"));
        }
    }
    // The innermost frames are those of the handler itself.
    let own = lines
        .iter()
        .position(|line| line.starts_with("write_stack") || line.contains("::write_stack"))
        .map_or(0, |at| at + 1);
    lines.drain(..own);
    lines.truncate(FRAMES_TOLD_MAX);
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[inline(never)]
    fn dawdle(watched: &Watched) -> String {
        let until = Instant::now() + Duration::from_secs(30);
        while Instant::now() < until {
            if let Some(told) = watched.told.lock().unwrap().take() {
                return told;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        panic!("the watchdog said nothing");
    }

    #[test]
    fn the_stack_of_a_long_turn_names_who_is_at_fault() {
        let stats: Arc<CoreStats> = Arc::default();
        let watched = start(CoreId::new(3), Arc::clone(&stats));
        watched.begin();
        let told = dawdle(&watched);
        watched.end();
        stop(&watched);
        assert!(told.contains("dawdle"), "{told}");
        assert!(!told.contains("write_stack"), "{told}");
        assert_eq!(stats.stall_stacks.get(), 1);
    }

    #[test]
    fn a_turn_has_a_number_and_between_turns_there_is_none() {
        let watched = start(CoreId::new(4), Arc::default());
        let seen = |watched: &Watched| watched.phase.load(Ordering::Relaxed);
        assert_eq!(seen(&watched) % 2, 0);
        watched.begin();
        let first = seen(&watched);
        watched.end();
        assert_eq!((first % 2, seen(&watched) % 2), (1, 0));
        watched.begin();
        assert!(seen(&watched) > first && seen(&watched) % 2 == 1);
        watched.end();
        stop(&watched);
    }

    #[test]
    fn a_thread_that_is_not_watched_survives_being_asked() {
        signal::release();
        signal::ask(Tid::current()).unwrap();
    }
}
