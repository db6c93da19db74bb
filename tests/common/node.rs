//! Node and the packages that tests of real parts take from there.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Node, and the directory of packages in which oidc-provider is: the one `SLUICE_TEST_OIDC_PROVIDER` names, or that which
/// `./dev test` makes. `None`, with a line that says so, when the test is to be skipped.
pub fn oidc_provider() -> Option<(PathBuf, PathBuf)> {
    const NAMED: &str = "SLUICE_TEST_OIDC_PROVIDER";
    let skip = |reason: &str| -> Option<(PathBuf, PathBuf)> {
        let is_set = |name: &str| env::var_os(name).is_some_and(|value| !value.is_empty());
        assert!(!is_set("CI") && !is_set(NAMED), "{reason}");
        eprintln!("SKIPPED: {reason}");
        None
    };
    let named = env::var_os(NAMED).filter(|name| !name.is_empty()).map(PathBuf::from);
    let cache = env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = cache.or_else(|| Some(Path::new(&env::var_os("HOME")?).join(".cache")));
    let modules = named.or_else(|| Some(cache?.join("sluice/node/node_modules")));
    let Some(modules) = modules.filter(|modules| modules.join("oidc-provider").is_dir()) else {
        return skip("there is no oidc-provider; run ./dev test");
    };
    match Command::new("node").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status() {
        Ok(status) if status.success() => Some(("node".into(), modules)),
        Ok(status) => skip(&format!("node --version: {status}")),
        Err(error) => skip(&format!("node: {error}; install nodejs")),
    }
}

/// A program of tests/node. The checkout is asked for when the test runs.
pub fn program(name: &str) -> PathBuf {
    let root = env::var("CARGO_MANIFEST_DIR").unwrap_or_else(|_| env!("CARGO_MANIFEST_DIR").to_owned());
    PathBuf::from(root).join("tests/node").join(format!("{name}.mjs"))
}
