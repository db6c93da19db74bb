//! Noticing that files have changed, and when to believe it.
//!
//! Files are looked at again and again rather than watched by the kernel: that
//! sees a rename over a file, a swapped symbolic link anywhere on the path, and
//! a network file system alike, and costs a few calls.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::TlsError;

/// Why files are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reload {
    /// Time has passed: take what has changed. A change that cannot be used is believed when it looks the same the
    /// next time, since files are written one after the other.
    Changed,
    /// Somebody asked: take everything, and say at once what cannot be used.
    All,
}

/// What tells one state of a file from another; `None` when there is no file.
type Stamp = Option<(u64, u64, u64, (i64, i64), (i64, i64))>;

fn stamp(file: &Path) -> Stamp {
    let found = std::fs::metadata(file).ok()?;
    let (written, changed) = ((found.mtime(), found.mtime_nsec()), (found.ctime(), found.ctime_nsec()));
    Some((found.dev(), found.ino(), found.size(), written, changed))
}

/// Some files that make sense together only.
#[derive(Debug)]
pub(super) struct Watched {
    files: Vec<PathBuf>,
    /// As they were when something was last made of them, or refused.
    settled: Vec<Stamp>,
    /// As they were when they failed for the first time.
    doubted: Option<Vec<Stamp>>,
    is_refused: bool,
}

impl Watched {
    /// Files that are about to be read for the first time.
    pub(super) fn new(files: Vec<PathBuf>) -> Self {
        let settled = files.iter().map(|file| stamp(file)).collect();
        Self { files, settled, doubted: None, is_refused: false }
    }

    /// Loads when there is reason to: what came of it, or `None` when nothing is new or it is too early to say.
    /// What was refused is tried again each time, silently, since time alone can make it good.
    pub(super) fn look<T>(
        &mut self,
        reload: Reload,
        is_due: bool,
        load: impl FnOnce() -> Result<T, TlsError>,
    ) -> Option<Result<T, TlsError>> {
        let before: Vec<Stamp> = self.files.iter().map(|file| stamp(file)).collect();
        let is_new = before != self.settled;
        let is_asked = reload == Reload::All;
        if !(is_asked || is_new || is_due || self.is_refused) {
            return None;
        }
        let loaded = load();
        // Written while it was read: chain and key may be of different times.
        let is_torn = self.files.iter().zip(&before).any(|(file, before)| stamp(file) != *before);
        match loaded {
            _ if is_torn && !is_asked => None,
            Ok(loaded) => {
                (self.settled, self.doubted, self.is_refused) = (before, None, false);
                Some(Ok(loaded))
            }
            Err(error) if is_asked => {
                (self.settled, self.doubted, self.is_refused) = (before, None, true);
                Some(Err(error))
            }
            Err(_) if !is_new => None,
            Err(error) if self.doubted.as_ref() == Some(&before) => {
                (self.settled, self.doubted, self.is_refused) = (before, None, true);
                Some(Err(error))
            }
            Err(_) => {
                self.doubted = Some(before);
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file that is good when it says so.
    struct Rig {
        home: tempfile::TempDir,
        watched: Watched,
    }

    impl Rig {
        fn new() -> Self {
            let home = tempfile::tempdir().expect("a directory");
            let (one, two) = (home.path().join("one"), home.path().join("two"));
            std::fs::write(&one, "good").expect("written");
            std::fs::write(&two, "good").expect("written");
            Self { watched: Watched::new(vec![one, two]), home }
        }

        fn path(&self, name: &str) -> PathBuf {
            self.home.path().join(name)
        }

        fn replace(&self, name: &str, text: &str) {
            let new = self.path("new");
            std::fs::write(&new, text).expect("written");
            std::fs::rename(&new, self.path(name)).expect("renamed");
        }

        fn look(&mut self, reload: Reload) -> Option<bool> {
            let files = self.watched.files.clone();
            let read = |file: &PathBuf| std::fs::read_to_string(file).unwrap_or_default();
            let load = || {
                if files.iter().all(|file| read(file).starts_with("good")) {
                    Ok(())
                } else {
                    Err(TlsError::Setup("bad".to_owned()))
                }
            };
            self.watched.look(reload, false, load).map(|outcome| outcome.is_ok())
        }
    }

    #[test]
    fn a_change_is_taken_once_and_nothing_new_is_nothing() {
        let mut rig = Rig::new();
        assert_eq!(rig.look(Reload::Changed), None);
        rig.replace("one", "good again");
        assert_eq!(rig.look(Reload::Changed), Some(true));
        assert_eq!(rig.look(Reload::Changed), None);
        assert_eq!(rig.look(Reload::All), Some(true));
    }

    #[test]
    fn a_swapped_link_is_a_change() {
        let mut rig = Rig::new();
        std::fs::create_dir(rig.path("a")).expect("made");
        std::fs::create_dir(rig.path("b")).expect("made");
        for name in ["a/x", "b/x"] {
            std::fs::write(rig.path(name), "good").expect("written");
        }
        let live = rig.path("live");
        std::os::unix::fs::symlink("a", &live).expect("linked");
        rig.watched = Watched::new(vec![live.join("x")]);
        std::os::unix::fs::symlink("b", rig.path("live.new")).expect("linked");
        std::fs::rename(rig.path("live.new"), live).expect("renamed");
        assert_eq!(rig.look(Reload::Changed), Some(true));
    }

    #[test]
    fn a_pair_that_does_not_fit_yet_is_waited_for() {
        let mut rig = Rig::new();
        rig.replace("one", "bad: of the next pair");
        assert_eq!(rig.look(Reload::Changed), None);
        rig.replace("one", "good");
        rig.replace("two", "good, and of the next pair");
        assert_eq!(rig.look(Reload::Changed), Some(true));
    }

    #[test]
    fn what_stays_bad_is_refused_once_and_taken_when_it_becomes_good() {
        let mut rig = Rig::new();
        std::fs::remove_file(rig.path("one")).expect("removed");
        let looks: Vec<_> = (0..4).map(|_| rig.look(Reload::Changed)).collect();
        assert_eq!(looks, [None, Some(false), None, None]);
        assert_eq!(rig.look(Reload::All), Some(false));
        rig.replace("one", "bad in another way");
        let looks: Vec<_> = (0..3).map(|_| rig.look(Reload::Changed)).collect();
        assert_eq!(looks, [None, Some(false), None]);
        rig.replace("one", "good");
        assert_eq!(rig.look(Reload::Changed), Some(true));
        assert_eq!(rig.look(Reload::Changed), None);
    }
}
