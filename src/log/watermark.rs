//! The minimum that a log must contain: how much of it was acknowledged, and its first segment; and the format of its
//! directory. Written before each receipt, read at the next opening. Knows no records.
//!
//! fjall takes the first journal entry that does not decode for the end of an unfinished write, so a damaged journal
//! yields a log that is shorter but consistent. Only a record outside the journal can reveal that.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use xxhash_rust::xxh3::xxh3_64;

use super::failure::Failure;

/// The file in the log's directory.
pub(super) const NAME: &str = "watermark";
/// The file while it is being created.
const NEW: &str = "watermark.new";

/// The format of the whole directory: 1 had headers that were no CloudEvents attributes.
const FORMAT: u8 = 2;
/// Format, three numbers, and a hash over them. It fits in one sector, so a write is atomic.
const LEN: usize = 1 + 3 * 8 + 8;

/// Without these, fjall takes the directory for a new one and removes what it does not know. They exist before the
/// watermark does.
const NEEDED: [&str; 2] = ["version", "keyspaces/0/current"];

/// Records and bytes of all topics ever acknowledged, and the number of the first segment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Level {
    pub(super) records: u64,
    pub(super) bytes: u64,
    pub(super) first: u64,
}

pub(super) struct Watermark(File);

impl Watermark {
    /// Opens the watermark of the log in `dir`; `None` if no log was ever begun. An error of the kind `InvalidData`
    /// means that the watermark, or a file beside it, is not what was written.
    pub(super) fn open(dir: &Path) -> Result<Option<(Self, Level)>, Failure> {
        let file = match File::options().read(true).write(true).open(dir.join(NAME)) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let mut bytes = [0; LEN];
        let is_whole = file.read_at(&mut bytes, 0)? == LEN;
        if is_whole && bytes[0] != FORMAT && sealed(bytes) == bytes {
            return Err(Failure::OtherFormat { found: bytes[0], ours: FORMAT });
        }
        for needed in NEEDED {
            if !dir.join(needed).try_exists()? {
                return Err(invalid("a file of the database is missing").into());
            }
        }
        if !has_journal(dir)? {
            return Err(invalid("the journal is missing").into());
        }
        let level = is_whole.then(|| decode(&bytes)).flatten();
        let level = level.ok_or_else(|| invalid("the watermark on disk does not decode"))?;
        Ok(Some((Self(file), level)))
    }

    /// Creates the watermark of a new log in `dir`. It is on disk when this returns.
    pub(super) fn create(dir: &Path) -> io::Result<Self> {
        let watermark = Self(File::create(dir.join(NEW))?);
        watermark.set_synced(Level::default())?;
        std::fs::rename(dir.join(NEW), dir.join(NAME))?;
        File::open(dir)?.sync_all()?;
        Ok(watermark)
    }

    /// Survives `kill -9`. A power cut may restore an earlier level, which is still true: whatever it counts was on
    /// disk before.
    pub(super) fn set(&self, level: Level) -> io::Result<()> {
        self.0.write_all_at(&encode(level), 0)
    }

    /// Survives a power cut too.
    pub(super) fn set_synced(&self, level: Level) -> io::Result<()> {
        self.set(level)?;
        self.0.sync_all()
    }
}

#[cfg(test)]
impl Watermark {
    /// A watermark that cannot be written.
    pub(super) fn read_only(dir: &Path) -> Self {
        Self(File::open(dir.join(NAME)).unwrap())
    }
}

/// Without any journal, fjall numbers its writes from zero. The next opening then takes them for older than the
/// tables, and would drop what was acknowledged in between.
fn has_journal(dir: &Path) -> io::Result<bool> {
    for entry in std::fs::read_dir(dir)? {
        if Path::new(&entry?.file_name()).extension().is_some_and(|end| end == "jnl") {
            return Ok(true);
        }
    }
    Ok(false)
}

fn invalid(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

fn encode(level: Level) -> [u8; LEN] {
    let mut bytes = [FORMAT; LEN];
    bytes[1..9].copy_from_slice(&level.records.to_be_bytes());
    bytes[9..17].copy_from_slice(&level.bytes.to_be_bytes());
    bytes[17..25].copy_from_slice(&level.first.to_be_bytes());
    sealed(bytes)
}

/// The same bytes with their hash at the end, in every format.
fn sealed(mut bytes: [u8; LEN]) -> [u8; LEN] {
    let hash = xxh3_64(&bytes[..LEN - 8]);
    bytes[LEN - 8..].copy_from_slice(&hash.to_be_bytes());
    bytes
}

fn decode(bytes: &[u8; LEN]) -> Option<Level> {
    let number = |at: usize| bytes[at..].first_chunk().copied().map(u64::from_be_bytes);
    let level = Level { records: number(1)?, bytes: number(9)?, first: number(17)? };
    (encode(level) == *bytes).then_some(level)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEVEL: Level = Level { records: 3, bytes: 1 << 40, first: 7 };

    fn dir() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("keyspaces/0")).unwrap();
        for needed in NEEDED {
            std::fs::write(dir.path().join(needed), "").unwrap();
        }
        std::fs::write(dir.path().join("0.jnl"), "").unwrap();
        dir
    }

    #[test]
    fn a_level_round_trips_and_no_other_bytes_decode() {
        let dir = dir();
        assert!(Watermark::open(dir.path()).unwrap().is_none());
        Watermark::create(dir.path()).unwrap().set(LEVEL).unwrap();
        assert_eq!(Watermark::open(dir.path()).unwrap().unwrap().1, LEVEL);
        let whole = encode(LEVEL);
        for bit in 0..LEN * 8 {
            let mut flipped = whole;
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(decode(&flipped), None, "{bit}");
        }
        std::fs::write(dir.path().join(NAME), &whole[..LEN - 1]).unwrap();
        expect_invalid(dir.path(), "cut");
    }

    fn expect_invalid(dir: &Path, how: &str) {
        match Watermark::open(dir) {
            Err(Failure::Watermark(error)) => assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{how}"),
            other => panic!("{how}: {:?}", other.map(|_| ())),
        }
    }

    #[test]
    fn another_format_is_told_from_damage() {
        let dir = dir();
        Watermark::create(dir.path()).unwrap();
        for format in [0, FORMAT - 1, FORMAT + 1, u8::MAX] {
            let mut bytes = encode(LEVEL);
            bytes[0] = format;
            std::fs::write(dir.path().join(NAME), bytes).unwrap();
            expect_invalid(dir.path(), "the hash is that of another format");
            std::fs::write(dir.path().join(NAME), sealed(bytes)).unwrap();
            assert!(matches!(Watermark::open(dir.path()), Err(Failure::OtherFormat { found, .. }) if found == format));
        }
    }

    #[test]
    fn a_database_that_would_be_recreated_is_not_opened() {
        for missing in NEEDED.into_iter().chain(["0.jnl"]) {
            let dir = dir();
            Watermark::create(dir.path()).unwrap();
            assert!(Watermark::open(dir.path()).is_ok());
            std::fs::remove_file(dir.path().join(missing)).unwrap();
            expect_invalid(dir.path(), missing);
        }
    }
}
