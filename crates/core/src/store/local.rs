//! Local files: plain open and `pread`, temporary file and rename.
//!
//! Everything here blocks and runs inside CPU jobs. A write never shows half an object: it goes to a
//! temporary name in the same directory and is renamed, so a killed process leaves the old or the new.

use std::collections::HashMap;
use std::fs::File;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::{AtFlags, Mode, OFlags};

use super::Validator;
use crate::error::{Error, StoreError, StoreErrorKind};

/// What `O_DIRECT` asks of offsets, lengths and addresses: the largest logical block in common use.
const BLOCK: usize = 4096;
/// Nanoseconds in which times of files count at most: the slowest clock tick of Linux, twice.
const TIME_STEP: i128 = 20_000_000;

/// Files under a directory.
#[derive(Debug)]
pub struct LocalStore {
    root: PathBuf,
    direct_io: bool,
}

/// An object that is open for reading.
#[derive(Debug)]
pub(crate) struct Opened {
    file: File,
    size: u64,
    /// `None` while the file is so young that one more change might not show in its time.
    validator: Option<Validator>,
    direct_io: bool,
}

impl LocalStore {
    /// The store under `root`, read and written past the page cache if `direct_io`.
    #[must_use]
    pub fn new(root: &Path, direct_io: bool) -> Self {
        Self {
            root: std::path::absolute(root).unwrap_or_else(|_| root.to_owned()),
            direct_io,
        }
    }

    /// The absolute path of an object: comparable across stores with different roots.
    pub(crate) fn full_path(&self, key: &str) -> Arc<str> {
        self.path(key).to_string_lossy().into()
    }

    pub(super) fn name(&self) -> String {
        format!("file://{}", self.root.display())
    }

    fn path(&self, key: &str) -> PathBuf {
        self.root.join(key)
    }

    /// Opens an object; `None` where there is none.
    pub(crate) fn open(&self, key: &str) -> Result<Option<Opened>, Error> {
        let mut options = File::options();
        options.read(true);
        if self.direct_io {
            options.custom_flags(direct_flag());
        }
        let opened = options.open(self.path(key)).and_then(|file| {
            let metadata = file.metadata()?;
            if metadata.is_dir() {
                return Err(io::ErrorKind::IsADirectory.into());
            }
            let changed =
                i128::from(metadata.ctime()) * 1_000_000_000 + i128::from(metadata.ctime_nsec());
            let size = metadata.size();
            let validator = has_settled(changed)
                .then(|| Validator::File(metadata.dev(), metadata.ino(), size, changed));
            Ok(Opened {
                file,
                size,
                validator,
                direct_io: self.direct_io,
            })
        });
        match opened {
            Ok(opened) => Ok(Some(opened)),
            Err(error) if is_absence(&error) => Ok(None),
            // A directory cannot be opened past the page cache, which is not what is wrong with it.
            Err(_) if self.direct_io && self.path(key).is_dir() => Ok(None),
            Err(error) => Err(self.failure("get", key, error)),
        }
    }

    /// Reads a byte range of an open object to the end of `into`.
    pub(crate) fn read(
        &self,
        key: &str,
        opened: &Opened,
        range: Range<u64>,
        into: &mut Vec<u8>,
    ) -> Result<(), Error> {
        let len = range.end.saturating_sub(range.start);
        opened
            .read(range, into)
            .map_err(|error| match error.kind() {
                io::ErrorKind::OutOfMemory => {
                    Error::memory(usize::try_from(len).unwrap_or(usize::MAX)).at(&key.into())
                }
                _ => self.failure("get", key, error),
            })
    }

    /// Replaces an object, by way of a temporary file in the same directory.
    pub(crate) fn put(
        &self,
        key: &str,
        bytes: &[u8],
        directories: &mut Directories,
    ) -> Result<(), Error> {
        self.replace(key, bytes, directories)
            .map_err(|error| self.failure("put", key, error))
    }

    /// Removes an object; not an error where there is none.
    pub(crate) fn delete(&self, key: &str) -> Result<(), Error> {
        match std::fs::remove_file(self.path(key)) {
            Err(error) if !is_absence(&error) => Err(self.failure("delete", key, error)),
            _ => Ok(()),
        }
    }

