//! An object that is open for reading: its size, its state, and byte ranges of it.

use std::fs::{File, Metadata};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::time::{SystemTime, UNIX_EPOCH};

use super::BLOCK;
use crate::store::Validator;

/// Nanoseconds in which times of files count at most: the slowest clock tick of Linux, twice.
const TIME_STEP: i128 = 20_000_000;

/// An object that is open for reading.
#[derive(Debug)]
pub(crate) struct Opened {
    file: File,
    size: u64,
    /// `None` while the file is so young that one more change might not show in its time.
    validator: Option<Validator>,
    direct_io: bool,
}

impl Opened {
    pub(super) fn new(file: File, direct_io: bool) -> io::Result<Self> {
        let metadata = file.metadata()?;
        if metadata.is_dir() {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        Ok(Self {
            file,
            size: metadata.size(),
            validator: Self::state(&metadata),
            direct_io,
        })
    }

    /// The state of a file.
    pub(super) fn state(metadata: &Metadata) -> Option<Validator> {
        let changed =
            i128::from(metadata.ctime()) * 1_000_000_000 + i128::from(metadata.ctime_nsec());
        let (device, inode, size) = (metadata.dev(), metadata.ino(), metadata.size());
        has_settled(changed).then_some(Validator::File(device, inode, size, changed))
    }

    pub(crate) const fn size(&self) -> u64 {
        self.size
    }

    pub(crate) const fn validator(&self) -> Option<&Validator> {
        self.validator.as_ref()
    }

    /// Reads a byte range to the end of `into`.
    pub(super) fn read(&self, range: Range<u64>, into: &mut Vec<u8>) -> io::Result<()> {
        if range.end > self.size || range.start > range.end {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let len = usize::try_from(range.end - range.start).map_err(io::Error::other)?;
        if self.direct_io {
            return self.read_direct(range.start, len, into);
        }
        into.try_reserve_exact(len)?;
        let wanted = into.len() + len;
        let mut at = range.start;
        while into.len() < wanted {
            let spare = wanted - into.len();
            // `spare_capacity` may offer more than was asked for, so the surplus is cut off.
            // A signal may interrupt it on a network file system.
            let read = rustix::io::retry_on_intr(|| {
                rustix::io::pread(&self.file, rustix::buffer::spare_capacity(into), at)
            })?;
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if read > spare {
                into.truncate(wanted);
            }
            at += read as u64;
        }
        Ok(())
    }

    /// Reads whole blocks around the range into an aligned part of a buffer of its own.
    fn read_direct(&self, start: u64, len: usize, into: &mut Vec<u8>) -> io::Result<()> {
        let block = BLOCK as u64;
        let first = start / block * block;
        let skip = usize::try_from(start - first).map_err(io::Error::other)?;
        let span = (skip + len).next_multiple_of(BLOCK);
        let mut blocks = Vec::new();
        blocks.try_reserve_exact(span + BLOCK)?;
        blocks.resize(span + BLOCK, 0);
        into.try_reserve_exact(len)?;
        let aligned = blocks.as_ptr().align_offset(BLOCK);
        let blocks = &mut blocks[aligned..aligned + span];
        let mut filled = 0;
        while filled < skip + len {
            match self
                .file
                .read_at(&mut blocks[filled..], first + filled as u64)
            {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        into.extend_from_slice(&blocks[skip..skip + len]);
        Ok(())
    }
}

/// Whether a file's last change is older than the steps in which file systems count time: then one more
/// change shows. The same care as git's for its index.
fn has_settled(changed: i128) -> bool {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.is_ok_and(|now| i128::try_from(now.as_nanos()).is_ok_and(|now| now - changed > TIME_STEP))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_that_may_come_again_is_not_trusted() {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let now = i128::try_from(now.as_nanos()).unwrap();
        assert!(!has_settled(now));
        assert!(!has_settled(now + 1_000_000_000));
        assert!(has_settled(now - 2 * TIME_STEP));
    }
}
