//! Tells the crate which commit it is built from: git's word where this is a checkout of its own,
//! else `TERRA_BRIDGE_COMMIT` from the environment, else "unknown". Refuses to build a librdkafka that recovers from no
//! outage.

use std::path::Path;
use std::process::Command;

/// What `.cargo/config.toml` sets, and says why.
const NEEDED: [&str; 2] = ["-DHAVE_ATOMICS_32_ATOMIC=1", "-DHAVE_ATOMICS_64_ATOMIC=1"];

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=CFLAGS");
    let flags = std::env::var("CFLAGS").unwrap_or_default();
    let with_kafka = std::env::var_os("CARGO_FEATURE_KAFKA").is_some();
    if with_kafka && !NEEDED.iter().all(|needed| flags.split_whitespace().any(|flag| flag == *needed)) {
        println!(
            "cargo::error=librdkafka needs CFLAGS=\"{}\": build in the bridge's own directory, without CFLAGS of your own or with these added",
            NEEDED.join(" ")
        );
    }
    println!("cargo::rerun-if-env-changed=TERRA_BRIDGE_COMMIT");
    let commit = of_git()
        .or_else(|| std::env::var("TERRA_BRIDGE_COMMIT").ok().filter(|commit| !commit.is_empty()))
        .unwrap_or_else(|| "unknown".to_owned());
    println!("cargo::rustc-env=TERRA_BRIDGE_COMMIT={commit}");
}

/// `None` also where the sources merely lie inside somebody else's repository.
fn of_git() -> Option<String> {
    if !git(&["rev-parse", "--show-prefix"])?.is_empty() {
        return None;
    }
    // The reflog grows with each commit, while HEAD itself changes only with the branch.
    for watched in ["HEAD", "logs/HEAD"] {
        let path = git(&["rev-parse", "--git-path", watched])?;
        // Cargo takes a watched file that is missing as changed, each time.
        if Path::new(&path).exists() {
            println!("cargo::rerun-if-changed={path}");
        }
    }
    git(&["rev-parse", "--short", "HEAD"])
}

fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8(output.stdout).ok()?.trim().to_owned())
}
