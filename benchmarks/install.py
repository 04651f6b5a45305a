"""Installs the contenders under `benchmarks/.contenders`, each in an environment of its own.

    python -m benchmarks.install

What is there already in the pinned version stays. What cannot be installed is written down with its reason in
`.contenders/missing.json`, and reported as missing by the run. Exit status 0 in both cases: a run with a
contender less is still a run.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

CONTENDERS = Path(__file__).resolve().parent / ".contenders"
MISSING = CONTENDERS / "missing.json"
INSTALL_WITHIN_S = 1200.0  # of one step: compiled packages are large
PYTHON_PACKAGES = {"vllm-router": "vllm-router==0.1.17", "litellm": "litellm[proxy]==1.100.5"}
NODE_PACKAGES = {"portkey": "@portkey-ai/gateway@1.15.2"}
SYSTEM_PACKAGES = ("nginx", "wrk")
ON_PATH = {"nginx": "/usr/sbin:/usr/bin", "wrk": "/usr/bin:/usr/local/bin"}
REASON_CHARACTERS = 200


class InstallError(Exception):
    """A step failed; the message is one line and says why."""


def executable(name: str) -> Path | None:
    """Where a system program is, also where a plain user's PATH lacks `/usr/sbin`."""
    found = shutil.which(name) or shutil.which(name, path=ON_PATH.get(name, os.defpath))
    return Path(found) if found else None


def missing_reasons() -> dict[str, str]:
    """Contender (or `nginx`, `wrk`) to why it is not installed, as the last installation left it."""
    return dict(json.loads(MISSING.read_text())) if MISSING.exists() else {}


def last_line(output: str) -> str:
    """The line of a failed command that says most: its last one that says `error`, else its last."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line for line in lines if "error" in line.lower()]
    return ([*lines, *errors] or ["it said nothing"])[-1][:REASON_CHARACTERS]


def _do(*command: str, env: dict[str, str] | None = None) -> None:
    try:
        done = subprocess.run(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=INSTALL_WITHIN_S,
            check=False,
            env={**os.environ, **(env or {})},
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise InstallError(last_line(str(error))) from error
    if done.returncode != 0:
        raise InstallError(last_line(done.stdout))


def _marked(folder: Path, pin: str) -> bool:
    marker = folder / ".installed"
    return marker.exists() and marker.read_text() == pin


def install_python(name: str, pin: str) -> None:
    """A virtual environment with one package. Raises InstallError."""
    folder = CONTENDERS / name
    if _marked(folder, pin):
        return
    shutil.rmtree(folder, ignore_errors=True)
    _do(sys.executable, "-m", "venv", str(folder))
    _do(str(folder / "bin" / "pip"), "install", "--quiet", "--disable-pip-version-check", pin)
    (folder / ".installed").write_text(pin)


def install_node(name: str, pin: str) -> None:
    """A folder with one package and what it needs. Raises InstallError."""
    folder = CONTENDERS / name
    if _marked(folder, pin):
        return
    npm = executable("npm")
    if npm is None:
        raise InstallError("npm is not on this machine")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    _do(str(npm), "install", "--prefix", str(folder), "--no-audit", "--no-fund", "--loglevel=error", pin)
    (folder / ".installed").write_text(pin)


def install_system(name: str) -> None:
    """A program of the distribution. Raises InstallError."""
    if executable(name) is not None:
        return
    apt = executable("apt-get")
    if apt is None or os.geteuid() != 0:
        raise InstallError(f"{name} is not on this machine; installing it takes apt-get and root")
    _do(
        str(apt),
        "install",
        "-y",
        "--no-install-recommends",
        name,
        env={"DEBIAN_FRONTEND": "noninteractive"},
    )


def install_all() -> dict[str, str]:
    """Install everything; name to reason of what could not be."""
    CONTENDERS.mkdir(exist_ok=True)
    steps = [
        *((name, install_system, (name,)) for name in SYSTEM_PACKAGES),
        *((name, install_python, (name, pin)) for name, pin in PYTHON_PACKAGES.items()),
        *((name, install_node, (name, pin)) for name, pin in NODE_PACKAGES.items()),
    ]
    missing: dict[str, str] = {}
    for name, install, arguments in steps:
        print(f"{name} ...", end=" ", flush=True)
        try:
            install(*arguments)  # type: ignore[operator]  # each step has the arguments of its own installer
        except InstallError as error:
            missing[name] = str(error)
        print(missing.get(name, "there"), flush=True)
    MISSING.write_text(json.dumps(missing, indent=1))
    return missing


if __name__ == "__main__":
    install_all()
