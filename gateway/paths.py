"""Where things lie in the data directory and in shared memory. One place, so that every process agrees."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import msgspec

from gateway.config.types import Config

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 -- tmpfs: outlives a killed worker and is not a disk


class Paths(msgspec.Struct, frozen=True):
    """Paths under one data directory (`embedded:DIR`, else the spool's parent)."""

    data: Path
    spool: Path

    @property
    def store(self) -> Path:
        """ChDB's directory, token, endpoint and lock of the embedded store."""
        return self.data / "store"

    @property
    def state(self) -> Path:
        """Small machine-written JSON: overlay of the table, last table, salt, process list."""
        return self.data / "state"

    @property
    def keyring(self) -> Path:
        """The data keys of encrypted bodies, wrapped by the master key."""
        return self.state / "keyring.sqlite"

    @property
    def datasets(self) -> Path:
        return self.data / "datasets"

    @property
    def snapshots(self) -> Path:
        return self.data / "snapshots"

    @property
    def runs(self) -> Path:
        """Training runs with their checkpoints, one folder each."""
        return self.data / "runs"

    @property
    def segments(self) -> Path:
        """Segments of captured traces in shared memory, one folder per data directory and user."""
        digest = hashlib.sha256(os.fsencode(self.data)).hexdigest()[:12]
        root = SHARED_MEMORY if SHARED_MEMORY.is_dir() else self.data
        return root / f"tracetune-{os.getuid()}-{digest}"

    @property
    def machines(self) -> Path:
        """What the workers share to price machines that are paid by the hour; small, and nobody's loss."""
        return self.segments / "machines"

    @property
    def quotas(self) -> Path:
        """The counters of keys with limits, which the workers share; saved to `state` as they change."""
        return self.segments / "quotas"

    @property
    def sightings(self) -> Path:
        """What each worker last said of its upstreams; small, and said anew twice a second."""
        return self.segments / "sightings"


def paths_of(config: Config) -> Paths:
    """The paths of a loaded configuration."""
    spool = config.capture.spool
    assert spool is not None, "load_config fills it"
    if config.store.embedded:
        return Paths(Path(config.store.url.removeprefix("embedded:")), spool)
    return Paths(spool.parent, spool)
