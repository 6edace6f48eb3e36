//! A small disk of its own under the embedded log: ext4 in a file. It can be full, and it can lose power: then
//! everything that was not fsynced is gone, which `kill -9` cannot cause. Needs root, loop devices and mkfs.ext4.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::{FallocateFlags, fallocate, statvfs};
use rustix::io::Errno;
use tempfile::TempDir;

const SIZE: u64 = 1 << 30;
/// Filling stops this close to its target, in bytes.
const STEP: u64 = 1 << 18;

/// Stops the file system at once without writing anything (`EXT4_IOC_SHUTDOWN` with `EXT4_GOING_FLAGS_NOLOGFLUSH`).
/// It runs in Python, because an ioctl needs unsafe code in Rust.
const SHUTDOWN: &str = "import array, fcntl, os, sys\n\
    fcntl.ioctl(os.open(sys.argv[1], os.O_RDONLY), 0x8004587d, array.array('I', [2]))\n";

pub struct Disk {
    dir: TempDir,
    mounted: bool,
}

impl Disk {
    /// `Err`: why this machine cannot mount one.
    pub fn mount() -> Result<Self, String> {
        let dir = TempDir::new().map_err(|error| error.to_string())?;
        let mut disk = Self { dir, mounted: false };
        let file = File::create(disk.image()).and_then(|file| file.set_len(SIZE));
        file.map_err(|error| error.to_string())?;
        run(Command::new("mkfs.ext4").args(["-q", "-F", "-m", "0"]).arg(disk.image()))?;
        std::fs::create_dir(disk.root()).map_err(|error| error.to_string())?;
        disk.remount()?;
        Ok(disk)
    }

    fn image(&self) -> PathBuf {
        self.dir.path().join("image")
    }

    /// Where it is mounted.
    pub fn root(&self) -> PathBuf {
        self.dir.path().join("disk")
    }

    fn filler(&self) -> PathBuf {
        self.root().join("filler")
    }

    /// Fills the disk except for that many bytes.
    pub fn fill(&self, but: u64) {
        let file = File::create(self.filler()).expect("the disk is ours");
        let free = || {
            let stat = statvfs(self.root()).expect("the disk is mounted");
            stat.f_bavail * stat.f_frsize
        };
        let mut length = 0;
        loop {
            let more = free().saturating_sub(but + STEP);
            if more < STEP {
                return;
            }
            match fallocate(&file, FallocateFlags::empty(), length, more) {
                Ok(()) => length += more,
                // The bridge takes space at the same time.
                Err(Errno::NOSPC) => {}
                Err(error) => panic!("the disk cannot be filled: {error}"),
            }
        }
    }

    /// Permanently, even if the power is cut next.
    pub fn free(&self) {
        let removed = std::fs::remove_file(self.filler());
        removed.and_then(|()| File::open(self.root())?.sync_all()).expect("the disk is ours");
    }

    /// Nothing is written any more, and whatever was not on disk never will be.
    pub fn cut_power(&self) -> Result<(), String> {
        let python = std::env::var_os("TERRA_BRIDGE_TEST_PYTHON").unwrap_or_else(|| "python3".into());
        run(Command::new(python).args(["-c", SHUTDOWN]).arg(self.root()))
    }

    /// Mounts it again, as after a reboot; nobody may be using it.
    pub fn remount(&mut self) -> Result<(), String> {
        self.unmount();
        run(Command::new("mount").args(["-o", "loop"]).arg(self.image()).arg(self.root()))?;
        self.mounted = true;
        Ok(())
    }

    fn unmount(&mut self) {
        if std::mem::take(&mut self.mounted) {
            let unmounted = unmount(&self.root());
            assert!(unmounted.is_ok() || std::thread::panicking(), "{unmounted:?}");
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        self.unmount();
    }
}

fn unmount(root: &Path) -> Result<(), String> {
    run(Command::new("umount").arg(root))
}

fn run(command: &mut Command) -> Result<(), String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.output().map_err(|error| format!("{program}: {error}"))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(format!("{program}: {}", String::from_utf8_lossy(&output.stderr).trim())),
    }
}
