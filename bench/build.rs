//! Puts into the program what results say about the build: commit, compiler, profile.

use std::env;
use std::process::Command;

fn main() {
    let rustc = env::var("RUSTC").unwrap_or_else(|_| "rustc".into());
    set("SLUICE_BUILD_RUSTC", output(&rustc, &["--version"]));
    let profile = env::var("PROFILE").unwrap_or_default();
    let level = env::var("OPT_LEVEL").unwrap_or_default();
    set("SLUICE_BUILD_PROFILE", Some(format!("{profile}, opt-level {level}")));
    // Named by `./dev build`. Asking git here would compile this crate again after
    // every commit, also where nobody reads it.
    let commit = env::var("SLUICE_COMMIT").ok().filter(|commit| !commit.is_empty());
    set("SLUICE_BUILD_COMMIT", commit);
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=SLUICE_COMMIT");
}

fn set(name: &str, value: Option<String>) {
    if let Some(value) = value {
        println!("cargo::rustc-env={name}={value}");
    }
}

fn output(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    (output.status.success() && !text.trim().is_empty()).then(|| text.trim().to_owned())
}
