//! Local files: plain open and `pread`; new files without a name, linked or renamed into place.
//!
//! Everything here blocks and runs inside CPU jobs. A write never shows half an object: it goes to a file
//! that has no name yet, or a temporary one, so a killed process leaves the old object or the new one.

use std::collections::{HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher, RandomState};
use std::io;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use rustix::fs::{AtFlags, Dir, Mode, OFlags};
use rustix::io::Errno;

use super::Validator;
use crate::error::{Error, StoreError, StoreErrorKind};

/// What `O_DIRECT` asks of offsets, lengths and addresses: the largest logical block in common use.
const BLOCK: usize = 4096;
/// Nanoseconds in which times of files count at most: the slowest clock tick of Linux, twice.
const TIME_STEP: i128 = 20_000_000;
/// How often a put begins again because its directory, or its temporary file, was removed meanwhile.
const TRIES: usize = 5;
/// Age in seconds from which a temporary file is taken for abandoned. It lives for milliseconds; a writer
/// that was held up for longer, and whose file is removed, writes it again.
const ABANDONED: i64 = 3600;
/// Entries of a directory that are looked through for abandoned files: about 0.1 ms.
const TIDIED_ENTRIES: usize = 1024;
/// Directories that are remembered as looked through.
const TIDIED_DIRECTORIES: usize = 10_000;

/// Files under a directory.
#[derive(Debug)]
pub struct LocalStore {
    root: PathBuf,
    direct_io: bool,
    place: OnceLock<Place>,
    /// Whether the file system has files without a name, as far as is known.
    has_unnamed: AtomicBool,
    /// Hashes of the directories in which abandoned files were looked for.
    tidied: Mutex<HashSet<u64>>,
}

