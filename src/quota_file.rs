//! What is used of the days' and the minutes' budgets, kept over restarts in files of the data directory.
//!
//! The days stand in [`FILE`], which is written now and then; the minutes in [`MINUTES`], which is memory of this process that
//! the kernel keeps when it is killed (see [`sluice_core::words`]), so nothing of them is lost but by a crash of the machine.
//!
//! Invariants of the days:
//! - The file is replaced whole, so there is always one that can be read.
//! - What a crash may have lost, at most what was used since the last writing, is counted as a whole minute's limit; at most
//!   once a minute, since no provider lets more be used. So budgets after a crash err on the safe side.
//! - A file that is missing or cannot be read stops nothing: the provider's own refusals are what is left.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use sluice_net::egress::Upstream;
use sluice_shard::quota::{Boot, MINUTES_WORDS, Quotas};
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

const FILE: &str = "quota.json";
const MINUTES: &str = "quota.minutes";
/// How often it is written: less than the minute that is counted after a crash.
const SAVE_EVERY: Duration = Duration::from_secs(50);
const MINUTE_S: u64 = 60;
/// An end that is in no slot before the one that runs.
const NOW: i64 = 86_400;

/// What stands in the file.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Saved {
    /// Whether the process that wrote it ended in good order.
    is_clean: bool,
    /// When a minute was counted for a crash the last time, in seconds since 1970.
    crash_counted_s: u64,
    /// By upstream: the end of a slot, in seconds since 1970, and the units used in it.
    used: BTreeMap<String, Vec<(u64, u64)>>,
}

#[derive(Debug, Default)]
struct State {
    crash_counted_s: u64,
    /// The last writing is over.
    is_closed: bool,
}

/// The file, and the budgets it is about.
#[derive(Clone, Debug)]
pub(crate) struct QuotaFile {
    path: PathBuf,
    quotas: Arc<Quotas>,
    /// Writings take turns.
    state: Arc<Mutex<State>>,
}

fn signed(seconds: u64) -> i64 {
    i64::try_from(seconds).unwrap_or(i64::MAX)
}

fn unix_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Which run of the machine this is; to be asked before the sandbox. Where the system does not tell, it is taken for the one before.
pub(crate) fn boot() -> Boot {
    let id = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let digits: String = id.chars().filter(char::is_ascii_hexdigit).take(16).collect();
    let up = fs::read_to_string("/proc/uptime").unwrap_or_default();
    let up_s = up.split(' ').next().and_then(|seconds| seconds.parse::<f64>().ok());
    let up = up_s.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()).unwrap_or(Duration::MAX);
    Boot { id: u64::from_str_radix(&digits, 16).unwrap_or(0), up }
}

impl QuotaFile {
    /// Counts what the files tell, and marks them as in use. Before any core begins.
    pub(crate) fn open(directory: &Path, quotas: Arc<Quotas>, boot: Boot) -> Self {
        let minutes = directory.join(MINUTES);
        match sluice_core::words::map(&minutes, MINUTES_WORDS) {
            Ok(words) => quotas.keep_minutes(words, boot),
            Err(error) => {
                tracing::warn!(%error, path = %minutes.display(), "the minutes' quotas begin anew, and are not kept")
            }
        }
        let file = Self { path: directory.join(FILE), quotas, state: Arc::default() };
        match fs::read(&file.path) {
            Ok(bytes) => match serde_json::from_slice::<Saved>(&bytes) {
                Ok(saved) => file.restore(&saved, unix_s()),
                Err(error) => {
                    tracing::warn!(%error, path = %file.path.display(), "the days' quotas begin anew")
                }
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => tracing::warn!(%error, path = %file.path.display(), "the days' quotas begin anew"),
        }
        file.save(false);
        file
    }

    fn restore(&self, saved: &Saved, now_s: u64) {
        let now = Instant::now();
        let counts_crash = !saved.is_clean && now_s.saturating_sub(saved.crash_counted_s) >= MINUTE_S;
        let crash_counted_s = if counts_crash { now_s } else { saved.crash_counted_s };
        self.state.lock().unwrap_or_else(PoisonError::into_inner).crash_counted_s = crash_counted_s;
        for upstream in Upstream::ALL {
            let slots = saved.used.get(upstream.name()).map_or(&[][..], Vec::as_slice);
            let from_now = |end_s: u64| signed(end_s).saturating_sub(signed(now_s));
            let mut used: Vec<(i64, u64)> =
                slots.iter().map(|(end_s, units)| (from_now(*end_s), *units)).collect();
            if counts_crash {
                used.push((NOW, self.quotas.minute_of_day(upstream)));
            }
            self.quotas.restore_days(upstream, &used, now);
        }
    }

    /// Writes the file from time to time, until the handle is aborted or the runtime ends.
    pub(crate) fn save_now_and_then(&self, runtime: &Handle) -> JoinHandle<()> {
        let file = self.clone();
        runtime.spawn(async move {
            loop {
                tokio::time::sleep(SAVE_EVERY).await;
                let file = file.clone();
                // A disk may be slow; the runtime has calls to make meanwhile.
                if tokio::task::spawn_blocking(move || file.save(false)).await.is_err() {
                    return;
                }
            }
        })
    }

    /// Writes it for the last time: nothing is used any more.
    pub(crate) fn close(&self) {
        self.save(true);
    }

    fn save(&self, is_clean: bool) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.is_closed {
            return;
        }
        state.is_closed = is_clean;
        let now_s = unix_s();
        let slots = |used: Vec<(i64, u64)>| {
            used.into_iter().map(|(end_s, units)| (now_s.saturating_add_signed(end_s), units)).collect()
        };
        let used = self.quotas.days_used(Instant::now()).into_iter();
        let used = used.map(|(upstream, used)| (upstream.name().to_owned(), slots(used))).collect();
        let saved = Saved { is_clean, crash_counted_s: state.crash_counted_s, used };
        if let Err(error) = self.write(&saved) {
            tracing::warn!(%error, path = %self.path.display(), "the days' quotas were not saved");
        }
    }

