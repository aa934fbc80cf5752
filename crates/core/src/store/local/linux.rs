//! Files on Linux: directories by descriptor, `pread` into memory that nobody has cleared, new files without a name,
//! and I/O past the page cache.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, fstatfs, linkat, openat, renameat, unlinkat};
use rustix::io::{Errno, pread, retry_on_intr};

/// What `O_DIRECT` asks of offsets, lengths and addresses: the largest logical block in common use.
const BLOCK: usize = 4096;

/// How the files of one store are read and written.
#[derive(Debug)]
pub(super) struct Files {
    direct_io: bool,
    /// Whether the file system has files without a name, as far as is known.
    has_unnamed: AtomicBool,
}

/// A directory that stays the same when its path becomes another's.
#[derive(Debug)]
pub(super) struct Directory(OwnedFd);

impl Files {
    pub(super) const fn new(direct_io: bool) -> Self {
        Self {
            direct_io,
            has_unnamed: AtomicBool::new(true),
        }
    }

    /// Each way of reading and writing that there is.
    #[cfg(test)]
    pub(super) fn all() -> Vec<Self> {
        let ways = [(false, true), (false, false), (true, true), (true, false)];
        ways.map(|(direct_io, has_unnamed)| Self {
            direct_io,
            has_unnamed: has_unnamed.into(),
        })
        .into()
    }

    /// Opens a file for reading.
    pub(super) fn open(&self, path: &Path) -> io::Result<File> {
        let mut options = File::options();
        options.read(true);
        if self.direct_io {
            options.custom_flags(OFlags::DIRECT.bits().cast_signed());
        }
        options.open(path)
    }

    /// Reads `len` bytes from `start` on to the end of `into`.
    pub(super) fn read(
        &self,
        file: &File,
        start: u64,
        len: usize,
        into: &mut Vec<u8>,
    ) -> io::Result<()> {
        if self.direct_io {
            return read_direct(file, start, len, into);
        }
        into.try_reserve_exact(len)?;
        let wanted = into.len() + len;
        let mut at = start;
        while into.len() < wanted {
            let spare = wanted - into.len();
            // `spare_capacity` may offer more than was asked for, so the surplus is cut off.
            // A signal may interrupt it on a network file system.
            let read = retry_on_intr(|| pread(file, rustix::buffer::spare_capacity(into), at))?;
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

    /// Stores a new file under `name`, and tells so; or under the temporary name, where the other is taken.
    pub(super) fn store(
        &self,
        directory: &Directory,
        name: &OsStr,
        temporary: &OsStr,
        bytes: &[u8],
    ) -> io::Result<bool> {
        if let Some(file) = self.create_unnamed(directory) {
            self.fill(&file, bytes)?;
            match directory.link(&file, name) {
                Ok(()) => return Ok(true),
                // A link replaces nothing: what is there takes a temporary name and a rename.
                Err(Errno::EXIST) => {
                    if directory.link(&file, temporary).is_ok() {
                        return Ok(false);
                    }
                }
                // No links on this file system; or what fails once more below.
                Err(_) => {}
            }
        }
        let file = directory.create(temporary, self.flags() | OFlags::CREATE | OFlags::EXCL)?;
        let filled = self
            .fill(&file, bytes)
            .and_then(|()| flush_to_server(&file));
        if let Err(error) = filled {
            directory.remove(temporary);
            return Err(error);
        }
        Ok(false)
    }

    /// Why this way of reading and writing was refused, if that is what the error says.
    pub(super) fn refusal(&self, error: &io::Error) -> Option<&'static str> {
        let is_refused =
            self.direct_io && error.raw_os_error() == Some(Errno::INVAL.raw_os_error());
        is_refused
            .then_some("the file system refuses O_DIRECT; set codec_pipeline.direct_io to False")
    }

    /// A new file without a name, of which nothing is left when this process is killed.
    fn create_unnamed(&self, directory: &Directory) -> Option<File> {
        if !self.has_unnamed.load(Ordering::Relaxed) {
            return None;
        }
        match directory.create(OsStr::new("."), self.flags() | OFlags::TMPFILE) {
            Ok(file) => Some(file),
            Err(Errno::NOTSUP | Errno::ISDIR) => {
                self.has_unnamed.store(false, Ordering::Relaxed);
                None
            }
            // What fails once more with a name.
            Err(_) => None,
        }
    }

    fn flags(&self) -> OFlags {
        if self.direct_io {
            OFlags::WRONLY | OFlags::DIRECT
        } else {
            OFlags::WRONLY
        }
    }

    fn fill(&self, file: &File, bytes: &[u8]) -> io::Result<()> {
        if self.direct_io {
            write_direct(file, bytes)
        } else {
            io::Write::write_all(&mut &*file, bytes)
        }
    }
}

impl Directory {
    /// Opens a directory, and makes it where there is none.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = match rustix::fs::open(path, flags, Mode::empty()) {
            Err(Errno::NOENT) => {
                std::fs::create_dir_all(path)?;
                rustix::fs::open(path, flags, Mode::empty())?
            }
            other => other?,
        };
        Ok(Self(directory))
    }

    /// Renames a file, in place of one that has the name.
    pub(super) fn rename(&self, from: &OsStr, to: &OsStr) -> io::Result<()> {
        Ok(renameat(&self.0, from, &self.0, to)?)
    }

    /// Removes a temporary file; what went wrong before is what matters.
    pub(super) fn remove(&self, name: &OsStr) {
        unlinkat(&self.0, name, AtFlags::empty()).ok();
    }

    fn create(&self, name: &OsStr, flags: OFlags) -> rustix::io::Result<File> {
        let mode = Mode::from_raw_mode(0o666);
        openat(&self.0, name, flags | OFlags::CLOEXEC, mode).map(File::from)
    }

    /// Gives a name to a file that has none.
    fn link(&self, file: &File, name: &OsStr) -> rustix::io::Result<()> {
        match linkat(file, "", &self.0, name, AtFlags::EMPTY_PATH) {
            // Before Linux 6.10 that takes a capability.
            Err(Errno::NOENT) => {
                let path = format!("/proc/self/fd/{}", file.as_raw_fd());
                linkat(CWD, path, &self.0, name, AtFlags::SYMLINK_FOLLOW)
            }
            linked => linked,
        }
    }
}

/// Waits until a file server has what was written, as closing the file would, but hears of errors: a server tells
/// only now that its disk is full. Local file systems tell when they are written to.
fn flush_to_server(file: &File) -> io::Result<()> {
    /// NFS, CIFS, SMB2 and FUSE, as statfs(2) names them.
    const SERVED: [i128; 4] = [0x6969, 0xff53_4d42, 0xfe53_4d42, 0x6573_5546];
    if SERVED.contains(&i128::from(fstatfs(file)?.f_type)) {
        file.sync_data()?;
    }
    Ok(())
}

/// Reads whole blocks around the range into an aligned part of a buffer of its own.
fn read_direct(file: &File, start: u64, len: usize, into: &mut Vec<u8>) -> io::Result<()> {
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
        match file.read_at(&mut blocks[filled..], first + filled as u64) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    into.extend_from_slice(&blocks[skip..skip + len]);
    Ok(())
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
