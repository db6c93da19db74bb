//! Files, by Landlock (landlock(7)): a thread gives up all but what lies beneath some paths, for itself and the threads
//! it will start. What is open stays open.
//!
//! A rule holds for the directory or file that a path led to when it was made. A file that is to be replaced by another of
//! its name is therefore allowed by its directory ([`replaceable`]).

use std::collections::{BTreeSet, VecDeque};
use std::ffi::OsString;
use std::fs;
use std::path::{Component, Path, PathBuf};

use landlock::{
    ABI, Access as _, AccessFs, BitFlags, CompatLevel, Compatible, LandlockStatus, PathBeneath, PathFd,
    RestrictionStatus, Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetError, RulesetStatus, Scope,
    make_bitflags,
};

use super::Layer;

/// What we know of Landlock and have tried. Kernels with less enforce what they know; of those with more, connecting to
/// Unix sockets by path (9) would have to be allowed for every way in which names are resolved.
const KNOWN: ABI = ABI::V7;

/// Links followed on the way to one file; the kernel's own bound.
const LINKS_MAX: usize = 40;

/// What may be done with a file, or with everything beneath a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Access {
    /// Reading files and listing directories.
    Read,
    /// Everything with files, directories and sockets; no devices, pipes or links by name.
    Write,
    /// Making and removing a socket in this directory.
    Socket,
}

impl Access {
    fn rights(self) -> BitFlags<AccessFs> {
        let read = make_bitflags!(AccessFs::{ReadFile | ReadDir});
        match self {
            Self::Read => read,
            Self::Write => {
                read | make_bitflags!(AccessFs::{
                    WriteFile | Truncate | Refer | RemoveFile | RemoveDir | MakeReg | MakeDir | MakeSock
                })
            }
            Self::Socket => make_bitflags!(AccessFs::{MakeSock | RemoveFile}),
        }
    }
}

/// A path, and what may be done with it and beneath.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PathRule {
    /// A file or directory.
    pub path: PathBuf,
    /// What may be done.
    pub access: Access,
}

impl PathRule {
    /// A rule.
    pub fn new(path: impl Into<PathBuf>, access: Access) -> Self {
        Self { path: path.into(), access }
    }
}

/// Whether the kernel has Landlock and it is switched on.
pub(super) fn is_available() -> bool {
    let ruleset = Ruleset::default().set_compatibility(CompatLevel::HardRequirement);
    ruleset.handle_access(AccessFs::Execute).and_then(Ruleset::create).is_ok()
}

/// Gives up everything but `rules`. Paths that are not there are passed over.
pub(super) fn confine(rules: &[PathRule]) -> Layer {
    match restrict(rules) {
        Ok(status) => layer(&status, rules.len()),
        Err(error) => Layer::Missing(error.to_string()),
    }
}

fn restrict(rules: &[PathRule]) -> Result<RestrictionStatus, RulesetError> {
    let mut ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(KNOWN))?
        .scope(Scope::from_all(KNOWN))?
        .create()?;
    for rule in rules {
        // What is not there now is made later, if at all, by someone else, and then it is not ours to read.
        let Ok(file) = PathFd::new(&rule.path) else { continue };
        let mut rights = rule.access.rights();
        if !fs::metadata(&rule.path).is_ok_and(|meta| meta.is_dir()) {
            rights &= AccessFs::from_file(KNOWN);
        }
        if rights.is_empty() {
            continue;
        }
        ruleset = ruleset.add_rule(PathBeneath::new(&file, rights))?;
        if rule.path.starts_with("/proc") {
            // The kernel makes these anew for whoever looks when nobody holds them, and the rule is for this one: it stays
            // open for as long as the process runs.
            std::mem::forget(file);
        }
    }
    ruleset.restrict_self()
}

fn layer(status: &RestrictionStatus, paths: usize) -> Layer {
    let abi = match status.landlock {
        LandlockStatus::Available { effective_abi, kernel_abi } => kernel_abi.unwrap_or(effective_abi as i32),
        LandlockStatus::NotEnabled => return Layer::Missing("not switched on in this kernel".to_owned()),
        LandlockStatus::NotImplemented => return Layer::Missing("this kernel does not have it".to_owned()),
    };
    match status.ruleset {
        RulesetStatus::FullyEnforced => Layer::InForce(format!("{paths} paths, ABI {abi}")),
        RulesetStatus::PartiallyEnforced => {
            Layer::InForce(format!("{paths} paths, ABI {abi}, which has not all of it"))
        }
        RulesetStatus::NotEnforced => Layer::Missing("nothing of it is enforced".to_owned()),
    }
}

