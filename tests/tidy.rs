//! Laws of the source tree that no compiler checks: who may depend on whom, where `unsafe` may stand, how long a
//! file may be, and that what the documentation names is there.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Lines a source file may have.
const LINES_MAX: usize = 1_000;

/// Each crate, and the sister crates it may use. Tests and benches of a crate are held to the same.
const LAYERS: [(&str, &[&str]); 8] = [
    ("core", &[]),
    ("protocols", &[]),
    ("tuning", &[]),
    ("net", &["core", "protocols"]),
    ("store", &["core", "protocols"]),
    ("shard", &["core", "protocols", "tuning", "net", "store"]),
    (".", &["core", "protocols", "tuning", "net", "store", "shard"]),
    ("bench", &["core", "protocols", "tuning", "net", "store", "shard"]),
];

/// Crates that do without `unsafe` and say so to the compiler, by their root files.
const FORBID: [&str; 5] =
    ["protocols/src/lib.rs", "shard/src/lib.rs", "src/main.rs", "bench/src/lib.rs", "bench/src/main.rs"];

/// Where `unsafe` may stand: next to the kernel, the archived records, and the host; and in tests that put a host's
/// prohibitions upon a process, which are system calls, or count what is allocated.
const UNSAFE: [&str; 6] = [
    "core/src/",
    "net/src/",
    "store/src/record/",
    "tuning/src/",
    "net/tests/memory/counting.rs",
    "tests/common/forbid.rs",
];

/// Asked when it runs: a binary built in another checkout, which a shared cache may hold, names that one.
fn root() -> PathBuf {
    std::env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from)
}

fn table(path: &Path) -> toml::Table {
    let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    text.parse().unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Every source file of ours, by its path below the root.
fn sources() -> BTreeMap<String, String> {
    fn visit(directory: &Path, found: &mut BTreeMap<String, String>) {
        for entry in fs::read_dir(directory).expect("readable") {
            let path: PathBuf = entry.expect("readable").path();
            let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            // Targets, checkouts' own files, data.
            if name.starts_with('.') || matches!(&*name, "target" | "data") {
                continue;
            }
            if path.is_dir() {
                visit(&path, found);
            } else if matches!(path.extension().and_then(|end| end.to_str()), Some("rs" | "py" | "sh"))
                || name == "dev"
            {
                let text = fs::read_to_string(&path).expect("UTF-8");
                let below = path.strip_prefix(root()).expect("below the root");
                found.insert(below.to_string_lossy().into_owned(), text);
            }
        }
    }
    let mut found = BTreeMap::new();
    visit(&root(), &mut found);
    assert!(
        found.contains_key("core/src/lib.rs") && found.contains_key("tests/tidy.rs"),
        "the tree was found"
    );
    found
}

/// A line's code, without its comment. A `//` in a text cuts too much, which hides nothing we look for.
fn code(line: &str) -> &str {
    line.split("//").next().unwrap_or_default()
}

/// Whether a word stands alone in a line of code, outside of plain texts.
fn has_word(line: &str, word: &str) -> bool {
    let is_part = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || matches!(c, '_' | '"'));
    code(line).match_indices(word).any(|(at, _)| {
        !is_part(line[..at].chars().next_back()) && !is_part(line[at + word.len()..].chars().next())
    })
}

/// Sister crates in a table of dependencies.
fn sisters(manifest: &toml::Table) -> Vec<String> {
    let mut tables = Vec::new();
    let mut collect = |table: &toml::Table| {
        for kind in ["dependencies", "dev-dependencies", "build-dependencies"] {
            if let Some(toml::Value::Table(table)) = table.get(kind) {
                tables.extend(table.keys().cloned());
            }
        }
    };
    collect(manifest);
    if let Some(toml::Value::Table(targets)) = manifest.get("target") {
        targets.values().filter_map(toml::Value::as_table).for_each(collect);
    }
    tables.into_iter().filter_map(|name| name.strip_prefix("sluice-").map(str::to_owned)).collect()
}

#[test]
fn no_crate_depends_on_one_above_or_beside_it() {
    for (name, allowed) in LAYERS {
        for sister in sisters(&table(&root().join(name).join("Cargo.toml"))) {
            assert!(allowed.contains(&&*sister), "{name} may not depend on {sister}");
        }
    }
}

