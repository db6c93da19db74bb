//! The interpreter that runs clients in other languages, and other programs that tests need.
//!
//! It is the one `SLUICE_TEST_PYTHON` names, or that of the environment `./dev test` makes. Where something is missing
//! a test says that it was skipped, except where it was asked for or nobody would notice: there it fails.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const REQUIREMENTS: &str = "tests/python/requirements.txt";

/// An interpreter that has this module; `None`, with a line that says so, when the test is to be skipped.
pub fn interpreter(module: &str) -> Option<PathBuf> {
    match find(module) {
        Ok(python) => Some(python),
        Err(reason) => {
            skip("SLUICE_TEST_PYTHON", &format!("{reason}; install {REQUIREMENTS} or run ./dev test"))
        }
    }
}

/// The browser: the one `SLUICE_TEST_CHROMIUM` names, or `chromium` in PATH.
pub fn chromium() -> Option<PathBuf> {
    const NAMED: &str = "SLUICE_TEST_CHROMIUM";
    let named = env::var_os(NAMED).filter(|name| !name.is_empty()).map(PathBuf::from);
    let program = named.unwrap_or_else(|| "chromium".into());
    match Command::new(&program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status() {
        Ok(status) if status.success() => Some(program),
        Ok(status) => skip(NAMED, &format!("{} --version: {status}", program.display())),
        Err(error) => skip(NAMED, &format!("{}: {error}; install chromium", program.display())),
    }
}

/// A server to compare with: the one `SLUICE_TEST_CADDY` names, or `caddy` in PATH.
pub fn caddy() -> Option<PathBuf> {
    const NAMED: &str = "SLUICE_TEST_CADDY";
    let named = env::var_os(NAMED).filter(|name| !name.is_empty()).map(PathBuf::from);
    let path = env::var_os("PATH").unwrap_or_default();
    let in_path = || env::split_paths(&path).map(|place| place.join("caddy")).find(|file| file.is_file());
    match named.or_else(in_path) {
        Some(program) => Some(program),
        None => skip(NAMED, "there is no caddy; Debian has it"),
    }
}

/// Another: the one `SLUICE_TEST_NGINX` names, or `nginx` in PATH where it was built with HTTP/3. Debian 12 has none, so
/// nothing but the name asks for it.
pub fn nginx() -> Option<PathBuf> {
    const NAMED: &str = "SLUICE_TEST_NGINX";
    if let Some(named) = env::var_os(NAMED).filter(|name| !name.is_empty()) {
        return Some(named.into());
    }
    let path = env::var_os("PATH").unwrap_or_default();
    let found = env::split_paths(&path).map(|place| place.join("nginx")).find(|file| file.is_file());
    let has_http3 = |program: &PathBuf| {
        let told = Command::new(program).arg("-V").output();
        told.is_ok_and(|told| String::from_utf8_lossy(&told.stderr).contains("http_v3_module"))
    };
    let usable = found.filter(has_http3);
    if usable.is_none() {
        eprintln!("SKIPPED: there is no nginx with http_v3_module in PATH; name one with {NAMED}");
    }
    usable
}

/// The client that tests an API by its description: the one `SLUICE_TEST_SCHEMATHESIS` names, or that of the
/// environment `./dev test` makes.
pub fn schemathesis() -> Option<PathBuf> {
    const NAMED: &str = "SLUICE_TEST_SCHEMATHESIS";
    let named = env::var_os(NAMED).filter(|name| !name.is_empty()).map(PathBuf::from);
    let cache = env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = cache.or_else(|| Some(Path::new(&env::var_os("HOME")?).join(".cache")));
    let program = named.or_else(|| Some(cache?.join("sluice/venv-api/bin/st")));
    match program.filter(|program| program.exists()) {
        Some(program) => Some(program),
        None => skip(NAMED, "there is no schemathesis; run ./dev test"),
    }
}

/// Says that a test is skipped for this reason; panics where it must not be.
fn skip<T>(asked_for_by: &str, reason: &str) -> Option<T> {
    assert!(!is_set("CI") && !is_set(asked_for_by), "{reason}");
    eprintln!("SKIPPED: {reason}");
    None
}

fn find(module: &str) -> Result<PathBuf, String> {
    let named = env::var_os("SLUICE_TEST_PYTHON").map(PathBuf::from);
    let cache = env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = cache.or_else(|| Some(Path::new(&env::var_os("HOME")?).join(".cache")));
    let python = named.or_else(|| Some(cache?.join("sluice/venv/bin/python")));
    let python = python.ok_or("neither SLUICE_TEST_PYTHON nor HOME is set")?;
    let told =
        Command::new(&python).args(["-c", &format!("import {module}")]).stderr(Stdio::piped()).output();
    match told {
        Ok(output) if output.status.success() => Ok(python),
        Ok(output) => {
            let error = String::from_utf8_lossy(&output.stderr);
            Err(format!("{} has no {module}: {}", python.display(), error.lines().last().unwrap_or_default()))
        }
        Err(error) => Err(format!("{}: {error}", python.display())),
    }
}

fn is_set(name: &str) -> bool {
    env::var_os(name).is_some_and(|value| !value.is_empty())
}

/// A client program of tests/python.
pub fn program(name: &str) -> PathBuf {
    file(&format!("{name}.py"))
}

/// A file of tests/python. The checkout is asked for when the test runs: a shared cache may hold a binary that another
/// checkout built.
pub fn file(name: &str) -> PathBuf {
    let root = env::var("CARGO_MANIFEST_DIR").unwrap_or_else(|_| env!("CARGO_MANIFEST_DIR").to_owned());
    PathBuf::from(root).join("tests/python").join(name)
}
