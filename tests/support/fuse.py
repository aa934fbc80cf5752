"""A file system of FUSE that shows a directory's files, to read only, and interrupts the first read of each part.

``python -m support.fuse DIRECTORY MOUNTPOINT`` prints a line when it is mounted, and serves until its standard input
ends. Then it prints how many reads it has interrupted. It takes root, and Linux.

See https://docs.kernel.org/filesystems/fuse.html and ``linux/fuse.h`` for the messages.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import sys
import threading
from enum import IntEnum
from pathlib import Path


class Opcode(IntEnum):
    """What is known here of what the kernel may ask."""

    LOOKUP = 1
    FORGET = 2
    GETATTR = 3
    OPEN = 14
    READ = 15
    RELEASE = 18
    FLUSH = 25
    INIT = 26
    OPENDIR = 27
    RELEASEDIR = 29
    INTERRUPT = 36
    BATCH_FORGET = 42


UNANSWERED = {Opcode.FORGET, Opcode.INTERRUPT, Opcode.BATCH_FORGET}
# Each read comes here, whatever the page cache has.
FOPEN_DIRECT_IO = 1
IN_HEADER = struct.Struct("<IIQQ16x")
OUT_HEADER = struct.Struct("<IiQ")
MNT_DETACH = 2
LARGEST_MESSAGE = 1 << 20
# A read is answered with no more.
MOST_READ = 1000


class Files:
    """Files by the numbers that the kernel is told; the root is 1."""

    def __init__(self, root: Path) -> None:
        self._paths = {1: root}
        self._read: set[tuple[int, int]] = set()
        self.interrupted = 0

    def answer(self, opcode: int, node: int, body: bytes) -> bytes:
        """Answer a message; a failure is an `OSError`."""
        match opcode:
            case Opcode.INIT:
                return struct.pack("<IIIIHHIIHHI28x", 7, 31, 0, 0, 1, 1, 4096, 1, 1, 0, 0)
            case Opcode.LOOKUP:
                return self._lookup(self._paths[node] / os.fsdecode(body.rstrip(b"\0")))
            case Opcode.GETATTR:
                return struct.pack("<QII", 0, 0, 0) + attributes(self._paths[node])
            case Opcode.OPEN | Opcode.OPENDIR:
                return struct.pack("<QIi", 0, FOPEN_DIRECT_IO, 0)
            case Opcode.READ:
                _, start, size = struct.unpack_from("<QQI", body)
                return self._part(node, start, size)
            case Opcode.RELEASE | Opcode.FLUSH | Opcode.RELEASEDIR:
                return b""
        raise OSError(errno.ENOSYS, "")

    def _lookup(self, path: Path) -> bytes:
        found = attributes(path)
        node = path.stat().st_ino
        self._paths[node] = path
        return struct.pack("<QQQQII", node, 0, 0, 0, 0, 0) + found

    def _part(self, node: int, start: int, size: int) -> bytes:
        if (node, start) not in self._read:
            self._read.add((node, start))
            self.interrupted += 1
            raise InterruptedError(errno.EINTR, "")
        return self._paths[node].read_bytes()[start : start + min(size, MOST_READ)]


def attributes(path: Path) -> bytes:
    """Return what the kernel keeps of a file."""
    stat = path.stat()
    seconds, rest = divmod(stat.st_mtime_ns, 10**9)
    return struct.pack(
        "<QQQ3Q3I7I",
        *(stat.st_ino, stat.st_size, 0, *[seconds] * 3, *[rest] * 3),
        *(stat.st_mode, stat.st_nlink, stat.st_uid, stat.st_gid, 0, 4096, 0),
    )


def serve(device: int, files: Files) -> None:
    """Answer the kernel until the file system is unmounted."""
    while True:
        try:
            message = os.read(device, LARGEST_MESSAGE)
        except OSError as error:
            if error.errno == errno.ENODEV:
                return
            raise
        _, opcode, unique, node = IN_HEADER.unpack_from(message)
        if opcode in UNANSWERED:
            continue
        failed, answer = 0, b""
        try:
            answer = files.answer(opcode, node, message[IN_HEADER.size :])
        except OSError as error:
            failed = -(error.errno or errno.EIO)
        os.write(device, OUT_HEADER.pack(OUT_HEADER.size + len(answer), failed, unique) + answer)


def main() -> None:
    """Mount, serve, unmount."""
    root, mountpoint = sys.argv[1:]
    libc = ctypes.CDLL(None, use_errno=True)
    device = os.open("/dev/fuse", os.O_RDWR)
    options = f"fd={device},rootmode=40000,user_id=0,group_id=0".encode()
    if libc.mount(b"tests", os.fsencode(mountpoint), b"fuse", 0, options) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    files = Files(Path(root))
    server = threading.Thread(target=serve, args=(device, files), daemon=True)
    server.start()
    print("mounted", flush=True)  # noqa: T201 - read by who started us
    sys.stdin.read()
    libc.umount2(os.fsencode(mountpoint), MNT_DETACH)
    os.close(device)
    print(files.interrupted, flush=True)  # noqa: T201 - the same


if __name__ == "__main__":
    main()
