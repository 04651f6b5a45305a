"""The cell that code of an answer runs in: `python -I -S code_cell.py REPORT OWNER`, work on standard input.

Before it runs anything it gives up, for good: the network and other processes (a filter of system calls, and
namespaces of its own where the kernel grants them), files but the standard library's (Landlock), and time,
memory and descriptors beyond its bounds. Where one of these cannot be had, it reports that and runs nothing.
Imports the standard library alone: it starts without any of our packages.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import platform
import resource
import signal
import struct
import sys
from typing import NamedTuple

STARTED, REFUSED = b"started ", b"refused "
START_S = 5.0  # the time two interpreters may take to start, on a busy machine
MAX_REPORT_BYTES = 4_096
WRITABLE_BYTES = 16 << 20  # in the cell's own folder
MAX_DESCRIPTORS = 64

_PR_SET_PDEATHSIG, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 1, 22, 38
_CAPABILITIES_VERSION = 0x20080522
_NEW_NAMESPACES = 0x10000000 | 0x40000000 | 0x00020000 | 0x08000000  # user, network, mounts, IPC
_MS_NOSUID, _MS_NODEV, _MS_REC, _MS_PRIVATE = 2, 4, 16384, 1 << 18

# The numbers of what is refused. From 424 on they are the same everywhere: signals and descriptors of other
# processes, io_uring, mounts, and changes of a file's mode and attributes.
_REFUSED_ALIKE = (*range(424, 435), 438, 440, 442, 447, 448, 452, 463, 466)


class _Machine(NamedTuple):
    """One architecture: what audit calls it, and the numbers of its system calls."""

    arch: int
    processes: tuple[int, ...]  # fork, vfork, ptrace, signals, priorities, memory of others, shared memory
    reach: tuple[int, ...]  # socket, mounts, keys, namespaces, perf, bpf, userfaultfd, open_by_handle_at
    files: tuple[int, ...]  # what Landlock lets pass: modes, owners, attributes, times, truncate by name
    clone: int
    prlimit: int
    fcntl: int
    ioctl: int


_MACHINES = {
    "x86_64": _Machine(
        arch=0xC000003E,
        processes=(57, 58, 101, 62, 200, 234, 129, 297, 141, 203, 310, 311, 312, 29, 64, 68, 240, 319),
        reach=(41, 165, 166, 155, 161, 248, 249, 250, 272, 308, 298, 321, 323, 304),
        files=(90, 91, 268, 92, 93, 94, 260, 188, 189, 190, 197, 198, 199, 132, 235, 261, 280, 76),
        clone=56,
        prlimit=302,
        fcntl=72,
        ioctl=16,
    ),
    "aarch64": _Machine(
        arch=0xC00000B7,
        processes=(117, 129, 130, 131, 138, 240, 140, 122, 270, 271, 272, 194, 190, 186, 180, 279),
        reach=(198, 40, 39, 41, 51, 217, 218, 219, 97, 268, 241, 280, 282, 265),
        files=(52, 53, 54, 55, 5, 6, 7, 14, 15, 16, 88, 45),
        clone=220,
        prlimit=261,
        fcntl=25,
        ioctl=29,
    ),
}
_CLONE3 = 435
_OWNER_FCNTLS = (8, 10, 15)  # F_SETOWN, F_SETSIG, F_SETOWN_EX: who is sent which signal when there is news
_OWNER_IOCTLS = (0x8901, 0x8902)  # FIOSETOWN, SIOCSPGRP: the same of sockets
_CLONE_THREAD = 0x00010000
_ALLOW, _KILL = 0x7FFF0000, 0x80000000

# Landlock: the rights there are since its first version, and those that later ones add.
_EXECUTE, _WRITE, _READ, _READ_DIR = 1, 2, 4, 8
_RIGHTS_BY_VERSION = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 5: (1 << 16) - 1}
_IOCTL = 1 << 15
_TRUNCATES_SINCE = 3
_SCOPES_SINCE = 6

# Runs as the last program of the cell. Names of its own are gone before the code has any.
_DRIVER = """
import json, os, sys
def main():
    report = int(sys.argv[1])
    work = json.loads(os.fdopen(os.dup(0), "rb").read().split(b"\\n", 1)[1])
    null = os.open("/dev/null", os.O_RDWR)
    os.dup2(null, 0)
    os.close(null)
    token, write = work["token"].encode(), os.write
    names = {"__name__": "__main__", "__builtins__": __builtins__}
    del sys.argv[1:]
    sys.path.insert(0, "")
    write(report, b"started ")
    for part in ("code", "tests"):
        try:
            exec(compile(work[part], f"<{part}>", "exec"), names)
        except SystemExit as end:
            if end.code not in (None, 0):
                raise
    write(report, token)
