//! A segment file is a run of frames; this encodes and finds them. Knows no record.
//!
//! ```text
//! checksum 8 | magic 4 | length of the body 4 | segment's id 8 | commit 8 | body
//! ```
//! Numbers are little-endian, and the checksum (xxh3) is over all that follows it. The id is random: nothing that is
//! published, and nothing left over from another file, decodes as a frame of this one. A frame also names its commit,
//! counted from 1 in each segment: after a bad frame this tells what the disk left of the last commit from damage.

use std::io;

use bytes::Bytes;
use memchr::memmem;
use xxhash_rust::xxh3::xxh3_64;

use super::files::File;

/// Bytes before the body.
pub(super) const HEADER: usize = 32;

/// Contains bytes that no UTF-8 text does.
const MAGIC: [u8; 4] = [0xF7, b'T', b'B', 0xFB];
const MAGIC_AT: usize = 8;

/// How much is searched at once.
const SEARCHED: usize = 256 * 1024;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) checksum: u64,
    len: usize,
    pub(super) segment: u64,
    pub(super) commit: u64,
}

impl Header {
    /// Bytes of the whole frame.
    pub(super) fn bytes(&self) -> u64 {
        (HEADER + self.len) as u64
    }
}

/// Appends a frame with what `body` writes.
pub(super) fn put(buffer: &mut Vec<u8>, segment: u64, commit: u64, body: impl FnOnce(&mut Vec<u8>)) -> u64 {
    let start = buffer.len();
    buffer.extend_from_slice(&[0; 8]);
    buffer.extend_from_slice(&MAGIC);
    buffer.extend_from_slice(&[0; 4]);
    buffer.extend_from_slice(&segment.to_le_bytes());
    buffer.extend_from_slice(&commit.to_le_bytes());
    body(buffer);
    let len = u32::try_from(buffer.len() - start - HEADER).expect("a delivery is far below 4 GiB");
    buffer[start + 12..start + 16].copy_from_slice(&len.to_le_bytes());
    let checksum = xxh3_64(&buffer[start + 8..]);
    buffer[start..start + 8].copy_from_slice(&checksum.to_le_bytes());
    checksum
}

fn header(bytes: &[u8; HEADER]) -> Option<Header> {
    let number = |at: usize| u64::from_le_bytes(*bytes[at..].first_chunk().expect("within the header"));
    let len = u32::from_le_bytes(*bytes[12..].first_chunk().expect("within the header"));
    let is_frame = bytes[MAGIC_AT..].starts_with(&MAGIC);
    is_frame.then(|| Header { checksum: number(0), len: len as usize, segment: number(16), commit: number(24) })
}

/// Reads frames of a file up to `end`, beyond which nothing is looked at.
pub(super) struct Frames<'f> {
    file: &'f dyn File,
    end: u64,
    buffer: Vec<u8>,
    /// Where the buffer begins in the file.
    start: u64,
    /// The least to read at once.
    ahead: usize,
}

impl<'f> Frames<'f> {
    pub(super) fn new(file: &'f dyn File, end: u64, ahead: usize) -> Self {
        Self { file, end, buffer: Vec::new(), start: 0, ahead }
    }

    /// The intact frame at that place; `None` if there is none.
    pub(super) fn at(&mut self, at: u64) -> io::Result<Option<(Header, &[u8])>> {
        let Some(head) = self.bytes(at, HEADER)?.first_chunk().and_then(header) else { return Ok(None) };
        let bytes = self.bytes(at, HEADER + head.len)?;
        let is_intact = bytes.len() == HEADER + head.len && xxh3_64(&bytes[8..]) == head.checksum;
        Ok(is_intact.then(|| (head, &bytes[HEADER..])))
    }

    /// The body of the intact frame of `len` bytes at that place, in memory of its own; `None` if there is none.
    pub(super) fn take(&mut self, at: u64, len: usize) -> io::Result<Option<(Header, Bytes)>> {
        if len <= self.ahead {
            return Ok(self.at(at)?.map(|(head, body)| (head, Bytes::copy_from_slice(body))));
        }
        let mut bytes = vec![0; len];
        let read = self.file.read(&mut bytes, at)?;
        bytes.truncate(read);
        let head = bytes.first_chunk().and_then(header);
        let head = head.filter(|head| head.bytes() == bytes.len() as u64 && xxh3_64(&bytes[8..]) == head.checksum);
        Ok(head.map(|head| (head, Bytes::from(bytes).slice(HEADER..))))
    }

