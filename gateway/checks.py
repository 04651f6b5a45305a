"""What can be known about a configuration without asking anybody else: secrets, files, folders, memory."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal

import msgspec

from gateway.config.secrets import read_secret
from gateway.config.types import Config, Secret
from gateway.errors import ConfigError, OperationError, TracetuneError
from gateway.model_files import model_fault
from gateway.paths import paths_of
from gateway.traces.encryption.key_source import KeySource


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that was looked at. `exit_code` is what a failure makes of the command's."""

    what: str
    state: Literal["ok", "failed", "skipped"]
    says: str
    exit_code: int = 0


def passed(what: str, says: str) -> Finding:
    """It is as it should be."""
    return Finding(what=what, state="ok", says=says)


def skipped(what: str, says: str) -> Finding:
    """It was not looked at, for a reason."""
    return Finding(what=what, state="skipped", says=says)


def failed(what: str, says: str, exit_code: int = OperationError.exit_code) -> Finding:
    """It will not work as it is; *says* names the remedy."""
    return Finding(what=what, state="failed", says=says, exit_code=exit_code)


def check_local(config: Config, environ: Mapping[str, str]) -> Iterator[Finding]:
    """Everything on this machine, in the order of the file."""
    yield from _secrets(config, environ)
    yield _data(config)
    if config.privacy.master_key is not None:
        yield _keyring(config, environ)
    yield _memory(config)
    models = {upstream.managed.model for upstream in config.upstreams if upstream.managed is not None}
    for directory in sorted(models | {entry.base_model for entry in config.learner}):
        yield _model(directory)


def _secrets(config: Config, environ: Mapping[str, str]) -> Iterator[Finding]:
    wanted: list[tuple[str, Secret | None, str]] = [
        (f"key of upstream {upstream.name}", upstream.api_key, f"$.upstreams[{index}].api_key")
        for index, upstream in enumerate(config.upstreams)
    ]
    wanted += [
        (
            f"proxy credentials of upstream {upstream.name}",
            upstream.proxy_auth,
            f"$.upstreams[{index}].proxy_auth",
        )
        for index, upstream in enumerate(config.upstreams)
    ]
    wanted += [
        (f"key of client {key.name}", key.key, f"$.auth.keys[{index}].key")
        for index, key in enumerate(config.auth.keys if config.auth else [])
    ]
    if not config.store.embedded:
        wanted.append(("password of the store", config.store.password, "$.store.password"))
    for what, secret, place in wanted:
        if secret is None:
            continue
        try:
            read_secret(secret, environ, place)
        except ConfigError as error:
            yield failed(what, str(error), error.exit_code)
        else:
            yield passed(what, f"in {secret.env}" if secret.env else f"in {secret.file}")
    if config.auth is not None and not environ.get("TRACETUNE_ADMIN_KEY"):
        yield skipped("admin key", "TRACETUNE_ADMIN_KEY is not set; client keys with scope admin control")


def _data(config: Config) -> Finding:
    """The data directory, or the nearest folder above it that exists, can be written to and has room."""
    paths = paths_of(config)
    existing = next(path for path in (paths.data, *paths.data.parents) if path.exists())
    if not existing.is_dir():
        return failed("data directory", f"{existing} is a file; move it, or change store.url")
    if not os.access(existing, os.W_OK | os.X_OK):
        return failed("data directory", f"{existing} may not be written to; change its owner or store.url")
    free = shutil.disk_usage(existing).free
    if free < config.capture.max_bytes:
        return failed(
            "data directory",
            f"{existing} has {_bytes(free)} free, less than the {_bytes(config.capture.max_bytes)} that "
            "capture.max_bytes lets the spool take; free some, or lower it",
        )
    return passed("data directory", f"{paths.data}, {_bytes(free)} free")


def _keyring(config: Config, environ: Mapping[str, str]) -> Finding:
    from gateway.traces.encryption.keyring import open_keyring  # cryptography, for those who encrypt
    from gateway.traces.encryption.master_key import wrapper_of

    what, path = "keys of encrypted bodies", paths_of(config).keyring
    assert config.privacy.master_key is not None
    try:
        if not path.exists():
            wrapper_of(config.privacy.master_key, environ, "$.privacy.master_key")
            return passed(what, f"{path} will be made")
        keyring = open_keyring(KeySource.of(config), environ)
    except TracetuneError as error:
        return failed(what, str(error), error.exit_code)
    assert keyring is not None, "a master key is named"
    keyring.close()
    return passed(what, f"the master key opens {path}")


def _memory(config: Config) -> Finding:
    root = paths_of(config).segments.parent
    total = shutil.disk_usage(root).total
    if total < config.capture.memory_bytes:
        return failed(
            "shared memory",
            f"{root} holds {_bytes(total)}, less than capture.memory_bytes "
            f"({_bytes(config.capture.memory_bytes)}); enlarge it (docker run --shm-size), or lower that",
        )
    return passed("shared memory", f"{root}, {_bytes(total)}")


def _model(directory: Path) -> Finding:
    what = f"model {directory.name}"
    fault = model_fault(directory)
    if fault is not None:
        return failed(what, f"{fault}; put a whole model there, or correct its path")
    return passed(what, str(directory))


def _bytes(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"
