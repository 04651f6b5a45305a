"""A disk that is small, and full when a test wants it to be."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest


class SmallDisk:
    """A mounted tmpfs of a fixed size."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def fill(self, *, free: int) -> None:
        """Leave *free* bytes of room."""
        status = os.statvfs(self.path)
        with (self.path / "filler").open("ab") as file:
            file.write(b"\0" * max(0, status.f_bavail * status.f_frsize - free))

    def resize(self, size: str) -> None:
        """Make it *size*, as mount writes sizes, with what is on it."""
        subprocess.run(["mount", "-o", f"remount,size={size}", str(self.path)], check=True)

    def set_writable(self, writable: bool) -> None:
        """Make it read-only, as a file system does whose disk fails, or writable again."""
        options = f"remount,{'rw' if writable else 'ro'}"
        subprocess.run(["mount", "-o", options, str(self.path)], check=True)


@contextlib.contextmanager
def small_disk(path: Path, size: str) -> Iterator[SmallDisk]:
    """A disk of *size* mounted at *path*; skips the test where mounting is not allowed."""
    path.mkdir(parents=True, exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(path)]
    if os.getuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("needs the right to mount a small tmpfs")
    try:
        yield SmallDisk(path)
    finally:
        subprocess.run(["umount", "-l", str(path)], check=False)