/// Rules for a file that may be replaced while it is in use: written over, renamed over, or by another link. They allow to
/// read the directory that holds it; where the path ends in a link, also the directories that the links lead through.
///
/// A directory directly below the root (such as `/etc`) is never allowed whole; there the file alone is, and once it is
/// replaced it cannot be read.
pub fn replaceable(path: &Path) -> Vec<PathRule> {
    let mut allowed = BTreeSet::from([path.to_owned()]);
    allowed.extend(holders(path).into_iter().filter(|directory| directory.components().count() > 2));
    allowed.into_iter().map(|path| PathRule::new(path, Access::Read)).collect()
}

/// The directories in which a name decides what the last part of `path` leads to. Links further up are not among them:
/// whoever changes where `/etc` leads changes everything.
fn holders(path: &Path) -> BTreeSet<PathBuf> {
    let mut held = BTreeSet::new();
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return held };
    let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
    let Ok(mut at) = parent.canonicalize() else { return held };
    held.insert(at.clone());
    let mut rest = VecDeque::from([name.to_owned()]);
    let mut links = 0;
    while let Some(part) = rest.pop_front() {
        let next = match part.to_str() {
            Some("..") => at.parent().map_or_else(|| at.clone(), Path::to_owned),
            _ => at.join(&part),
        };
        match fs::read_link(&next) {
            Ok(target) if links < LINKS_MAX => {
                links += 1;
                held.insert(at.clone());
                if target.is_absolute() {
                    at = PathBuf::from("/");
                }
                for part in parts(&target).into_iter().rev() {
                    rest.push_front(part);
                }
            }
            _ => at = next,
        }
    }
    held.extend(at.parent().map(Path::to_owned));
    held
}

fn parts(path: &Path) -> Vec<OsString> {
    path.components()
        .filter(|part| matches!(part, Component::Normal(_) | Component::ParentDir))
        .map(|part| part.as_os_str().to_owned())
        .collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn held(path: &Path) -> BTreeSet<PathBuf> {
        replaceable(path).into_iter().map(|rule| rule.path).collect()
    }

    #[test]
    fn a_plain_file_is_allowed_by_its_directory() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path().canonicalize().unwrap();
        fs::create_dir(root.join("tls")).unwrap();
        let path = root.join("tls/chain.pem");
        fs::write(&path, "x").unwrap();
        assert_eq!(held(&path), BTreeSet::from([path.clone(), root.join("tls")]));
    }

    #[test]
    fn links_into_an_archive_are_followed() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path().canonicalize().unwrap();
        for directory in ["live", "archive"] {
            fs::create_dir(root.join(directory)).unwrap();
        }
        fs::write(root.join("archive/chain1.pem"), "x").unwrap();
        let path = root.join("live/chain.pem");
        symlink("../archive/chain1.pem", &path).unwrap();
        assert_eq!(held(&path), BTreeSet::from([path.clone(), root.join("live"), root.join("archive")]));
    }

    #[test]
    fn a_swapped_directory_of_versions_is_followed() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path().canonicalize().unwrap();
        fs::create_dir_all(root.join("mount/..1")).unwrap();
        fs::write(root.join("mount/..1/chain.pem"), "x").unwrap();
        symlink("..1", root.join("mount/..data")).unwrap();
        let path = root.join("mount/chain.pem");
        symlink("..data/chain.pem", &path).unwrap();
        let expected = BTreeSet::from([path.clone(), root.join("mount"), root.join("mount/..1")]);
        assert_eq!(held(&path), expected);
    }

    #[test]
    fn links_that_lead_in_circles_end() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("a");
        symlink("b", &path).unwrap();
        symlink("a", root.path().join("b")).unwrap();
        assert!(!held(&path).is_empty());
    }

    #[test]
    fn directories_below_the_root_are_not_opened_whole() {
        let path = Path::new("/etc/passwd");
        assert_eq!(held(path), BTreeSet::from([path.to_owned()]));
        assert_eq!(held(Path::new("/vmlinuz-that-is-not-there")).len(), 1);
    }
}
