//! An object that is open for reading: its size, its state, and byte ranges of it.

use std::fs::{File, Metadata};
use std::io;
use std::ops::Range;
#[cfg(not(all(unix, not(feature = "portable"))))]
use std::time::Duration;
use std::time::{SystemTime, UNIX_EPOCH};

use super::Files;
use crate::store::Validator;

const SECOND: i128 = 1_000_000_000;
/// Nanoseconds in which times of files count at most: the slowest clock tick, that of Windows, twice.
const TIME_STEP: i128 = 32_000_000;
/// The same of times that are whole seconds: some file systems have no others, and FAT only even ones.
const WHOLE_STEP: i128 = 4 * SECOND;

/// An object that is open for reading.
#[derive(Debug)]
pub(crate) struct Opened {
    file: File,
    size: u64,
    /// `None` while the file is so young that one more change might not show in its time.
    validator: Option<Validator>,
}

impl Opened {
    pub(super) fn new(file: File) -> io::Result<Self> {
        let metadata = file.metadata()?;
        if metadata.is_dir() {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        Ok(Self {
            file,
            size: metadata.len(),
            validator: Self::state(&metadata),
        })
    }

    /// The state of a file.
    pub(super) fn state(metadata: &Metadata) -> Option<Validator> {
        let ([device, inode], changed) = identity(metadata)?;
        let size = metadata.len();
        has_settled(changed).then_some(Validator::File(device, inode, size, changed))
    }

    pub(crate) const fn size(&self) -> u64 {
        self.size
    }

    pub(crate) const fn validator(&self) -> Option<&Validator> {
        self.validator.as_ref()
    }

    /// Reads a byte range to the end of `into`.
    pub(super) fn read(
        &self,
        files: &Files,
        range: Range<u64>,
        into: &mut Vec<u8>,
    ) -> io::Result<()> {
        if range.end > self.size || range.start > range.end {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let len = usize::try_from(range.end - range.start).map_err(io::Error::other)?;
        files.read(&self.file, range.start, len, into)
    }
}

/// Device and inode of a file, and the time of its last change, which no tool sets back.
#[cfg(all(unix, not(feature = "portable")))]
#[expect(clippy::unnecessary_wraps, reason = "not every system has its time")]
fn identity(metadata: &Metadata) -> Option<([u64; 2], i128)> {
    use std::os::unix::fs::MetadataExt;

    let changed = i128::from(metadata.ctime()) * SECOND + i128::from(metadata.ctime_nsec());
    Some(([metadata.dev(), metadata.ino()], changed))
}

/// What tells a file from one that replaces it (when it was made), and the time of its last change.
#[cfg(not(all(unix, not(feature = "portable"))))]
fn identity(metadata: &Metadata) -> Option<([u64; 2], i128)> {
    let since = |time: SystemTime| time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let created = metadata.created().map_or(Duration::ZERO, since);
    let changed = since(metadata.modified().ok()?).as_nanos();
    let changed = i128::try_from(changed).ok()?;
    Some(([created.as_secs(), created.subsec_nanos().into()], changed))
}

/// Whether a file's last change is older than the steps in which file systems count time: then one more
/// change shows. The same care as git's for its index.
fn has_settled(changed: i128) -> bool {
    let step = if changed % SECOND == 0 {
        WHOLE_STEP
    } else {
        TIME_STEP
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.is_ok_and(|now| i128::try_from(now.as_nanos()).is_ok_and(|now| now - changed > step))
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
        let before = now - 2 * TIME_STEP;
        assert!(has_settled(before - i128::from(before % SECOND == 0)));
        let second = now / SECOND * SECOND;
        assert!(!has_settled(second - 2 * SECOND));
        assert!(has_settled(second - 5 * SECOND));
    }
}