/// Where the chunks of an array really are, without symbolic links.
#[derive(Debug)]
struct Place {
    /// What the keys of the array's chunks begin with.
    array: PathBuf,
    path: PathBuf,
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
            place: OnceLock::new(),
            has_unnamed: AtomicBool::new(true),
            tidied: Mutex::default(),
        }
    }

    /// The absolute path of an object: comparable across stores with different roots.
    pub(crate) fn full_path(&self, key: &str) -> Arc<[u8]> {
        bytes_of(self.path(key))
    }

    /// Finds out where the chunks of an array really are; `key` is one of them. Blocks.
    ///
    /// An array's directory is there before its first chunk; directories further down need not be.
    pub(crate) fn resolve(&self, key: &str) {
        let has_metadata = |directory: &&Path| {
            let directory = self.root.join(directory);
            ["zarr.json", ".zarray"]
                .iter()
                .any(|name| directory.join(name).exists())
        };
        let array = Path::new(key).ancestors().skip(1).find(has_metadata);
        let array = array.unwrap_or(Path::new("")).to_owned();
        if let Ok(path) = self.root.join(&array).canonicalize() {
            self.place.get_or_init(|| Place { array, path });
        }
    }

    /// Whether [`Self::resolve`] is still to be called.
    pub(crate) fn is_unresolved(&self) -> bool {
        self.place.get().is_none()
    }

    /// The path of an object that is the same by whichever symbolic links its array is reached.
    pub(crate) fn real_path(&self, key: &str) -> Arc<[u8]> {
        let real = self.place.get().and_then(|place| {
            let rest = Path::new(key).strip_prefix(&place.array).ok()?;
            Some(place.path.join(rest))
        });
        bytes_of(real.unwrap_or_else(|| self.path(key)))
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

    /// Replaces an object at once: readers see the old one or the new one.
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
        let mut tries = 1;
        loop {
            let directory = directories.open(parent)?;
            match self.replace_in(&directory, parent, name, bytes) {
                Err(error) if error.kind() == io::ErrorKind::NotFound && tries < TRIES => {
                    // The path may be another directory by now.
                    directories.forget(parent);
                    tries += 1;
                }
                outcome => return outcome,
            }
        }
    }

    fn replace_in(
        &self,
        directory: &OwnedFd,
        parent: &Path,
        name: &OsStr,
        bytes: &[u8],
    ) -> io::Result<()> {
        let mut flags = OFlags::WRONLY | OFlags::CLOEXEC;
        if self.direct_io {
            flags |= OFlags::from_bits_retain(direct_flag().cast_unsigned());
        }
        let temporary = temporary_name(name);
        let mut linked = None;
        if let Some(file) = self.create_unnamed(directory, flags) {
            self.fill(&file, bytes)?;
            match link(&file, directory, name) {
                Ok(()) => return Ok(()),
                // A link replaces nothing: what is there takes a temporary name and a rename.
                Err(Errno::EXIST) => {
                    linked = link(&file, directory, &temporary).ok().map(|()| file);
                }
                // No links on this file system; or what fails once more below.
                Err(_) => {}
            }
        }
        let file = match linked {
            Some(file) => file,
            None => self.create_named(directory, flags, &temporary, bytes)?,
        };
        let renamed = rustix::fs::renameat(directory, &*temporary, directory, name);
        match renamed {
            Ok(()) => self.tidy(directory, parent, &file),
            Err(_) => remove(directory, &temporary),
        }
        Ok(renamed?)
    }

    /// A new file without a name, of which nothing is left when this process is killed.
    fn create_unnamed(&self, directory: &OwnedFd, flags: OFlags) -> Option<File> {
        if !self.has_unnamed.load(Ordering::Relaxed) {
            return None;
        }
        match open_unnamed(directory, flags) {
            Ok(file) => Some(file),
            Err(Errno::NOTSUP | Errno::ISDIR) => {
                self.has_unnamed.store(false, Ordering::Relaxed);
                None
            }
            // What fails once more with a name.
            Err(_) => None,
        }
    }

    /// A new file of this name and content.
    fn create_named(
        &self,
        directory: &OwnedFd,
        flags: OFlags,
        name: &OsStr,
        bytes: &[u8],
    ) -> io::Result<File> {
        let flags = flags | OFlags::CREATE | OFlags::EXCL;
        let file = File::from(rustix::fs::openat(directory, name, flags, file_mode())?);
        let filled = self
            .fill(&file, bytes)
            .and_then(|()| flush_to_server(&file));
        if let Err(error) = filled {
            remove(directory, name);
            return Err(error);
        }
        Ok(file)
    }

    fn fill(&self, file: &File, bytes: &[u8]) -> io::Result<()> {
        if self.direct_io {
            write_direct(file, bytes)
        } else {
            write(file, bytes)
        }
    }

    /// Removes what killed writers have left in a directory, once for each; `file` has just been written there.
    fn tidy(&self, directory: &OwnedFd, parent: &Path, file: &File) {
        let hash = BuildHasherDefault::<DefaultHasher>::default().hash_one(parent);
        let mut tidied = self.tidied.lock();
        if tidied.len() == TIDIED_DIRECTORIES {
            tidied.clear();
        }
        let is_new = tidied.insert(hash);
        drop(tidied);
        if !is_new {
            return;
        }
        // Whatever fails here is for the next writer to try.
        let (Ok(entries), Ok(written)) = (Dir::read_from(directory), rustix::fs::fstat(file))
        else {
            return;
        };
        for entry in entries.flatten().take(TIDIED_ENTRIES) {
            let name = entry.file_name();
            if !is_temporary(name.to_bytes()) {
                continue;
            }
            let left = rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW);
            // By the clock of the file system, which may not be ours.
            if left.is_ok_and(|left| written.st_mtime - left.st_mtime > ABANDONED) {
                rustix::fs::unlinkat(directory, name, AtFlags::empty()).ok();
            }
        }
    }

    fn failure(&self, operation: &'static str, key: &str, error: io::Error) -> Error {
        let refused = self.direct_io && error.raw_os_error() == Some(Errno::INVAL.raw_os_error());
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
            Err(Errno::NOENT) => {
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

fn bytes_of(path: PathBuf) -> Arc<[u8]> {
    path.into_os_string().into_vec().into()
}

/// What a file is called until it takes its object's name.
fn temporary_name(name: &OsStr) -> OsString {
    // Random, for a process before us may have had our number and left its files.
    let unique = RandomState::new().hash_one(std::process::id());
    let mut temporary = name.to_owned();
    temporary.push(format!(".{unique:016x}.partial"));
    temporary
}

/// Whether [`temporary_name`] may have made this name.
fn is_temporary(name: &[u8]) -> bool {
    let unique = name
        .strip_suffix(b".partial")
        .and_then(|rest| rest.last_chunk::<17>());
    unique.is_some_and(|unique| unique[0] == b'.' && unique[1..].iter().all(u8::is_ascii_hexdigit))
}

const fn file_mode() -> Mode {
    Mode::from_raw_mode(0o666)
}

#[cfg(target_os = "linux")]
fn open_unnamed(directory: &OwnedFd, flags: OFlags) -> rustix::io::Result<File> {
    rustix::fs::openat(directory, ".", flags | OFlags::TMPFILE, file_mode()).map(File::from)
}

#[cfg(not(target_os = "linux"))]
const fn open_unnamed(_directory: &OwnedFd, _flags: OFlags) -> rustix::io::Result<File> {
    Err(Errno::NOTSUP)
}

/// Waits until a file server has what was written, as closing the file would, but hears of errors: a server tells
/// only now that its disk is full. Local file systems tell when they are written to.
#[cfg(target_os = "linux")]
fn flush_to_server(file: &File) -> io::Result<()> {
    /// NFS, CIFS, SMB2 and FUSE, as statfs(2) names them.
    const SERVED: [i128; 4] = [0x6969, 0xff53_4d42, 0xfe53_4d42, 0x6573_5546];
    if SERVED.contains(&i128::from(rustix::fs::fstatfs(file)?.f_type)) {
        file.sync_data()?;
    }
    Ok(())
}

#[cfg(not(target_os = "linux"))]
const fn flush_to_server(_file: &File) -> io::Result<()> {
    Ok(())
}

/// Gives a name to a file that has none.
#[cfg(target_os = "linux")]
fn link(file: &File, directory: &OwnedFd, name: &OsStr) -> rustix::io::Result<()> {
    use std::os::fd::AsRawFd;

    use rustix::fs::{CWD, linkat};

    match linkat(file, "", directory, name, AtFlags::EMPTY_PATH) {
        // Before Linux 6.10 that takes a capability.
        Err(Errno::NOENT) => {
            let path = format!("/proc/self/fd/{}", file.as_raw_fd());
            linkat(CWD, path, directory, name, AtFlags::SYMLINK_FOLLOW)
        }
        linked => linked,
    }
}

#[cfg(not(target_os = "linux"))]
const fn link(_file: &File, _directory: &OwnedFd, _name: &OsStr) -> rustix::io::Result<()> {
    Err(Errno::NOTSUP)
}

/// Removes a temporary file; what went wrong before is what matters.
fn remove(directory: &OwnedFd, temporary: &OsStr) {
    rustix::fs::unlinkat(directory, temporary, AtFlags::empty()).ok();
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
        for (direct, unnamed) in [(false, true), (false, false), (true, true), (true, false)] {
            let store = LocalStore::new(root.path(), direct);
            store.has_unnamed.store(unnamed, Ordering::Relaxed);
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
    fn a_writer_removes_what_killed_ones_left_long_ago() {
        let root = tempfile::tempdir().unwrap();
        let long_ago = SystemTime::now() - std::time::Duration::from_hours(2);
        let leave = |name: &str, modified| {
            let file = File::create(root.path().join(name)).unwrap();
            file.set_modified(modified).unwrap();
        };
        leave("0.0123456789abcdef.partial", long_ago);
        leave("1.0123456789abcdef.partial", SystemTime::now());
        leave("2.partial", long_ago);
        leave("0", long_ago);
        LocalStore::new(root.path(), false)
            .put("0", &[1], &mut Directories::default())
            .unwrap();
        let mut left: Vec<_> = std::fs::read_dir(root.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        left.sort();
        assert_eq!(vec!["0", "1.0123456789abcdef.partial", "2.partial"], left);
    }

    #[test]
    fn what_cannot_be_replaced_leaves_no_temporary_file() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(root.path().join("0/1")).unwrap();
        let store = LocalStore::new(root.path(), false);
        let refused = store.put("0", &[1], &mut Directories::default());
        assert!(matches!(refused, Err(Error::Store(error)) if &*error.key == "0"));
        assert_eq!(1, std::fs::read_dir(root.path()).unwrap().count());
    }

    #[test]
    fn an_object_has_one_real_path_by_whichever_links_it_is_reached() {
        let root = tempfile::tempdir().unwrap();
        let array = root.path().join("group/a");
        std::fs::create_dir_all(&array).unwrap();
        std::fs::write(array.join("zarr.json"), "{}").unwrap();
        std::os::unix::fs::symlink(root.path().join("group"), root.path().join("link")).unwrap();
        std::os::unix::fs::symlink("a", root.path().join("group/b")).unwrap();
        let spellings = [
            ("", "group/a/c/0"),
            ("", "link/a/c/0"),
            ("link", "b/c/0"),
            ("group/../group", "a/c/0"),
            ("link/b", "c/0"),
        ];
        for (at, key) in spellings {
            let store = LocalStore::new(&root.path().join(at), false);
            assert!(store.is_unresolved());
            store.resolve(key);
            assert!(!store.is_unresolved());
            let expected = bytes_of(array.canonicalize().unwrap().join("c/0"));
            assert_eq!(expected, store.real_path(key));
        }
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
