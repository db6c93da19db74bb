//! Which CPUs share a physical core, a package and a memory node, from `/sys/devices/system`.
//!
//! A host that does not tell (a container without `/sys`) is taken as one package of single-threaded cores.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use super::{TuningError, allowed_cpus};

const SYS: &str = "/sys/devices/system";

/// One logical CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cpu {
    /// The kernel's number, as [`pin_current_thread`](super::pin_current_thread) takes it.
    pub number: usize,
    /// The memory node it is nearest to.
    pub node: usize,
    /// The package (socket).
    pub package: usize,
    /// The physical core within the package; CPUs that share it are siblings.
    pub core: usize,
}

/// The CPUs that this process may use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topology {
    cpus: Vec<Cpu>,
}

impl Topology {
    /// Reads what the calling thread may use. Call it before any thread is pinned.
    ///
    /// # Errors
    /// The kernel does not tell which CPUs are allowed.
    pub fn read() -> Result<Self, TuningError> {
        Ok(Self::read_from(Path::new(SYS), &allowed_cpus()?))
    }

    fn read_from(sys: &Path, allowed: &[usize]) -> Self {
        let nodes = nodes(sys);
        let cpus = allowed.iter().map(|number| cpu(sys, *number, &nodes)).collect();
        Self { cpus }
    }

    /// The CPUs, in the order of their numbers.
    pub fn cpus(&self) -> &[Cpu] {
        &self.cpus
    }

    /// Allowed CPUs by physical core: each inner list holds siblings, ascending.
    pub fn physical_cores(&self) -> Vec<Vec<usize>> {
        let mut cores: BTreeMap<(usize, usize), Vec<usize>> = BTreeMap::new();
        for cpu in &self.cpus {
            cores.entry((cpu.package, cpu.core)).or_default().push(cpu.number);
        }
        cores.into_values().collect()
    }

    /// CPUs for `count` threads: one on every physical core first, then the siblings; all of them for 0, and
    /// round again from the first when there are more threads than CPUs.
    ///
    /// Two shard threads on one physical core get little more than one of them would, so siblings come last.
    pub fn spread(&self, count: usize) -> Vec<usize> {
        let cores = self.physical_cores();
        let depth = cores.iter().map(Vec::len).max().unwrap_or(0);
        let order: Vec<usize> = (0..depth)
            .flat_map(|sibling| cores.iter().filter_map(move |core| core.get(sibling).copied()))
            .collect();
        let count = if count == 0 { order.len() } else { count };
        order.into_iter().cycle().take(count).collect()
    }
}

fn cpu(sys: &Path, number: usize, nodes: &BTreeMap<usize, usize>) -> Cpu {
    let topology = sys.join(format!("cpu/cpu{number}/topology"));
    let figure = |name: &str| fs::read_to_string(topology.join(name)).ok()?.trim().parse::<usize>().ok();
    Cpu {
        number,
        node: nodes.get(&number).copied().unwrap_or(0),
        package: figure("physical_package_id").unwrap_or(0),
        // Without knowledge no two CPUs are siblings.
        core: figure("core_id").unwrap_or(number),
    }
}

/// The memory node of every CPU.
fn nodes(sys: &Path) -> BTreeMap<usize, usize> {
    let Ok(entries) = fs::read_dir(sys.join("node")) else { return BTreeMap::new() };
    let mut nodes = BTreeMap::new();
    for entry in entries.flatten() {
        let name = entry.file_name();
        let number = name.to_str().and_then(|name| name.strip_prefix("node")).and_then(|n| n.parse().ok());
        let Some(node) = number else { continue };
        let list = fs::read_to_string(entry.path().join("cpulist")).unwrap_or_default();
        nodes.extend(parse_cpu_list(&list).into_iter().flatten().map(|cpu| (cpu, node)));
    }
    nodes
}

/// Highest CPU number taken from a list; guards against a list that would fill the memory.
const CPU_NUMBER_MAX: usize = 65_535;