#[test]
fn every_member_of_the_workspace_has_its_layer() {
    let manifest = table(&root().join("Cargo.toml"));
    let members = manifest["workspace"]["members"].as_array().expect("a list");
    for member in members {
        let member = member.as_str().expect("a text");
        assert!(LAYERS.iter().any(|(name, _)| *name == member), "{member} has no layer");
        let lints = &table(&root().join(member).join("Cargo.toml"))["lints"];
        assert_eq!(lints["workspace"].as_bool(), Some(true), "{member} goes without the workspace's lints");
    }
    assert_eq!(members.len() + 1, LAYERS.len());
}

#[test]
fn unsafe_code_stands_only_where_it_may() {
    let word = concat!("un", "safe");
    for (path, text) in sources() {
        if !path.ends_with(".rs") || UNSAFE.iter().any(|allowed| path.starts_with(allowed)) {
            continue;
        }
        for (number, line) in (1..).zip(text.lines()) {
            assert!(!has_word(line, word), "{path}:{number}: {line}");
        }
    }
}

#[test]
fn crates_that_can_do_without_unsafe_code_forbid_it() {
    let sources = sources();
    for path in FORBID {
        let text = sources.get(path).unwrap_or_else(|| panic!("{path} is missing"));
        assert!(
            text.lines().any(|line| line.trim() == "#![forbid(unsafe_code)]"),
            "{path} does not forbid it"
        );
    }
}

#[test]
fn no_file_is_too_long() {
    for (path, text) in sources() {
        let lines = text.lines().count();
        assert!(lines <= LINES_MAX, "{path} has {lines} lines; {LINES_MAX} are allowed");
    }
}

#[test]
fn nothing_is_left_for_later() {
    let marks = [
        concat!("to", "do!("),
        concat!("unimple", "mented!("),
        concat!("d", "bg!("),
        concat!("#[ig", "nore"),
    ];
    for (path, text) in sources() {
        for (number, line) in (1..).zip(text.lines()) {
            assert!(marks.iter().all(|mark| !line.contains(mark)), "{path}:{number}: {line}");
        }
    }
}

/// What the RFCs ask, and the test that shows each.
const CONFORMANCE: &str = "docs/conformance.md";

/// The cells of every row below this heading.
fn rows<'a>(text: &'a str, heading: &str) -> Vec<Vec<&'a str>> {
    let mut found = Vec::new();
    let mut is_inside = false;
    for line in text.lines() {
        let Some(row) = line.strip_prefix("| ").and_then(|rest| rest.strip_suffix(" |")) else {
            is_inside &= line.starts_with("|---");
            continue;
        };
        let cells: Vec<&str> = row.split(" | ").collect();
        if is_inside {
            found.push(cells);
        }
        is_inside |= row == heading;
    }
    found
}

/// What stands between backticks.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// Whether a source file has a test of this name, as a function or within a property test.
fn has_test(source: &str, name: &str) -> bool {
    let lines: Vec<&str> = source.lines().map(str::trim).collect();
    lines.iter().enumerate().any(|(at, line)| {
        let line = line.strip_prefix("async ").unwrap_or(line);
        let is_it = line.strip_prefix("fn ").and_then(|rest| rest.strip_prefix(name));
        is_it.is_some_and(|rest| rest.starts_with('('))
            && lines[..at]
                .iter()
                .rev()
                .take_while(|line| line.starts_with("#["))
                .any(|line| line.contains("test"))
    })
}

#[test]
fn every_requirement_of_the_rfcs_names_a_test_that_exists() {
    let text = fs::read_to_string(root().join(CONFORMANCE)).expect("readable");
    let sources = sources();
    let files: BTreeMap<&str, &str> = rows(&text, "short | file")
        .into_iter()
        .map(|row| (row[0].trim_matches('`'), row[1].trim_matches('`')))
        .collect();
    for name in quoted(&text).filter(|quoted| quoted.contains("::")) {
        let (short, test) = name.split_once("::").expect("just seen");
        let path = files.get(short).unwrap_or_else(|| panic!("{name}: no file is called {short}"));
        let source = sources.get(*path).unwrap_or_else(|| panic!("{name}: there is no {path}"));
        assert!(has_test(source, test), "{path} has no test {test}");
    }
    let requirements = rows(&text, "section | what it asks | shown by");
    assert!(requirements.len() > 90, "only {} rows were found", requirements.len());
    for row in requirements {
        assert_eq!(row.len(), 3, "{row:?}");
        let is_excused = ["Not applicable: ", "Not kept: "].iter().any(|excuse| row[2].starts_with(excuse));
        let has_test = quoted(row[2]).any(|quoted| quoted.contains("::"));
        assert!(is_excused || has_test, "{} {:?} names no test and gives no reason", row[0], row[1]);
    }
}