    fn write(&self, saved: &Saved) -> io::Result<()> {
        let new = self.path.with_extension("new");
        let mut file = fs::File::create(&new)?;
        file.write_all(&serde_json::to_vec(saved)?)?;
        file.sync_all()?;
        fs::rename(&new, &self.path)
    }
}

#[cfg(test)]
mod tests {
    use sluice_shard::quota::QuotaConfig;

    use super::*;

    const HERE: Boot = Boot { id: 1, up: Duration::MAX };

    fn quotas() -> Arc<Quotas> {
        Quotas::new(QuotaConfig::default(), 2)
    }

    fn used(quotas: &Quotas, upstream: Upstream) -> u64 {
        let budgets = quotas.budgets(upstream, Instant::now());
        budgets.into_iter().find(|(name, ..)| *name == "units_day").map_or(0, |(.., used)| used)
    }

    #[test]
    fn a_day_goes_on_after_an_end_in_good_order() {
        let directory = tempfile::tempdir().unwrap();
        let first = QuotaFile::open(directory.path(), quotas(), HERE);
        first.quotas.restore_days(Upstream::Gmail, &[(NOW, 70), (-7_200, 30)], Instant::now());
        first.close();
        for _restart in 0..3 {
            let next = QuotaFile::open(directory.path(), quotas(), HERE);
            assert_eq!((used(&next.quotas, Upstream::Gmail), used(&next.quotas, Upstream::Drive)), (100, 0));
            next.close();
        }
    }

    #[test]
    fn a_crash_costs_a_minute_and_crashes_in_a_row_no_more() {
        let directory = tempfile::tempdir().unwrap();
        let first = QuotaFile::open(directory.path(), quotas(), HERE);
        first.quotas.restore_days(Upstream::Calendar, &[(NOW, 5)], Instant::now());
        first.save(false);
        for _crash in 0..3 {
            let next = QuotaFile::open(directory.path(), quotas(), HERE);
            assert_eq!(used(&next.quotas, Upstream::Calendar), 10_005);
        }
    }

    #[test]
    fn a_minute_goes_on_whatever_ended_the_process() {
        let directory = tempfile::tempdir().unwrap();
        let words = sluice_core::words::map(&directory.path().join(MINUTES), MINUTES_WORDS).unwrap();
        let first = QuotaFile::open(directory.path(), quotas(), HERE);
        // As a killed process leaves it: without a last word.
        drop(first);
        assert!(words[0].load(std::sync::atomic::Ordering::Relaxed) > 0, "the file is in use");
        // Where there can be no file, the rest goes on.
        let other = tempfile::tempdir().unwrap();
        fs::create_dir(other.path().join(MINUTES)).unwrap();
        assert_eq!(used(&QuotaFile::open(other.path(), quotas(), HERE).quotas, Upstream::Gmail), 0);
    }

    #[test]
    fn what_is_older_than_a_day_or_unreadable_is_not_counted() {
        let directory = tempfile::tempdir().unwrap();
        let old = Saved {
            is_clean: true,
            used: [("gmail".to_owned(), vec![(unix_s() - 90_000, 7), (unix_s(), 2)])].into(),
            ..Saved::default()
        };
        let file = directory.path().join(FILE);
        fs::write(&file, serde_json::to_vec(&old).unwrap()).unwrap();
        assert_eq!(used(&QuotaFile::open(directory.path(), quotas(), HERE).quotas, Upstream::Gmail), 2);
        fs::write(&file, b"{").unwrap();
        assert_eq!(used(&QuotaFile::open(directory.path(), quotas(), HERE).quotas, Upstream::Gmail), 0);
    }
}