/// Reads the kernel's list notation, as in `0-3,8,10-11`; `None` when it is not that.
fn parse_cpu_list(text: &str) -> Option<Vec<usize>> {
    let mut cpus = Vec::new();
    for part in text.trim().split(',').filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
        if first > last || last > CPU_NUMBER_MAX {
            return None;
        }
        cpus.extend(first..=last);
    }
    Some(cpus)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Writes a tree like the kernel's: `(cpu, package, core, node)`.
    fn host(cpus: &[(usize, usize, usize, usize)]) -> tempfile::TempDir {
        let directory = tempfile::tempdir().expect("a temporary directory");
        for (number, package, core, node) in cpus {
            let topology = directory.path().join(format!("cpu/cpu{number}/topology"));
            fs::create_dir_all(&topology).expect("made");
            fs::write(topology.join("physical_package_id"), format!("{package}\n")).expect("written");
            fs::write(topology.join("core_id"), format!("{core}\n")).expect("written");
            let list = directory.path().join(format!("node/node{node}/cpulist"));
            fs::create_dir_all(list.parent().expect("a parent")).expect("made");
            let before = fs::read_to_string(&list).unwrap_or_default();
            let comma = if before.is_empty() { "" } else { "," };
            fs::write(&list, format!("{before}{comma}{number}")).expect("written");
        }
        directory
    }

    /// Two packages of two cores with two threads each, numbered as Linux does: siblings are four apart.
    fn two_packages() -> tempfile::TempDir {
        host(&[
            (0, 0, 0, 0),
            (1, 0, 1, 0),
            (2, 1, 0, 1),
            (3, 1, 1, 1),
            (4, 0, 0, 0),
            (5, 0, 1, 0),
            (6, 1, 0, 1),
            (7, 1, 1, 1),
        ])
    }

    #[test]
    fn siblings_come_after_every_physical_core_has_a_thread() {
        let host = two_packages();
        let topology = Topology::read_from(host.path(), &[0, 1, 2, 3, 4, 5, 6, 7]);
        assert_eq!(topology.physical_cores(), [[0, 4], [1, 5], [2, 6], [3, 7]]);
        assert_eq!(topology.spread(4), [0, 1, 2, 3]);
        assert_eq!(topology.spread(6), [0, 1, 2, 3, 4, 5]);
        assert_eq!(topology.spread(0), [0, 1, 2, 3, 4, 5, 6, 7]);
        assert_eq!(topology.spread(9).last(), Some(&0));
        assert_eq!(topology.cpus()[6], Cpu { number: 6, node: 1, package: 1, core: 0 });
    }

    #[test]
    fn only_allowed_cpus_are_used() {
        let host = two_packages();
        let topology = Topology::read_from(host.path(), &[1, 4, 5]);
        assert_eq!(topology.physical_cores(), [vec![4], vec![1, 5]]);
        assert_eq!(topology.spread(0), [4, 1, 5]);
    }

    #[test]
    fn a_host_that_tells_nothing_has_cores_without_siblings() {
        let host = host(&[]);
        let topology = Topology::read_from(host.path(), &[2, 3]);
        assert_eq!(topology.spread(2), [2, 3]);
        assert_eq!(topology.physical_cores().len(), 2);
    }

    #[test]
    fn this_host_can_be_read() {
        let topology = Topology::read().expect("the kernel tells");
        let mut spread = topology.spread(0);
        spread.sort_unstable();
        assert_eq!(spread, allowed_cpus().expect("the kernel tells"));
    }

    #[test]
    fn cpu_lists_are_read_and_nonsense_is_refused() {
        assert_eq!(parse_cpu_list("0-3,8,10-11\n"), Some(vec![0, 1, 2, 3, 8, 10, 11]));
        assert_eq!(parse_cpu_list("\n"), Some(vec![]));
        for text in ["a", "3-1", "1-", "-1", "0-99999999999", "0-4294967295"] {
            assert_eq!(parse_cpu_list(text), None, "{text}");
        }
    }
}