/// What a hostile client can cost, and the counter and the test that show it.
const LIMITS: &str = "docs/limits.md";
/// Columns of its tables: who does what, bound, where, counter, test.
const LIMITS_COLUMNS: usize = 5;
/// Stands in the counter's place where nothing is refused, dropped or ended.
const UNCOUNTED: &str = "nothing is refused";
/// Sets of counters that name their own, and what stands before their names on the page of metrics.
const COUNTER_SETS: [(&str, &str); 3] =
    [("net/src/ingress/stats.rs", "ingress"), ("core/src/stats.rs", "core"), ("shard/src/env.rs", "run")];
/// Where the other metrics get their names, as texts.
const METRICS_NAMED_IN: [&str; 4] =
    ["shard/src/metrics/", "shard/src/metrics/page/", "src/tls.rs", "src/identity.rs"];

/// The rows of all tables, without their headings.
fn all_rows(text: &str) -> Vec<Vec<&str>> {
    let lines: Vec<&str> = text.lines().collect();
    let is_ruled = |at: usize| lines.get(at).is_some_and(|line| line.starts_with("|---"));
    (0..lines.len())
        .filter(|&at| !is_ruled(at) && !is_ruled(at + 1))
        .filter_map(|at| lines[at].strip_prefix("| ")?.strip_suffix('|'))
        .map(|row| row.split(" |").map(str::trim).filter(|cell| !cell.is_empty()).collect())
        .collect()
}

fn is_snake_case(text: &str) -> bool {
    !text.is_empty()
        && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
}

/// The texts in a source that could name something.
fn names(source: &str) -> impl Iterator<Item = &str> {
    source.lines().flat_map(|line| line.split('"').skip(1).step_by(2)).filter(|text| is_snake_case(text))
}

/// Every metric there is, without the prefix of all.
fn metrics(sources: &BTreeMap<String, String>) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (path, prefix) in COUNTER_SETS {
        let set =
            sources[path].split("counters! {").nth(1).unwrap_or_else(|| panic!("no counters in {path}"));
        let set = set.lines().take_while(|line| *line != "}").map(str::trim);
        let before = found.len();
        found.extend(set.filter_map(|line| line.strip_suffix(',')).filter(|name| is_snake_case(name)).map(
            |name| match name.strip_suffix("_us") {
                Some(name) => format!("{prefix}_{name}_seconds"),
                None => format!("{prefix}_{name}"),
            },
        ));
        assert!(found.len() > before + 5, "the counters of {path} were not found");
    }
    for (path, source) in sources {
        if METRICS_NAMED_IN.iter().any(|place| path.starts_with(place)) {
            found.extend(names(source).map(str::to_owned));
        }
    }
    let cells = sources["shard/src/metrics/cells.rs"].lines().filter_map(|line| {
        let rest = line.trim().strip_prefix("Total ").or_else(|| line.trim().strip_prefix("Gauge "))?;
        rest.split_once(" \"").map(|(name, _)| name.to_owned())
    });
    found.extend(cells);
    found
}

/// The sources that a row says its tests are in: those with a test of each name, in a file of the name before `::`.
fn tests_of<'a>(cell: &str, sources: &'a BTreeMap<String, String>) -> Vec<&'a str> {
    let mut found = Vec::new();
    for name in quoted(cell).filter(|name| !name.contains(['/', '.'])) {
        let (file, test) = name.split_once("::").map_or((None, name), |(file, test)| (Some(file), test));
        let is_place =
            |path: &str| file.is_none_or(|file| Path::new(path).file_stem().is_some_and(|stem| stem == file));
        let function = format!("fn {test}(");
        let places = sources
            .iter()
            .filter(|(path, source)| is_place(path) && source.contains(&function) && has_test(source, test));
        let places: Vec<&str> = places.map(|(_, source)| &**source).collect();
        assert!(!places.is_empty(), "{LIMITS}: there is no test {name}");
        found.extend(places);
    }
    for file in quoted(cell).filter(|name| name.contains('/')) {
        assert!(sources.keys().any(|path| path.ends_with(file)), "{LIMITS}: there is no {file}");
    }
    found
}

