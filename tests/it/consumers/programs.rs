//! How each program of `deploy/consumers` is started.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::needed;

/// Starts a program in a directory of its own; `None` if this machine lacks what it needs.
pub type Start = fn(&Path) -> Option<Command>;

pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/consumers")
}

/// The source of each program.
pub fn files() -> Vec<PathBuf> {
    let mut folders = vec![folder()];
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            let name = path.file_name().and_then(|name| name.to_str()).expect("UTF-8");
            match path.is_dir() {
                true if !["node_modules", "target"].contains(&name) => folders.push(path),
                false if name.to_lowercase().starts_with("from") => files.push(path),
                _ => {}
            }
        }
    }
    files
}

pub fn python_from_kafka(_: &Path) -> Option<Command> {
    python("from_kafka.py")
}

pub fn python_from_kafka_asyncio(_: &Path) -> Option<Command> {
    python("from_kafka_asyncio.py")
}

pub fn python_from_nats(_: &Path) -> Option<Command> {
    python("from_nats.py")
}

pub fn node_from_kafka(dir: &Path) -> Option<Command> {
    node(dir, "from_kafka.js")
}

pub fn node_from_kafka_confluent(dir: &Path) -> Option<Command> {
    node(dir, "from_kafka_confluent.js")
}

pub fn node_from_nats(dir: &Path) -> Option<Command> {
    node(dir, "from_nats.js")
}

pub fn java_from_kafka(_: &Path) -> Option<Command> {
    java("FromKafka.java")
}

pub fn java_from_nats(_: &Path) -> Option<Command> {
    java("FromNats.java")
}

pub fn go_from_kafka(_: &Path) -> Option<Command> {
    built("TERRA_BRIDGE_TEST_CONSUMERS_GO", "from_kafka")
}

pub fn go_from_nats(_: &Path) -> Option<Command> {
    built("TERRA_BRIDGE_TEST_CONSUMERS_GO", "from_nats")
}

pub fn rust_from_kafka(_: &Path) -> Option<Command> {
    built("TERRA_BRIDGE_TEST_CONSUMERS_RUST", "from_kafka")
}

pub fn rust_from_nats(_: &Path) -> Option<Command> {
    built("TERRA_BRIDGE_TEST_CONSUMERS_RUST", "from_nats")
}

fn python(file: &str) -> Option<Command> {
    let mut command = Command::new(needed("TERRA_BRIDGE_TEST_CONSUMERS_PYTHON")?);
    command.arg(folder().join("python").join(file));
    Some(command)
}

/// Node looks for packages beside the program.
fn node(dir: &Path, file: &str) -> Option<Command> {
    let mut command = Command::new(needed("TERRA_BRIDGE_TEST_NODE")?);
    let modules = needed("TERRA_BRIDGE_TEST_NODE_MODULES")?;
    for name in ["package.json", file] {
        std::fs::copy(folder().join("node").join(name), dir.join(name)).expect("the directory is ours");
    }
    let link = dir.join("node_modules");
    if !link.exists() {
        std::os::unix::fs::symlink(modules, link).expect("the directory is ours");
    }
    command.arg(dir.join(file));
    Some(command)
}

fn java(file: &str) -> Option<Command> {
    let mut command = Command::new(needed("TERRA_BRIDGE_TEST_JAVA")?);
    // Java compiles the program at each start: the first of its compilers does that sooner than both.
    command.arg("-XX:TieredStopAtLevel=1").arg("-cp").arg(needed("TERRA_BRIDGE_TEST_CONSUMERS_JAVA")? + "/*");
    command.arg(folder().join("java").join(file));
    Some(command)
}

/// A program that `tests/setup.sh` built.
fn built(variable: &str, program: &str) -> Option<Command> {
    Some(Command::new(Path::new(&needed(variable)?).join(program)))
}