    fn replace(&self, key: &str, bytes: &[u8], directories: &mut Directories) -> io::Result<()> {
        let path = self.path(key);
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        // Random, for a process before us may have had our number and left its files.
        let unique = RandomState::new().hash_one(std::process::id());
        let mut temporary = name.to_owned();
        temporary.push(format!(".{unique:016x}.partial"));
        let mut flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        if self.direct_io {
            flags |= OFlags::from_bits_retain(direct_flag().cast_unsigned());
        }
        let mode = Mode::from_raw_mode(0o666);
        let mut directory = directories.open(parent)?;
        let file = match rustix::fs::openat(&*directory, &*temporary, flags, mode) {
            Err(rustix::io::Errno::NOENT) => {
                // The directory was removed after it was opened; the path may be another one by now.
                directories.forget(parent);
                directory = directories.open(parent)?;
                rustix::fs::openat(&*directory, &*temporary, flags, mode)?
            }
            other => other?,
        };
        let file = File::from(file);
        let written = if self.direct_io {
            write_direct(&file, bytes)
        } else {
            write(&file, bytes)
        };
        drop(file);
        let renamed = written.and_then(|()| {
            Ok(rustix::fs::renameat(
                &*directory,
                &*temporary,
                &*directory,
                name,
            )?)
        });
        if renamed.is_err() {
            // The first failure is what matters; a temporary file that stays is not a chunk.
            rustix::fs::unlinkat(&*directory, &*temporary, AtFlags::empty()).ok();
        }
        renamed
    }

    fn failure(&self, operation: &'static str, key: &str, error: io::Error) -> Error {
        let refused =
            self.direct_io && error.raw_os_error() == Some(rustix::io::Errno::INVAL.raw_os_error());
        let reason = if refused {
            "the file system refuses O_DIRECT; set codec_pipeline.direct_io to False".to_owned()
        } else {
            error.to_string()
        };
        let kind = match error.kind() {
            io::ErrorKind::PermissionDenied => StoreErrorKind::Permission,
            io::ErrorKind::TimedOut => StoreErrorKind::Timeout,
            _ => StoreErrorKind::Other,
        };
        StoreError {
            kind,
            operation,
            key: key.into(),
            store: self.name().into(),
            status: None,
            attempts: 1,
            reason: reason.into(),
            source: Some(Arc::new(error)),
        }
        .into()
    }
}

impl Opened {
    pub(crate) const fn size(&self) -> u64 {
        self.size
    }

    pub(crate) const fn validator(&self) -> Option<&Validator> {
        self.validator.as_ref()
    }