main()
"""


class CannotError(Exception):
    """Something that the cell has to give up cannot be given up here."""


def main() -> None:
    """Close the cell and run what standard input holds, or report why not."""
    report, owner = int(sys.argv[1]), int(sys.argv[2])
    try:
        limits = json.loads(os.pread(0, 4_096, 0).split(b"\n", 1)[0])
        close_cell(limits["seconds"], limits["memory_bytes"], owner)
    except CannotError as error:
        os.write(report, REFUSED + str(error).encode())
        return
    os.set_inheritable(report, True)  # noqa: FBT003 -- that is its name
    base = getattr(sys, "_base_executable", sys.executable)
    os.execve(base, [base, "-I", "-S", "-B", "-c", _DRIVER, str(report)], {"LANG": "C.UTF-8"})  # noqa: S606 -- a shell would be one more


def close_cell(seconds: float, memory_bytes: int, owner: int) -> None:
    """Give up all that code of an answer must not have. Raises CannotError; what was given up stays so."""
    machine = _MACHINES.get(platform.machine())
    if not sys.platform.startswith("linux") or machine is None or sys.maxsize < 1 << 32:
        raise CannotError("only Linux on x86_64 and aarch64 can shut it in")
    libc = ctypes.CDLL(None, use_errno=True)
    writable = _own_namespaces(libc)
    _prctl(libc, _PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() not in {owner, 0}:
        raise CannotError("its owner is gone")
    _bound(seconds, memory_bytes)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        raise CannotError("the kernel has no no_new_privs")
    _close_files(libc, writable=writable)
    head = struct.pack("Ii", _CAPABILITIES_VERSION, 0)
    if libc.capset(head, bytes(24)) != 0:
        raise CannotError("the kernel does not take its capabilities away")
    _close_calls(libc, machine)


def _own_namespaces(libc: ctypes.CDLL) -> bool:
    """Namespaces of its own, where granted, with a small file system as its folder: whether it has them."""
    uid, gid = os.getuid(), os.getgid()
    if libc.unshare(_NEW_NAMESPACES) != 0:
        return False
    with contextlib.suppress(OSError):  # one that is not mapped has still nothing to reach
        for name, text in (
            ("setgroups", "deny"),
            ("uid_map", f"65534 {uid} 1"),
            ("gid_map", f"65534 {gid} 1"),
        ):
            with open(f"/proc/self/{name}", "w", encoding="ascii") as file:  # noqa: PTH123 -- starts faster
                file.write(text)
    folder = os.getcwd().encode()  # noqa: PTH109 -- starts faster
    if libc.mount(None, b"/", None, _MS_REC | _MS_PRIVATE, None) != 0:
        return False
    options = f"size={WRITABLE_BYTES},nr_inodes=1000,mode=700".encode()
    if libc.mount(b"tmpfs", folder, b"tmpfs", _MS_NOSUID | _MS_NODEV, options) != 0:
        return False
    os.chdir(folder)
    return True


def _bound(seconds: float, memory_bytes: int) -> None:
    bounds = {
        resource.RLIMIT_CPU: int(seconds) + 2,
        resource.RLIMIT_AS: memory_bytes,
        resource.RLIMIT_FSIZE: WRITABLE_BYTES,
        resource.RLIMIT_NOFILE: MAX_DESCRIPTORS,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_MEMLOCK: 0,
        resource.RLIMIT_MSGQUEUE: 0,
    }
    for what, most in bounds.items():
        _, hard = resource.getrlimit(what)
        least = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(what, (least, least))


def _close_files(libc: ctypes.CDLL, *, writable: bool) -> None:
    """Landlock: read the interpreter and its libraries, write to its folder, where *writable*."""
    version = libc.syscall(444, None, ctypes.c_size_t(0), 1)
    if version < 1:
        raise CannotError("the kernel has no Landlock, which keeps files from it")
    if version < _TRUNCATES_SINCE and os.getuid() == 0:
        raise CannotError("before Linux 6.2 Landlock lets root empty files; judge as another user")
    handled = max(rights for since, rights in _RIGHTS_BY_VERSION.items() if since <= version)
    # Since its sixth version it also keeps TCP, and signals and abstract sockets of others, from it.
    rules = struct.pack("QQQ", handled, 3, 3) if version >= _SCOPES_SINCE else struct.pack("Q", handled)
    ruleset = libc.syscall(444, rules, ctypes.c_size_t(len(rules)), 0)
    if ruleset < 0:
        raise CannotError("the kernel takes no rules of Landlock")
    reading = _EXECUTE | _READ | _READ_DIR
    for path in ("/usr", "/lib", "/lib64", "/bin", "/etc/ld.so.cache", sys.base_prefix, sys.base_exec_prefix):
        _allow(libc, ruleset, path, reading)
    for path in ("/dev/null", "/dev/zero", "/dev/urandom"):
        _allow(libc, ruleset, path, _READ | _WRITE)
    _allow(libc, ruleset, ".", handled & ~(_EXECUTE | _IOCTL) if writable else _READ | _READ_DIR)
    if libc.syscall(446, ruleset, 0) != 0:
        raise CannotError("the kernel does not put rules of Landlock in force")
    os.close(ruleset)


def _allow(libc: ctypes.CDLL, ruleset: int, path: str, rights: int) -> None:
    try:
        beneath = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return  # what is not there needs no leave
    if not os.path.isdir(path):  # noqa: PTH112 -- starts faster
        rights &= _EXECUTE | _READ | _WRITE
    attribute = struct.pack("=Qi", rights, beneath)
    refused = libc.syscall(445, ruleset, 1, attribute, 0) != 0
    os.close(beneath)
    if refused:
        raise CannotError("the kernel refuses a rule of Landlock")


def _close_calls(libc: ctypes.CDLL, machine: _Machine) -> None:
    """A filter of system calls: no sockets, no processes, no signals, nobody else's memory."""
    refuse = 0x00050000 | errno.EPERM

    def load(offset: int) -> bytes:
        return struct.pack("=HBBI", 0x20, 0, 0, offset)

    def equal(value: int, then: int, otherwise: int) -> bytes:
        return struct.pack("=HBBI", 0x15, then, otherwise, value)

    def give(what: int) -> bytes:
        return struct.pack("=HBBI", 0x06, 0, 0, what)

    program = [load(4), equal(machine.arch, 1, 0), give(_KILL), load(0)]
    # Numbers of the x32 way of calling stand for other calls.
    program += [struct.pack("=HBBI", 0x35, 0, 1, 0x40000000), give(_KILL)]
    for number in (*machine.processes, *machine.reach, *machine.files, *_REFUSED_ALIKE):
        program += [equal(number, 0, 1), give(refuse)]
    # Its flags lie in memory, out of a filter's sight: libraries go on with clone where it is not there.
    program += [equal(_CLONE3, 0, 1), give(0x00050000 | errno.ENOSYS)]
    program += [
        equal(machine.clone, 0, 4),
        load(16),
        struct.pack("=HBBI", 0x45, 0, 1, _CLONE_THREAD),  # a thread is of this process
        give(_ALLOW),
        give(refuse),
    ]
    program += [equal(machine.prlimit, 0, 4), load(16), equal(0, 0, 1), give(_ALLOW), give(refuse)]
    for number, owners in ((machine.fcntl, _OWNER_FCNTLS), (machine.ioctl, _OWNER_IOCTLS)):
        refusals = [line for command in owners for line in (equal(command, 0, 1), give(refuse))]
        program += [equal(number, 0, len(refusals) + 2), load(24), *refusals, give(_ALLOW)]
    program.append(give(_ALLOW))
    code = b"".join(program)
    buffer = ctypes.create_string_buffer(code, len(code))
    head = struct.pack("HxxxxxxQ", len(program), ctypes.addressof(buffer))
    if libc.prctl(_PR_SET_SECCOMP, 2, head, 0, 0) != 0:
        raise CannotError("the kernel takes no filter of system calls, which keeps the network from it")


def _prctl(libc: ctypes.CDLL, option: int, value: int) -> None:
    if libc.prctl(option, value, 0, 0, 0) != 0:
        raise CannotError("the kernel does not end it with its owner")


if __name__ == "__main__":
    main()
