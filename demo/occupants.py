"""Who is in the way of a demo: what writes in its directory or listens on its ports, as /proc tells it."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from pathlib import Path

import msgspec

from gateway.errors import OperationError

_PROC = Path("/proc")
_LISTENING = "0A"  # the state's number in /proc/net/tcp


class Occupant(msgspec.Struct, frozen=True, kw_only=True):
    """A process and what it holds. Of one and its descendants only the first is an occupant."""

    pid: int
    name: str
    holds: tuple[str, ...]


def check_nobody(directory: Path, addresses: Sequence[tuple[str, int]], config_path: Path) -> None:
    """Raise OperationError, with all that is to be stopped, when *directory* or an address is in use."""
    found = occupants(directory, [port for _, port in addresses])
    if found:
        what = "; ".join(f"{one.name} ({one.pid}) {' and '.join(one.holds)}" for one in found)
        pids = " ".join(str(one.pid) for one in found)
        raise OperationError(
            f"still running: {what}; stop it: kill {pids}, or set other ports in {config_path}"
        )
    for host, port in addresses:
        if not _free(host, port):
            raise OperationError(
                f"port {port} on {host} is in use by a process of another user; set another in {config_path}"
            )


def occupants(directory: Path, ports: Sequence[int]) -> list[Occupant]:
    """The processes that write in *directory* or listen on *ports*, this one and invisible ones aside."""
    sockets = {f"socket:[{inode}]": port for inode, port in _listening().items() if port in ports}
    holds: dict[int, list[str]] = {}
    for pid in _pids():
        held = _held(pid, directory.resolve(), sockets)
        if held and pid != os.getpid():
            holds[pid] = held
    return [
        Occupant(pid=pid, name=_name(pid), holds=tuple(held))
        for pid, held in sorted(holds.items())
        if not holds.keys() & _ancestors(pid)
    ]


def listens(pid: int, port: int) -> bool:
    """Whether process *pid* itself holds a socket that listens on *port*."""
    sockets = {f"socket:[{inode}]": port for inode, held in _listening().items() if held == port}
    return bool(_held(pid, None, sockets))


def _held(pid: int, directory: Path | None, sockets: dict[str, int]) -> list[str]:
    held: set[str] = set()
    try:
        for descriptor in (_PROC / str(pid) / "fd").iterdir():
            target = str(descriptor.readlink())
            if target in sockets:
                held.add(f"listens on port {sockets[target]}")
            elif directory and Path(target).is_relative_to(directory) and _writes(pid, descriptor.name):
                held.add(f"works in {directory}")
    except OSError:  # it ended meanwhile, or is another user's
        return []
    return sorted(held)


def _writes(pid: int, descriptor: str) -> bool:
    """Whether the descriptor may write; one that only reads, as of `tail -f`, is in nobody's way."""
    text = (_PROC / str(pid) / "fdinfo" / descriptor).read_text(encoding="ascii")
    flags = next(line.split()[1] for line in text.splitlines() if line.startswith("flags:"))
    return int(flags, 8) & os.O_ACCMODE != os.O_RDONLY


def _listening() -> dict[str, int]:
    """Inode of every listening TCP socket, and its port."""
    found: dict[str, int] = {}
    for table in ("tcp", "tcp6"):
        path = _PROC / "net" / table
        for line in path.read_text(encoding="ascii").splitlines()[1:] if path.exists() else []:
            fields = line.split()
            if fields[3] == _LISTENING:
                found[fields[9]] = int(fields[1].rpartition(":")[2], 16)
    return found


def _pids() -> list[int]:
    return [int(entry.name) for entry in _PROC.iterdir() if entry.name.isdigit()]


def _ancestors(pid: int) -> set[int]:
    found: set[int] = set()
    while pid > 1 and (pid := _parent(pid)) not in found:
        found.add(pid)
    return found


def _parent(pid: int) -> int:
    try:
        # The name before it stands in parentheses and may hold anything, a parenthesis too.
        return int((_PROC / str(pid) / "stat").read_text(errors="replace").rpartition(")")[2].split()[1])
    except OSError:
        return 0


def _name(pid: int) -> str:
    """What a person knows the process by. Its other arguments may be secret."""
    try:
        words = (_PROC / str(pid) / "cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return "a process"
    if words[1:2] == ["-m"]:
        return words[2]
    program = next((word for word in words[:2][::-1] if word and not word.startswith("-")), "a process")
    return Path(program if "python" in Path(words[0]).name else words[0]).name


def _free(host: str, port: int) -> bool:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True
