"""Runs a command that ends when this process's standard input closes: a server that cannot outlive its tests.

``python guard.py DIRECTORY COMMAND ARGUMENT...`` ends the command, by its process id, also on SIGTERM, and removes the
directory in which the command has kept its data.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading

# A server that has not stopped on SIGTERM after this many seconds is killed.
PATIENCE_S = 10.0


def main(directory: str, command: list[str]) -> int:
    """Run `command` to its end, remove `directory`, and return the command's exit status."""
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL)  # noqa: S603 - the tests' own command
    stopped = threading.Event()

    def stop_when_told() -> None:
        stopped.wait()
        process.terminate()
        try:
            process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            process.kill()

    def watch_stdin() -> None:
        while os.read(0, 4096):
            pass
        stopped.set()

    signal.signal(signal.SIGTERM, lambda *_: stopped.set())
    for work in (stop_when_told, watch_stdin):
        threading.Thread(target=work, daemon=True).start()
    status = process.wait()
    shutil.rmtree(directory, ignore_errors=True)
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
