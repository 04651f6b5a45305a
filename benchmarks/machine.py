"""What a result must say about where it comes from: machine, commit, versions."""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import timeit
from pathlib import Path

import msgspec

from benchmarks.install import CONTENDERS, NODE_PACKAGES, PYTHON_PACKAGES, executable

REPOSITORY = Path(__file__).resolve().parents[1]
ASK_WITHIN_S = 30.0
LOOP_TURNS = 100_000
LOOPS = 20


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """The machine of a run."""

    cpu: str
    cores: int
    memory_gib: float
    kernel: str
    python: str
    compiler: str  # that built the interpreter
    loop_ns: float  # of a turn of a plain loop: interpreters of one version differ by how they were built
    load_average: list[float]  # when the run began: what else the machine did


def this_machine() -> Machine:
    """Read from /proc."""
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return Machine(
        cpu=cpu_model(Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")),
        cores=os.cpu_count() or 1,
        memory_gib=round(pages / 2**30, 1),
        kernel=platform.release(),
        python=platform.python_version(),
        compiler=platform.python_compiler(),
        loop_ns=round(loop_ns(), 2),
        load_average=[round(load, 2) for load in os.getloadavg()],
    )


def loop_ns() -> float:
    """Nanoseconds of this interpreter for one turn of a loop that counts: the best of several."""
    return min(timeit.repeat("count += 1", "count = 0", number=LOOP_TURNS, repeat=LOOPS)) / LOOP_TURNS * 1e9


def cpu_model(cpuinfo: str) -> str:
    """The name in `/proc/cpuinfo`, with family, model and stepping where it has them."""
    found = {
        name.strip(): value.strip()
        for name, _, value in (line.partition(":") for line in cpuinfo.partition("\n\n")[0].splitlines())
    }
    numbers = [f"{name} {found[name]}" for name in ("cpu family", "model", "stepping") if name in found]
    return ", ".join([found.get("model name", platform.machine()), *numbers])


def commit() -> str:
    """The commit measured, with `+changes` where files differ from it."""
    head = _said("git", "rev-parse", "HEAD")
    changed = _said("git", "status", "--porcelain", "--untracked-files=no")
    return f"{head or 'unknown'}{'+changes' if changed else ''}"


def versions() -> dict[str, str]:
    """Of the contenders that are installed, and of what makes the load."""
    found = {name: pin.rpartition("==")[2] for name, pin in PYTHON_PACKAGES.items() if _there(name)}
    for name, pin in NODE_PACKAGES.items():
        if _there(name):
            package = CONTENDERS / name / "node_modules" / pin.rpartition("@")[0] / "package.json"
            found[name] = str(json.loads(package.read_text())["version"])
    for name, option in (("nginx", "-v"), ("wrk", "-v"), ("node", "--version")):
        program = executable(name)
        number = re.search(r"\d+(\.\d+)+", _said(str(program), option)) if program else None
        if number is not None:
            found[name] = number[0]
    return found


def _there(name: str) -> bool:
    return (CONTENDERS / name / ".installed").exists()


def _said(*command: str) -> str:
    """What a command prints, on either stream; nothing where it cannot be started."""
    try:
        done = subprocess.run(
            command,
            cwd=REPOSITORY,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=ASK_WITHIN_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip()