    fn read(&self, range: Range<u64>, into: &mut Vec<u8>) -> io::Result<()> {
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
            // A signal may interrupt it, on network file systems for one.
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

/// The directories that one job writes into, opened once each.
///
/// Lives no longer than a job, so that a directory that is moved away is not written to for long.
#[derive(Debug, Default)]
pub(crate) struct Directories(HashMap<PathBuf, Arc<OwnedFd>>);

impl Directories {
    fn open(&mut self, path: &Path) -> io::Result<Arc<OwnedFd>> {
        if let Some(directory) = self.0.get(path) {
            return Ok(Arc::clone(directory));
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = match rustix::fs::open(path, flags, Mode::empty()) {
            Err(rustix::io::Errno::NOENT) => {
                std::fs::create_dir_all(path)?;
                rustix::fs::open(path, flags, Mode::empty())?
            }
            other => other?,
        };
        let directory = Arc::new(directory);
        self.0.insert(path.to_owned(), Arc::clone(&directory));
        Ok(directory)
    }

    fn forget(&mut self, path: &Path) {
        self.0.remove(path);
    }
}

fn write(file: &File, bytes: &[u8]) -> io::Result<()> {
    io::Write::write_all(&mut &*file, bytes)
}

/// Writes whole blocks, then cuts the file to its size.
fn write_direct(file: &File, bytes: &[u8]) -> io::Result<()> {
    let span = bytes.len().next_multiple_of(BLOCK);
    let mut blocks = vec![0; span + BLOCK];
    let aligned = blocks.as_ptr().align_offset(BLOCK);
    let blocks = &mut blocks[aligned..aligned + span];
    blocks[..bytes.len()].copy_from_slice(bytes);
    file.write_all_at(blocks, 0)?;
    file.set_len(bytes.len() as u64)
}

/// Whether a file's last change is older than the steps in which file systems count time: then one more
/// change shows. The same care as git's for its index.
fn has_settled(changed: i128) -> bool {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.is_ok_and(|now| i128::try_from(now.as_nanos()).is_ok_and(|now| now - changed > TIME_STEP))
}

/// What zarr's own `LocalStore` takes for "there is no such object".
fn is_absence(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::IsADirectory | io::ErrorKind::NotADirectory
    )
}

#[cfg(target_os = "linux")]
const fn direct_flag() -> i32 {
    OFlags::DIRECT.bits().cast_signed()
}

#[cfg(not(target_os = "linux"))]
const fn direct_flag() -> i32 {
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_all(store: &LocalStore, key: &str) -> Option<Vec<u8>> {
        let opened = store.open(key).unwrap()?;
        let mut bytes = vec![1, 2];
        store
            .read(key, &opened, 0..opened.size(), &mut bytes)
            .unwrap();
        Some(bytes.split_off(2))
    }

    #[test]
    fn objects_come_back_and_leave_nothing_behind() {
        let root = tempfile::tempdir().unwrap();
        for direct in [false, true] {
            let store = LocalStore::new(root.path(), direct);
            let mut directories = Directories::default();
            assert_eq!(None, read_all(&store, "c/0/0"));
            for bytes in [vec![], vec![7; 3], vec![9; 5000], vec![3; 2 * BLOCK]] {
                store.put("c/0/0", &bytes, &mut directories).unwrap();
                assert_eq!(Some(bytes), read_all(&store, "c/0/0"));
            }
            assert_eq!(
                1,
                std::fs::read_dir(root.path().join("c/0")).unwrap().count()
            );
            let opened = store.open("c/0/0").unwrap().unwrap();
            let mut part = Vec::new();
            store.read("c/0/0", &opened, 100..5000, &mut part).unwrap();
            assert_eq!(vec![3; 4900], part);
            assert!(store.read("c/0/0", &opened, 0..9000, &mut part).is_err());
            store.delete("c/0/0").unwrap();
            store.delete("c/0/0").unwrap();
            assert_eq!(None, read_all(&store, "c/0/0"));
            assert_eq!(None, read_all(&store, "c"));
        }
    }

    #[test]
    fn a_directory_removed_between_two_puts_is_made_again() {
        let root = tempfile::tempdir().unwrap();
        let store = LocalStore::new(root.path(), false);
        let mut directories = Directories::default();
        store.put("a/b/0", &[1], &mut directories).unwrap();
        std::fs::remove_dir_all(root.path().join("a")).unwrap();
        store.put("a/b/1", &[2], &mut directories).unwrap();
        assert_eq!(Some(vec![2]), read_all(&store, "a/b/1"));
    }

    #[test]
    fn a_replaced_file_has_another_validator_once_it_has_one() {
        let root = tempfile::tempdir().unwrap();
        let store = LocalStore::new(root.path(), false);
        let replaced = |byte| {
            store
                .put("0", &[byte], &mut Directories::default())
                .unwrap();
            loop {
                let opened = store.open("0").unwrap().unwrap();
                if let Some(validator) = opened.validator() {
                    break validator.clone();
                }
                std::thread::yield_now();
            }
        };
        assert_ne!(replaced(1), replaced(2));
    }

    #[test]
    fn a_time_that_may_come_again_is_not_trusted() {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let now = i128::try_from(now.as_nanos()).unwrap();
        assert!(!has_settled(now));
        assert!(!has_settled(now + 1_000_000_000));
        assert!(has_settled(now - 2 * TIME_STEP));
    }
}
