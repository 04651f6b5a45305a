"""Can the judges be used? Asked of the judges' own package in a process: the gateway imports none of it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec

from gateway.checks import Finding, failed, passed
from gateway.config.types import Config
from gateway.errors import ConfigError

_PACKAGE_ROOT = Path(__file__).resolve().parent.parent


def check_judges(config: Config, config_path: Path) -> Iterator[Finding]:
    """Each judge's file is imported, as `tracetune up` will, and its function looked at. Runs users' code.

    The process bounds how long an import may take, and says on stderr what it waits for.
    """
    if not config.judges:
        return
    done = subprocess.run(
        [sys.executable, "-P", "-m", "judges.usable", "--config", str(config_path)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": python_path()},
        check=False,
    )
    if done.returncode != 0:
        says = f"they could not be looked at (status {done.returncode}); the lines above say why"
        yield failed("judges", says)
        return
    unusable = msgspec.json.decode(done.stdout, type=dict[str, str])
    for judge in config.judges:
        what = f"judge {judge.name}"
        if judge.name in unusable:
            yield failed(what, unusable[judge.name], ConfigError.exit_code)
        else:
            yield passed(what, judge.made_of)


def python_path() -> str:
    """The packages are found wherever this one was, also from a folder that has a `judges` of its own."""
    path = os.environ.get("PYTHONPATH")
    return os.pathsep.join([str(_PACKAGE_ROOT), *([path] if path else [])])
