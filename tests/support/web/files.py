"""The served directory: paths to open files with a strong validator, and atomic puts and deletes."""

from __future__ import annotations

import itertools
import os
import stat
from email.utils import formatdate
from pathlib import Path


class FileBody:
    """A byte range of an open file: what is sent stays one version even if the file is replaced meanwhile."""

    def __init__(self, fd: int, start: int, stop: int) -> None:
        self._fd = fd
        self._start = start
        self.nbytes = stop - start

    def read(self, start: int, stop: int) -> bytes:
        """Bytes ``start..stop`` of the body."""
        return os.pread(self._fd, stop - start, self._start + start)

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)


class StoredFile:
    """One version of one object, open; whoever opened it closes it or hands it to a body."""

    def __init__(self, fd: int, version: int) -> None:
        self._fd = fd
        status = os.fstat(fd)
        self.nbytes = status.st_size
        # The version tells rewrites apart that reuse an inode within one tick of the file system's clock.
        self.etag = f'"{version:x}-{status.st_ino:x}-{status.st_mtime_ns:x}-{status.st_size:x}"'
        self.last_modified = formatdate(status.st_mtime, usegmt=True)

    def body(self, start: int, stop: int) -> FileBody:
        """Return the byte range ``start..stop``, which closes the file in place of this object."""
        return FileBody(self._fd, start, stop)

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)


class Directory:
    """The files below `root`, by their path relative to it.

    Parameters
    ----------
    root
        Directory to serve; it may be changed by others meanwhile.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._versions: dict[str, int] = {}
        self._numbers = itertools.count(1)

    def open(self, path: str) -> StoredFile | None:
        """Open the file at `path`, or None where there is none."""
        name = self._name(path)
        if name is None:
            return None
        try:
            fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError):
            return None
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            os.close(fd)
            return None
        return StoredFile(fd, self._versions.get(path, 0))

    def put(self, path: str, content: bytes) -> None:
        """Store `content` at `path`: readers see the old file or the new one.

        Raises
        ------
        ValueError
            The path leads out of the directory.
        """
        name = self._name(path)
        if name is None:
            msg = f"not a path below the served directory: {path!r}"
            raise ValueError(msg)
        file = Path(name)
        file.parent.mkdir(parents=True, exist_ok=True)
        version = next(self._numbers)
        temporary = file.with_name(f"{file.name}.{version}.partial")
        temporary.write_bytes(content)
        temporary.replace(file)
        self._versions[path] = version

    def delete(self, path: str) -> None:
        """Remove the file at `path`, which must exist."""
        name = self._name(path)
        if name is None:
            raise FileNotFoundError(path)
        Path(name).unlink()
        self._versions[path] = next(self._numbers)

    def _name(self, path: str) -> str | None:
        if not path or "\0" in path or not {"", ".", ".."}.isdisjoint(path.split("/")):
            return None
        return f"{self.root}/{path}"
