//! Replacing an object: a new file takes its name at once, by a link or a rename.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher, RandomState};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::{Directory, LocalStore};

/// How often a put begins again because its directory, or its temporary file, was removed meanwhile.
const TRIES: usize = 5;
/// Age from which a temporary file is taken for abandoned. It lives for milliseconds; a writer that was held up for
/// longer, and whose file is removed, writes it again.
const ABANDONED: Duration = Duration::from_hours(1);
/// Entries of a directory that are looked through for abandoned files: about 0.1 ms.
const TIDIED_ENTRIES: usize = 1024;
/// Directories that are remembered as looked through.
const TIDIED_DIRECTORIES: usize = 10_000;

/// The directories that one job writes into, opened once each.
///
/// Lives no longer than a job, so that a directory that is moved away is not written to for long.
#[derive(Debug, Default)]
pub(crate) struct Directories(HashMap<PathBuf, Arc<Directory>>);

impl Directories {
    fn open(&mut self, path: &Path) -> io::Result<Arc<Directory>> {
        if let Some(directory) = self.0.get(path) {
            return Ok(Arc::clone(directory));
        }
        let directory = Arc::new(Directory::open(path)?);
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
        directory: &Directory,
        parent: &Path,
        name: &OsStr,
        bytes: &[u8],
    ) -> io::Result<()> {
        let temporary = temporary_name(name);
        if self.files.store(directory, name, &temporary, bytes)? {
            return Ok(());
        }
        let renamed = directory.rename(&temporary, name);
        match renamed {
            Ok(()) => self.tidy(parent, name),
            Err(_) => directory.remove(&temporary),
        }
        renamed
    }

    /// Removes what killed writers have left in a directory, once for each; `name` has just been written there.
    fn tidy(&self, parent: &Path, name: &OsStr) {
        let hash = BuildHasherDefault::<DefaultHasher>::default().hash_one(parent);
        let mut tidied = self.tidied.lock();
        if tidied.len() == TIDIED_DIRECTORIES {
            tidied.clear();
        }
        let is_new = tidied.insert(hash);
        drop(tidied);
        if is_new {
            // Whatever fails there is for the next writer to try.
            remove_abandoned(parent, name).ok();
        }
    }
}

/// Removes temporary files that are far older than the one that was written last.
fn remove_abandoned(parent: &Path, written: &OsStr) -> io::Result<()> {
    // By the clock of the file system, which may not be ours.
    let now = parent.join(written).metadata()?.modified()?;
    for entry in std::fs::read_dir(parent)?.flatten().take(TIDIED_ENTRIES) {
        if !is_temporary(entry.file_name().as_encoded_bytes()) {
            continue;
        }
        let left = entry.metadata().and_then(|left| left.modified());
        let age = left.map(|left| now.duration_since(left));
        if matches!(age, Ok(Ok(age)) if age > ABANDONED) {
            std::fs::remove_file(entry.path()).ok();
        }
    }
    Ok(())
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

#[cfg(test)]
mod tests {
    use std::fs::File;
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
        let long_ago = SystemTime::now() - 2 * ABANDONED;
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
