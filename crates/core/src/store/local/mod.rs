//! Local files. `linux` and `portable` have the same few functions: one of them is the system's.
//!
//! Everything here blocks and runs inside CPU jobs. A write never shows half an object: it goes to a file
//! that has no name yet, or a temporary one, so a killed process leaves the old object or the new one.

#[cfg(all(target_os = "linux", not(feature = "portable")))]
mod linux;
mod opened;
#[cfg(not(all(target_os = "linux", not(feature = "portable"))))]
mod portable;
mod replace;

use std::collections::HashSet;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;

#[cfg(all(target_os = "linux", not(feature = "portable")))]
use linux::{Directory, Files};
pub(crate) use opened::Opened;
#[cfg(not(all(target_os = "linux", not(feature = "portable"))))]
use portable::{Directory, Files};
pub(crate) use replace::Directories;

use crate::error::{Error, StoreError, StoreErrorKind};
use crate::store::Validator;

/// Files under a directory.
#[derive(Debug)]
pub struct LocalStore {
    root: PathBuf,
    files: Files,
    place: OnceLock<Place>,
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

impl LocalStore {
    /// The store under `root`, read and written past the page cache if `direct_io`.
    #[must_use]
    pub fn new(root: &Path, direct_io: bool) -> Self {
        Self {
            root: std::path::absolute(root).unwrap_or_else(|_| root.to_owned()),
            files: Files::new(direct_io),
            place: OnceLock::new(),
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
        let path = self.path(key);
        match self.files.open(&path).and_then(Opened::new) {
            Ok(opened) => Ok(Some(opened)),
            Err(error) if is_absence(&error) || path.is_dir() => Ok(None),
            Err(error) => Err(self.failure("get", key, error)),
        }
    }

    /// In which state an object is; `None` where there is none, or where that does not show.
    pub(crate) fn state(&self, key: &str) -> Option<Validator> {
        Opened::state(&std::fs::metadata(self.path(key)).ok()?)
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
            .read(&self.files, range, into)
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
        let path = self.path(key);
        match std::fs::remove_file(&path) {
            Err(error) if !is_absence(&error) && !path.is_dir() => {
                Err(self.failure("delete", key, error))
            }
            _ => Ok(()),
        }
    }

    fn failure(&self, operation: &'static str, key: &str, error: io::Error) -> Error {
        let refusal = self.files.refusal(&error);
        let reason = refusal.map_or_else(|| error.to_string(), str::to_owned);
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

fn bytes_of(path: PathBuf) -> Arc<[u8]> {
    path.into_os_string().into_encoded_bytes().into()
}

/// What zarr's own `LocalStore` takes for "there is no such object". Not every system says so of a directory.
fn is_absence(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::IsADirectory | io::ErrorKind::NotADirectory
    )
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
        for files in Files::all() {
            let store = LocalStore {
                files,
                ..LocalStore::new(root.path(), false)
            };
            let mut directories = Directories::default();
            assert_eq!(None, read_all(&store, "c/0/0"));
            for bytes in [vec![], vec![7; 3], vec![9; 5000], vec![3; 8192]] {
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

    #[cfg(unix)]
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
}
