"""CPU time and memory of processes, from /proc."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import msgspec

from benchmarks.types import BenchmarkError

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class Stat(msgspec.Struct, frozen=True, kw_only=True):
    """Of `/proc/PID/stat`: parent, CPU ticks of it and of its children that ended, pages in memory."""

    parent: int
    ticks: int
    ended_children_ticks: int
    resident_pages: int


def parse_stat(text: str) -> Stat:
    """Read one line of `/proc/PID/stat`. The name in it may hold blanks and parentheses."""
    fields = text.rpartition(")")[2].split()
    return Stat(
        parent=int(fields[1]),
        ticks=int(fields[11]) + int(fields[12]),
        ended_children_ticks=int(fields[13]) + int(fields[14]),
        resident_pages=int(fields[21]),
    )


def read_stat(pid: int) -> Stat | None:
    """None where the process has ended."""
    try:
        return parse_stat(Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace"))
    except (FileNotFoundError, ProcessLookupError):
        return None


def tree(roots: Iterable[int], parents: dict[int, int]) -> set[int]:
    """*roots* and all that descend from them, where *parents* maps a process to its parent."""
    found = set(roots)
    grown = True
    while grown:
        more = {pid for pid, parent in parents.items() if parent in found} - found
        found |= more
        grown = bool(more)
    return found


def process_tree(roots: Iterable[int]) -> set[int]:
    """The living processes at and under *roots*."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (stat := read_stat(int(entry.name))) is not None:
            parents[int(entry.name)] = stat.parent
    return tree(roots, parents) & (parents.keys() | set(roots))


def cpu_s(pids: Iterable[int]) -> float:
    """User + system time so far of *pids* and of their children that have ended."""
    stats = [stat for pid in pids if (stat := read_stat(pid)) is not None]
    return sum(stat.ticks + stat.ended_children_ticks for stat in stats) / TICKS_PER_S


def resident_bytes(pid: int) -> int:
    """Memory that *pid* holds, shared pages included; 0 where it has ended."""
    stat = read_stat(pid)
    return stat.resident_pages * PAGE_BYTES if stat is not None else 0


def most_resident_bytes(pid: int) -> int:
    """The most memory that *pid* has held since it began. Raises BenchmarkError where it has ended."""
    try:
        return parse_most(Path(f"/proc/{pid}/status").read_text(encoding="utf-8", errors="replace"))
    except (FileNotFoundError, ProcessLookupError) as error:
        raise BenchmarkError(f"process {pid} has ended") from error


def parse_most(status: str) -> int:
    """`VmHWM` of `/proc/PID/status`, in bytes."""
    for line in status.splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise BenchmarkError("a process without memory has ended")


def busy_s(cores: Iterable[int]) -> float:
    """How long *cores* have worked so far, for whomever."""
    return parse_busy(Path("/proc/stat").read_text(encoding="utf-8"), set(cores))


def parse_busy(text: str, cores: set[int]) -> float:
    """The same, from `/proc/stat`: the time of processes, and what the machine's host took.

    Interrupts are left out, as they are in the CPU time of processes: most are the load's own packets.
    """
    wanted = {f"cpu{core}" for core in cores}
    lines = [fields for line in text.splitlines() if (fields := line.split())[:1] and fields[0] in wanted]
    # user nice system idle iowait irq softirq steal; guests are in user already
    return sum(int(field) for line in lines for field in [*line[1:4], line[8]]) / TICKS_PER_S
