//! What this process holds is for nobody else: secrets and health data lie in its memory and in the files that it
//! makes. Comes in: nothing. Goes out: nothing; the system is told.

use rustix::fs::Mode;
use rustix::process::{DumpableBehavior, set_dumpable_behavior, umask};

/// From now on files are made for their owner alone, whatever the umask was, and no core is dumped: a program that
/// the kernel pipes cores to gets them in spite of `RLIMIT_CORE`.
pub(super) fn keep_private() {
    umask(Mode::RWXG | Mode::RWXO);
    // Fails for no process that asks for itself.
    let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
}
