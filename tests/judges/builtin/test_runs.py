"""Code of an answer runs shut in, or not at all: what it must not reach is tried here."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

import judges
from judges.builtin import code_cell, runs_as_code
from judges.builtin.runs import MAX_CODE_CHARS, code_in, run
from tests.support.judging import wait_for

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="elsewhere nothing is run")


def passes(code: str, tests: str = "", *, seconds: float = 10, memory_mb: int = 512) -> bool:
    ended = run(code, tests, seconds=seconds, memory_mb=memory_mb)
    assert ended.refused == ""
    return ended.passed


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        ("```python\nx = 1\n```", "x = 1\n"),
        ("First:\n```py\na = 1\n```\nthen\n```python\nb = a\n```\n", "a = 1\n\nb = a\n"),
        ("```bash\nls\n```\n```python\nx = 1\n```", "x = 1\n"),
        ("```\nx = 1\n```", "x = 1\n"),
        ("x = 1", "x = 1"),
        ("```bash\nls -l\n```", None),
        ("I cannot do that, sorry.", None),
        ("", None),
        ("```python\nx = = 1\n```", None),
    ],
    ids=["fence", "two", "other-language", "unmarked", "bare", "shell", "prose", "empty", "broken"],
)
def test_the_code_is_found_in_the_answer(answer: str, code: str | None):
    assert code_in(answer) == code


@pytest.mark.parametrize(
    ("answer", "tests", "score"),
    [
        ("```python\ndef f(x):\n    return x + 1\n```", "assert f(1) == 2", True),
        ("```python\ndef f(x):\n    return x + 1\n```", "assert f(1) == 3", False),
        ("```python\n1 / 0\n```", None, False),
        ("```python\nif __name__ == '__main__':\n    import sys\n    sys.exit(0)\n```", None, True),
        ("```python\nimport sys\nsys.exit(3)\n```", None, False),
        (
            "```python\nfrom dataclasses import dataclass\n@dataclass\nclass A:\n    x: int\n```",
            "assert A(1).x == 1",
            True,
        ),
        ("no code at all here.", None, False),
    ],
    ids=["passes", "fails", "raises", "exits", "exits-badly", "dataclass", "prose"],
)
def test_an_answer_is_judged_by_what_its_code_does(answer: str, tests: str | None, score: bool):
    assert runs_as_code(judges.trace_from(answer=answer), tests=tests) is score


@pytest.mark.parametrize(
    "code",
    [
        "import sys; sys.exit(0)",
        "import os; os._exit(0)",
        "raise SystemExit",
        "def f(): return 2\nimport os\nos._exit(0)",
    ],
    ids=["exit", "at-once", "raised", "after"],
)
def test_code_that_leaves_early_has_passed_no_test(code: str):
    assert not passes(code, "assert f() == 1")


REACHES = {
    "a connection": "import socket; socket.create_connection(('127.0.0.1', {port}), 2)",
    "a socket of the machine": "import socket; socket.socket(socket.AF_UNIX)",
    "a datagram": "import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', 9))",
    "a file": "open({secret!r}).read()",
    "a folder": "import os; os.listdir({folder!r})",
    "passwords": "open('/etc/passwd').read()",
    "processes": "open('/proc/self/environ').read()",
    "a file to write": "open({secret!r}, 'a').write('x')",
    "a new file": "open({folder!r} + '/new', 'w').write('x')",
    "the disk": "import os; os.truncate({secret!r}, 0)",
    "a mode": "import os; os.chmod({secret!r}, 0)",
    "a time": "import os; os.utime({secret!r}, (0, 0))",
    "a removal": "import os; os.unlink({secret!r})",
    "a child": "import os; os.fork()",
    "a program": "import subprocess; subprocess.run(['/usr/bin/true'], check=True)",
    "a shell": "import os; assert os.system('true') == 0",
    "its owner": "import os; os.kill({pid}, 0)",
    "its owner, by a detour": (
        "import fcntl, os, signal, socket\na, b = socket.socketpair()\nfcntl.fcntl(a, fcntl.F_SETOWN, {pid})"
    ),
    "its owner, by another": "import fcntl, socket, struct; fcntl.ioctl(socket.socketpair()[0], 0x8901, struct.pack('i', {pid}))",
    "memory without an address": "import os; os.memfd_create('x')",
    "a mount": "import ctypes; assert ctypes.CDLL(None).mount(b'x', b'/tmp', b'tmpfs', 0, 0) == 0",
    "a namespace": "import ctypes; assert ctypes.CDLL(None).unshare(0x10000000) == 0",
    "a trace of a process": "import ctypes; assert ctypes.CDLL(None).ptrace(16, {pid}, 0, 0) == 0",
    "a larger bound": "import resource as r; r.setrlimit(r.RLIMIT_AS, (-1, -1))",
    "a bound of others": "import resource as r; r.prlimit({pid}, r.RLIMIT_NOFILE)",
    "much memory": "x = bytearray(2_000_000_000)",
    "a large file": "open('x', 'wb').write(bytes(100_000_000))",
    "many descriptors": "f = [open('/dev/null') for _ in range(2000)]",
    "our packages": "import msgspec",
    "our environment": "import os; assert os.environ.get('PATH')",
}


@pytest.mark.parametrize("what", REACHES)
def test_code_in_a_cell_reaches_nothing(what: str, tmp_path: Path):
    secret = tmp_path / "secret"
    secret.write_text("text")
    secret.chmod(0o644)
    before = secret.stat()
    with socket.create_server(("127.0.0.1", 0)) as server:
        code = REACHES[what].format(
            port=server.getsockname()[1], secret=str(secret), folder=str(tmp_path), pid=os.getpid()
        )
        assert not passes(code)
    assert secret.read_text() == "text"
    assert (secret.stat().st_mode, secret.stat().st_mtime_ns) == (before.st_mode, before.st_mtime_ns)
    assert [file.name for file in tmp_path.iterdir()] == ["secret"]


@pytest.mark.parametrize(
    "code",
    [
        "import asyncio; asyncio.run(asyncio.sleep(0))",
        "import threading; t = threading.Thread(target=print); t.start(); t.join()",
        "import json, re, math, decimal, random, datetime, collections, itertools, sqlite3, hashlib, zoneinfo",
        "open('own', 'w').write('x'); assert open('own').read() == 'x'",
        "import tempfile; tempfile.TemporaryFile(dir='.').write(b'x')",
        "import os; assert os.listdir() == []",
        "import os; os.urandom(4)",
        "print('x' * 10_000)",
    ],
    ids=["asyncio", "thread", "library", "own-file", "temporary", "empty-folder", "random", "prints"],
)
def test_code_in_a_cell_has_what_plain_code_needs(code: str):
    assert passes(code)


def test_code_that_waits_for_input_finds_none():
    assert passes("try:\n    input()\nexcept EOFError:\n    pass\nelse:\n    raise ValueError")


@pytest.mark.parametrize(
    "code",
    [
        "while True: pass",
        "import time; time.sleep(600)",
        "print('x' * 50_000_000)",
        "while True: print('x' * 1000)",
    ],
    ids=["spins", "sleeps", "prints-much", "prints-on"],
)
def test_code_without_an_end_is_ended_and_has_failed(code: str):
    started = time.monotonic()
    assert not passes(code, seconds=0.5)
    assert time.monotonic() - started < code_cell.START_S


def cells() -> list[int]:
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if _is_ours(entry):
                found.append(int(entry.parent.name))
        except OSError:
            continue
    return found


def _is_ours(cmdline: Path) -> bool:
    arguments = cmdline.read_bytes().split(b"\0")
    return (
        b"-I" in arguments and b"-S" in arguments and any(b"work = json.loads" in part for part in arguments)
    )


def test_nothing_is_left_when_the_owner_is_killed():
    owner = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "from judges.builtin.runs import run; run('import time; time.sleep(600)', '', seconds=600, memory_mb=256)",
        ]
    )
    mine: list[int] = []

    def started() -> bool:
        mine[:] = [pid for pid in cells() if _parent(pid) == owner.pid]
        return bool(mine)

    wait_for(started)
    owner.send_signal(signal.SIGKILL)
    owner.wait(10)
    wait_for(lambda: not any(Path(f"/proc/{pid}").exists() and not _zombie(pid) for pid in mine))


def _parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def _zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def test_no_folder_is_left():
    before = set(Path(tempfile.gettempdir()).glob("judged-code-*"))
    assert passes("open('x', 'w').write('x')")
    assert set(Path(tempfile.gettempdir()).glob("judged-code-*")) <= before


BREAKERS = {
    "no Landlock": "code_cell._close_files = lambda *a, **k: (_ for _ in ()).throw(code_cell.CannotError('no Landlock'))",
    "no filter": "code_cell._close_calls = lambda *a, **k: (_ for _ in ()).throw(code_cell.CannotError('no filter'))",
    "another machine": "code_cell._MACHINES = {}",
}


@pytest.mark.parametrize("without", BREAKERS)
def test_where_a_cell_cannot_be_closed_nothing_is_run(without: str, tmp_path: Path):
    mark = tmp_path / "ran"
    (tmp_path / "broken.py").write_text(
        "import sys\n"
        f"sys.path.insert(0, {str(Path(code_cell.__file__).parent)!r})\n"
        f"import code_cell\n{BREAKERS[without]}\ncode_cell.main()\n"
    )
    here = str(tmp_path / "broken.py")
    code = f"open({str(mark)!r}, 'w')"
    script = (
        "from judges.builtin import code_cell, runs\n"
        f"code_cell.__file__ = {here!r}\n"
        f"print(runs.run({code!r}, '', seconds=5, memory_mb=256))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "passed=False, refused='the code was not run: " in done.stdout
    assert not mark.exists()


def test_without_namespaces_it_is_shut_in_all_the_same(tmp_path: Path):
    (tmp_path / "bare.py").write_text(
        "import sys\n"
        f"sys.path.insert(0, {str(Path(code_cell.__file__).parent)!r})\n"
        "import code_cell\ncode_cell._own_namespaces = lambda libc: False\ncode_cell.main()\n"
    )
    script = (
        "from judges.builtin import code_cell, runs\n"
        f"code_cell.__file__ = {str(tmp_path / 'bare.py')!r}\n"
        "for code in ('x = 1', 'import socket; socket.socket()', 'open(\"/etc/passwd\")', 'open(\"x\", \"w\")',\n"
        "             'import os; os.fork()', 'import os; os.setuid(1)', 'import os; os.chown(\".\", 1, 1)'):\n"
        "    ended = runs.run(code, '', seconds=5, memory_mb=256)\n"
        "    assert not ended.refused, ended\n"
        "    print(ended.passed)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True"] + ["False"] * 6


def test_code_longer_than_the_bound_is_not_run():
    verdict = runs_as_code(judges.trace_from(answer="x = 1\n" * MAX_CODE_CHARS))
    assert isinstance(verdict, judges.Abstain)
