//! Replacing an object: a file without a name, or with a temporary one, is filled and then linked or renamed
//! into place.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher, RandomState};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use rustix::fs::{AtFlags, Dir, Mode, OFlags};
use rustix::io::Errno;

use super::{BLOCK, LocalStore, direct_flag};

/// How often a put begins again because its directory, or its temporary file, was removed meanwhile.
const TRIES: usize = 5;
/// Age in seconds from which a temporary file is taken for abandoned. It lives for milliseconds; a writer
/// that was held up for longer, and whose file is removed, writes it again.
const ABANDONED: i64 = 3600;
/// Entries of a directory that are looked through for abandoned files: about 0.1 ms.
const TIDIED_ENTRIES: usize = 1024;
/// Directories that are remembered as looked through.
const TIDIED_DIRECTORIES: usize = 10_000;

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

impl LocalStore {
    pub(super) fn replace(
        &self,
        key: &str,
        bytes: &[u8],
        directories: &mut Directories,
    ) -> io::Result<()> {
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

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::error::Error;

    #[test]
    fn a_directory_removed_between_two_puts_is_made_again() {
        let root = tempfile::tempdir().unwrap();
        let store = LocalStore::new(root.path(), false);
        let mut directories = Directories::default();
        store.put("a/b/0", &[1], &mut directories).unwrap();
        std::fs::remove_dir_all(root.path().join("a")).unwrap();
        store.put("a/b/1", &[2], &mut directories).unwrap();
        assert_eq!(vec![2], std::fs::read(root.path().join("a/b/1")).unwrap());
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
}
