//! Files where there is no Linux, by the standard library alone. The feature `portable` has it on Linux too, where
//! its tests are run: [`read_at`] is all that differs between systems.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// How the files of one store are read and written.
#[derive(Debug)]
pub(super) struct Files;

/// A directory, by its path.
#[derive(Debug)]
pub(super) struct Directory(PathBuf);

#[expect(
    clippy::unused_self,
    reason = "these are the functions that Linux has, where files can be read and written in several ways"
)]
impl Files {
    /// The page cache cannot be passed here, so nobody may ask for that.
    pub(super) const fn new(_direct_io: bool) -> Self {
        Self
    }

    /// Each way of reading and writing that there is.
    #[cfg(test)]
    pub(super) fn all() -> Vec<Self> {
        vec![Self]
    }

    /// Opens a file for reading.
    pub(super) fn open(&self, path: &Path) -> io::Result<File> {
        File::open(path)
    }

    /// Reads `len` bytes from `start` on to the end of `into`.
    pub(super) fn read(
        &self,
        file: &File,
        start: u64,
        len: usize,
        into: &mut Vec<u8>,
    ) -> io::Result<()> {
        into.try_reserve_exact(len)?;
        let mut filled = into.len();
        into.resize(filled + len, 0);
        let mut at = start;
        while filled < into.len() {
            match read_at(file, &mut into[filled..], at) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(read) => {
                    filled += read;
                    at += read as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Stores a new file under the temporary name; tells that it is not `name`.
    pub(super) fn store(
        &self,
        directory: &Directory,
        _name: &OsStr,
        temporary: &OsStr,
        bytes: &[u8],
    ) -> io::Result<bool> {
        let mut file = File::create_new(directory.0.join(temporary))?;
        if let Err(error) = file.write_all(bytes) {
            // Windows removes no file that is open.
            drop(file);
            directory.remove(temporary);
            return Err(error);
        }
        Ok(false)
    }

    /// Why this way of reading and writing was refused, if that is what the error says.
    pub(super) const fn refusal(&self, _error: &io::Error) -> Option<&'static str> {
        None
    }
}

impl Directory {
    /// Names a directory, and makes it where there is none.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        std::fs::create_dir_all(path)?;
        Ok(Self(path.to_owned()))
    }

    /// Renames a file, in place of one that has the name.
    pub(super) fn rename(&self, from: &OsStr, to: &OsStr) -> io::Result<()> {
        std::fs::rename(self.0.join(from), self.0.join(to))
    }

    /// Removes a temporary file; what went wrong before is what matters.
    pub(super) fn remove(&self, name: &OsStr) {
        std::fs::remove_file(self.0.join(name)).ok();
    }
}

/// Reads from an offset, whoever else reads the same file.
#[cfg(unix)]
fn read_at(file: &File, into: &mut [u8], at: u64) -> io::Result<usize> {
    std::os::unix::fs::FileExt::read_at(file, into, at)
}

/// Reads from an offset, whoever else reads the same file: the position that this moves is used by nobody.
#[cfg(windows)]
fn read_at(file: &File, into: &mut [u8], at: u64) -> io::Result<usize> {
    std::os::windows::fs::FileExt::seek_read(file, into, at)
}