#[test]
fn every_limit_names_a_test_and_a_counter_that_exist() {
    let text = fs::read_to_string(root().join(LIMITS)).expect("readable");
    let sources = sources();
    let metrics = metrics(&sources);
    let labels: BTreeSet<&str> = sources
        .iter()
        .filter(|(path, _)| {
            ["shard/src/", "net/src/", "protocols/src/"].iter().any(|place| path.starts_with(place))
        })
        .flat_map(|(_, source)| source.split('"').skip(1).step_by(2))
        .collect();
    let rows = all_rows(&text);
    assert!(rows.len() > 60, "only {} rows were found", rows.len());
    for row in rows {
        assert_eq!(row.len(), LIMITS_COLUMNS, "{LIMITS}: {row:?}");
        let (what, counters) = (row[0], row[3]);
        let tests = tests_of(row[4], &sources);
        assert!(!tests.is_empty(), "{LIMITS}: {what:?} names no test");
        let counted: Vec<&str> = quoted(counters).filter(|name| metrics.contains(*name)).collect();
        assert!(
            !counted.is_empty() || counters == UNCOUNTED,
            "{LIMITS}: {what:?} names no counter: {counters}"
        );
        for name in quoted(counters).filter(|name| !metrics.contains(*name)) {
            let is_label = match name.strip_suffix('*') {
                Some(start) => labels.iter().any(|label| label.starts_with(start)),
                None => labels.contains(name),
            };
            assert!(is_label, "{LIMITS}: {what:?}: {name} is neither a metric nor a value of a label");
        }
        // What a client does to the data plane is counted there, and a test of the row looks at each count. Those of a label
        // count by themselves: the metric is looked at by its values.
        let values: Vec<&str> = quoted(counters).filter(|name| !metrics.contains(*name)).collect();
        let by_value = |name: &str| matches!(name, "tcp_cut" | "tcp_refused" | "entrance_refused");
        for name in counted.iter().filter(|name| is_of_data_plane(name) && !by_value(name)) {
            assert!(
                tests.iter().any(|source| looks_at(source, name)),
                "{LIMITS}: {what:?}: no test looks at {name}"
            );
        }
        if counted.iter().any(|name| by_value(name)) {
            for value in values {
                assert!(
                    tests.iter().any(|source| looks_at(source, value)),
                    "{LIMITS}: {what:?}: no test looks at {value}"
                );
            }
        }
    }
}

fn is_of_data_plane(counter: &str) -> bool {
    ["ingress_", "core_", "tcp_", "entrance_"].iter().any(|family| counter.starts_with(family))
}

/// Whether a source reads a counter: by its name, which is then all of a text, as a field, or as a variant of a reason.
/// That a word of it occurs says nothing.
fn looks_at(source: &str, counter: &str) -> bool {
    let families = ["ingress_", "core_", "tcp_", "entrance_"];
    let bare = families.iter().find_map(|family| counter.strip_prefix(family)).unwrap_or(counter);
    let by_name = [bare, counter].iter().any(|name| {
        ["", "_total"].iter().any(|end| {
            source.contains(&format!("\"{name}{end}\""))
                || source.contains(&format!("\"sluice_{name}{end}\""))
        })
    });
    let variant: String = bare
        .split('_')
        .filter_map(|word| word.split_at_checked(1))
        .map(|(first, rest)| first.to_uppercase() + rest)
        .collect();
    by_name || reads_word(source, &format!(".{bare}")) || reads_word(source, &format!("::{variant}"))
}

/// Whether it occurs and no letter, digit or underscore follows.
fn reads_word(source: &str, word: &str) -> bool {
    source.match_indices(word).any(|(at, _)| {
        !source[at + word.len()..].starts_with(|next: char| next.is_ascii_alphanumeric() || next == '_')
    })
}

#[test]
fn to_look_at_a_counter_is_to_read_it() {
    let reads = [
        r#"server.sum("connections_refused")"#,
        "stats.connections_refused.get()",
        r#"page.sum("sluice_ingress_connections_refused_total", &[])"#,
        "server.refused(Refused::ConnectionsRefused)",
    ];
    assert!(reads.iter().all(|source| looks_at(source, "ingress_connections_refused")));
    let others =
        ["// connections_refused", "stats.connections_refused_late", r#""no connections_refused yet""#];
    assert!(!others.iter().any(|source| looks_at(source, "ingress_connections_refused")));
    assert!(!looks_at(reads[1], "ingress_connections"));
}