    /// The next intact frame at or after that place, of one segment or of any: where it is, and its commit.
    pub(super) fn find(&mut self, segment: Option<u64>, from: u64) -> io::Result<Option<(u64, u64)>> {
        let mut at = from;
        while at + HEADER as u64 <= self.end {
            let bytes = self.bytes(at, SEARCHED)?;
            if bytes.len() < HEADER {
                break;
            }
            let Some(skip) = memmem::find(&bytes[MAGIC_AT..], &MAGIC) else {
                // The last bytes may be the beginning of a magic.
                at += (bytes.len() - MAGIC_AT - MAGIC.len() + 1) as u64;
                continue;
            };
            at += skip as u64;
            if let Some((head, _)) = self.at(at)?
                && segment.is_none_or(|segment| segment == head.segment)
            {
                return Ok(Some((at, head.commit)));
            }
            at += 1;
        }
        Ok(None)
    }

    /// Up to so many bytes from that place on; fewer only before the end.
    fn bytes(&mut self, at: u64, count: usize) -> io::Result<&[u8]> {
        let left = usize::try_from(self.end.saturating_sub(at)).unwrap_or(usize::MAX);
        let count = count.min(left);
        if at < self.start || at + count as u64 > self.start + self.buffer.len() as u64 {
            self.buffer.resize(count.max(self.ahead).min(left), 0);
            let read = self.file.read(&mut self.buffer, at)?;
            self.buffer.truncate(read);
            self.start = at;
        }
        let from = (at - self.start) as usize;
        let until = self.buffer.len().min(from + count);
        Ok(self.buffer.get(from..until).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::super::files::{Directory, Files};
    use super::*;

    const SEGMENT: u64 = 7;

    fn with_file(bytes: &[u8], test: impl FnOnce(&dyn File)) {
        let dir = tempfile::tempdir().unwrap();
        let file = Directory::open(dir.path()).unwrap().create("file").unwrap();
        file.write(bytes, 0).unwrap();
        test(&*file);
    }

    fn frame(commit: u64, body: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        put(&mut bytes, SEGMENT, commit, |to| to.extend_from_slice(body));
        bytes
    }

    #[test]
    fn a_changed_bit_or_a_missing_byte_makes_it_no_frame() {
        let whole = frame(3, b"body");
        let read = |bytes: &[u8]| {
            let mut found = None;
            with_file(bytes, |file| {
                let mut frames = Frames::new(file, bytes.len() as u64, 0);
                found = frames.at(0).unwrap().map(|(header, body)| (header.segment, header.commit, body.to_vec()));
            });
            found
        };
        assert_eq!(read(&whole), Some((SEGMENT, 3, b"body".to_vec())));
        assert_eq!(read(&[&whole, &b"more"[..]].concat()), read(&whole));
        for bit in 0..whole.len() * 8 {
            let mut changed = whole.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(read(&changed), None, "{bit}");
        }
        (0..whole.len()).for_each(|len| assert_eq!(read(&whole[..len]), None, "{len}"));
        assert_eq!(read(&[0; 100]), None);
    }

    #[test]
    fn a_frame_is_found_wherever_it_begins() {
        let (wanted, other) = (frame(5, b"wanted"), {
            let mut bytes = Vec::new();
            put(&mut bytes, SEGMENT + 1, 4, |to| to.extend_from_slice(b"another segment's"));
            bytes
        });
        for at in (SEARCHED - 50..SEARCHED + 3).chain([0, 1, 3 * SEARCHED + 9]) {
            let mut bytes = vec![0; at];
            bytes.extend_from_slice(&wanted);
            bytes.extend_from_slice(&other);
            let next = (at + wanted.len()) as u64;
            with_file(&bytes, |file| {
                let mut frames = Frames::new(file, bytes.len() as u64, 0);
                assert_eq!(frames.find(Some(SEGMENT), 0).unwrap(), Some((at as u64, 5)));
                assert_eq!(frames.find(Some(SEGMENT), at as u64 + 1).unwrap(), None);
                assert_eq!(frames.find(None, at as u64 + 1).unwrap(), Some((next, 4)));
            });
        }
    }
}
