//! Keeps what this process holds private: secrets and health data are in its memory and in the files that it makes.

use rustix::fs::Mode;
use rustix::process::{DumpableBehavior, set_dumpable_behavior, umask};

/// From now on files are made for their owner alone, whatever the umask was, and no core is dumped: a program that
/// the kernel pipes cores to gets them in spite of `RLIMIT_CORE`.
pub(super) fn keep_private() {
    umask(Mode::RWXG | Mode::RWXO);
    // Fails for no process that asks for itself.
    let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
}
