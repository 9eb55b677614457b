//! A sheet: one process writes what it knows of itself, another reads it without asking.
//!
//! A memfd of fixed size, sealed against shrinking and growing, made by the reader; or, where writer and
//! reader come and go on their own, a file at a known place. It is read and written by calls, not mapped,
//! so nothing that the writer does can fault the reader. A sum over the text tells a whole sheet from one
//! that is being written; the reader treats the rest as hostile.
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Bytes of the sheet.
const SHEET_BYTES: usize = 1024 * 1024;
/// Sum and length before the text.
const HEAD_BYTES: usize = 16;
/// A sheet that is being written is read again so many times.
const READS_MAX: usize = 5;

/// One end of it: the writer's or a reader's.
#[derive(Debug)]
pub struct Sheet {
    memfd: OwnedFd,
}

impl Sheet {
    /// An empty one.
    pub fn create() -> io::Result<Self> {
        use rustix::fs::{MemfdFlags, SealFlags};
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let memfd = rustix::fs::memfd_create("sheet", flags)?;
        rustix::fs::ftruncate(&memfd, SHEET_BYTES as u64)?;
        rustix::fs::fcntl_add_seals(&memfd, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        Ok(Self { memfd })
    }

    /// An empty one at `path`, which only this user may read.
    ///
    /// # Errors
    /// Something is there already, or the system's.
    pub fn create_at(path: &Path) -> io::Result<Self> {
        use rustix::fs::{Mode, OFlags};
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::CLOEXEC;
        Ok(Self { memfd: rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR)? })
    }

    /// The reader's end of the one at `path`.
    ///
    /// # Errors
    /// Nothing is there, or no plain file.
    pub fn open_at(path: &Path) -> io::Result<Self> {
        Ok(Self { memfd: super::plain::open(path)?.into() })
    }

    /// The writer's end, as it was inherited.
    pub fn from_fd(memfd: OwnedFd) -> Self {
        Self { memfd }
    }

    /// Replaces what is written. One writer at a time.
    ///
    /// # Errors
    /// If it does not fit, or the system's; the sheet may then hold nothing that can be read.
    pub fn write<T: Serialize>(&self, value: &T) -> io::Result<()> {
        let text = serde_json::to_vec(value).map_err(io::Error::other)?;
        if text.len() > SHEET_BYTES - HEAD_BYTES {
            return Err(io::Error::other("too much for the sheet"));
        }
        let mut bytes = sum(&text).to_le_bytes().to_vec();
        bytes.extend((text.len() as u64).to_le_bytes());
        bytes.extend(text);
        rustix::io::pwrite(&self.memfd, &bytes, 0)?;
        Ok(())
    }

    /// What is written; None: nothing whole.
    pub fn read<T: DeserializeOwned>(&self) -> Option<T> {
        (0..READS_MAX).find_map(|_| {
            let mut head = [0; HEAD_BYTES];
            let got = rustix::io::pread(&self.memfd, &mut head[..], 0).ok()?;
            let (expected, length) = head.split_at_checked(8).filter(|_| got == HEAD_BYTES)?;
            let expected = u64::from_le_bytes(expected.try_into().ok()?);
            let length = usize::try_from(u64::from_le_bytes(length.try_into().ok()?)).ok()?;
            if length > SHEET_BYTES - HEAD_BYTES {
                return None;
            }
            let mut text = vec![0; length];
            let got = rustix::io::pread(&self.memfd, &mut text[..], HEAD_BYTES as u64).ok()?;
            if got == length && sum(&text) == expected {
                serde_json::from_slice(&text).ok()
            } else {
                None
            }
        })
    }
}

impl AsFd for Sheet {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.memfd.as_fd()
    }
}

/// FNV-1a, 64 bits.
fn sum(text: &[u8]) -> u64 {
    text.iter().fold(0xcbf2_9ce4_8422_2325, |sum, byte| {
        (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_a_torn_sheet_is_not() {
        let reader = Sheet::create().unwrap();
        let writer = Sheet::from_fd(reader.as_fd().try_clone_to_owned().unwrap());
        assert_eq!(reader.read::<Vec<u32>>(), None);
        writer.write(&vec![1, 2, 3]).unwrap();
        assert_eq!(reader.read(), Some(vec![1, 2, 3]));
        rustix::io::pwrite(&writer, b"9", HEAD_BYTES as u64 + 1).unwrap();
        assert_eq!(reader.read::<Vec<u32>>(), None);
        assert!(writer.write(&"x".repeat(SHEET_BYTES)).is_err());
        rustix::io::pwrite(&writer, &[0xff; 64], 0).unwrap();
        assert_eq!(reader.read::<Vec<u32>>(), None);
        assert!(rustix::fs::ftruncate(&writer, 1).is_err(), "it is sealed");
    }

    #[test]
    fn a_sheet_at_a_place_is_read_by_whoever_comes_and_nothing_else_is_taken_for_one() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("sheet");
        assert!(Sheet::open_at(&path).is_err());
        let writer = Sheet::create_at(&path).unwrap();
        assert_eq!(Sheet::open_at(&path).unwrap().read::<Vec<u32>>(), None);
        writer.write(&vec![1, 2, 3]).unwrap();
        writer.write(&vec![4]).unwrap();
        assert_eq!(Sheet::open_at(&path).unwrap().read(), Some(vec![4]));
        assert!(Sheet::create_at(&path).is_err(), "there is one already");
        let link = directory.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert!(Sheet::open_at(&link).is_err());
        assert!(Sheet::open_at(directory.path()).is_err());
    }
}
