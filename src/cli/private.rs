//! Keeps the process private: its memory and the files that it creates contain secrets and health data.

use rustix::fs::Mode;
use rustix::process::{DumpableBehavior, set_dumpable_behavior, umask};

/// From now on, new files are accessible only to their owner, whatever the umask was, and no core is dumped.
/// `RLIMIT_CORE` alone would not stop a core dump that the kernel pipes to a program.
pub(super) fn keep_private() {
    umask(Mode::RWXG | Mode::RWXO);
    // Cannot fail for the calling process.
    let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
}
