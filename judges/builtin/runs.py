"""Whether the Python code in the answer runs, and passes tests: in a cell of its own, or not at all.

`code_cell` is the cell. What the code prints is counted and thrown away.
"""

from __future__ import annotations

import ast
import os
import re
import secrets
import select
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from typing import Annotated, Any, NamedTuple

import msgspec
from msgspec import Meta

from judges.builtin import code_cell
from judges.builtin.shown import answer_of
from judges.protocol import Abstain, abstain
from judges.trace import JudgedTrace

MAX_CODE_CHARS = 100_000
MAX_OUTPUT_BYTES = 1_000_000  # of what the code prints; code that prints more is ended and has failed
_FENCE = re.compile(r"^[ \t]*```[ \t]*([\w+-]*)[^\n]*\n(.*?)^[ \t]*```[ \t]*$", re.MULTILINE | re.DOTALL)
_PYTHON = {"python", "py", "python3"}
Seconds = Annotated[float, Meta(gt=0, le=600)]
Megabytes = Annotated[int, Meta(ge=64, le=1_000_000)]


class Ended(NamedTuple):
    """How a run ended. `passed`: to its last line; `refused`: why it was not started, "" where it was."""

    passed: bool
    refused: str


def runs_as_code(
    trace: JudgedTrace, *, tests: str | None = None, seconds: Seconds = 4, memory_mb: Megabytes = 512
) -> bool | Abstain:
    """True where the Python of the answer runs to its end without an error, and then *tests*, in its names.

    The code is what stands in the answer's fences, in their order, or the whole answer. It has the standard
    library, an empty folder, *seconds*, *memory_mb* and no network. Without *tests*, code that does nothing
    passes. Where the code cannot be shut in on this machine, it is not run.
    """
    answer = answer_of(trace)
    if isinstance(answer, Abstain):
        return answer
    code = code_in(answer)
    if code is None:
        return False
    if len(code) > MAX_CODE_CHARS:
        return abstain(f"the code is longer than {MAX_CODE_CHARS:,} characters")
    ended = run(code, tests or "", seconds=seconds, memory_mb=memory_mb)
    return abstain(ended.refused) if ended.refused else ended.passed


def code_in(answer: str) -> str | None:
    """The Python in *answer*: its fences marked so, else the unmarked ones, else all of it; None: none."""
    fences = [(mark.lower(), code) for mark, code in _FENCE.findall(answer)]
    chosen = [code for mark, code in fences if mark in _PYTHON] or [code for mark, code in fences if not mark]
    code = "\n".join(chosen) if chosen else answer
    if fences and not chosen:
        return None
    return code if code.strip() and _is_python(code) else None


def run(code: str, tests: str, *, seconds: float, memory_mb: int) -> Ended:
    """Run *code* and then *tests* in a cell. Leaves nothing running and nothing on the disk."""
    token = secrets.token_hex(16)
    limits = {"seconds": seconds, "memory_bytes": memory_mb << 20}
    work = {"code": code, "tests": tests, "token": token}
    message = msgspec.json.encode(limits) + b"\n" + msgspec.json.encode(work)
    with tempfile.TemporaryDirectory(prefix="judged-code-") as folder, tempfile.TemporaryFile() as told:
        told.write(message)
        told.seek(0)
        report, answer = os.pipe()
        try:
            process = subprocess.Popen(
                [sys.executable, "-I", "-S", code_cell.__file__, str(answer), str(os.getpid())],
                stdin=told,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                cwd=folder,
                env={},
                pass_fds=(answer,),
                start_new_session=True,
            )
        except OSError:
            os.close(report)
            return Ended(passed=False, refused="no process could be started to run the code in")
        finally:
            os.close(answer)
        try:
            said = _watched(process, report, seconds)
        finally:
            os.close(report)
            _end(process)
    if said.startswith(code_cell.REFUSED):
        why = said[len(code_cell.REFUSED) :].decode("ascii", "replace")
        return Ended(passed=False, refused=f"the code was not run: {why}")
    if not said.startswith(code_cell.STARTED):
        return Ended(passed=False, refused="the code was not run: its cell did not start in time")
    return Ended(passed=said == code_cell.STARTED + token.encode(), refused="")


def _watched(process: subprocess.Popen[bytes], report: int, seconds: float) -> bytes:
    """What came over *report* until the run ended, took longer than *seconds* or printed too much."""
    assert process.stdout is not None
    until = time.monotonic() + code_cell.START_S
    said, printed = b"", 0
    waiting = select.poll()
    open_ends = {report, process.stdout.fileno()}
    for end in open_ends:
        waiting.register(end, select.POLLIN)
    while open_ends and (left_s := until - time.monotonic()) > 0:
        for end, _ in waiting.poll(left_s * 1000):
            data = os.read(end, 65_536)
            if not data:
                waiting.unregister(end)
                open_ends.discard(end)
            elif end == report:
                if not said:
                    until = time.monotonic() + seconds
                said += data
            else:
                printed += len(data)
        if printed > MAX_OUTPUT_BYTES or len(said) > code_cell.MAX_REPORT_BYTES:
            return code_cell.STARTED
    return said


def _end(process: subprocess.Popen[bytes]) -> None:
    """A cell has one process, which may start none: that one is all there is to end."""
    with process:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            process.kill()


def _is_python(code: str) -> bool:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True


def check_options(judge: str, options: dict[str, Any]) -> None:  # noqa: ARG001 -- one judge alone
    """Raises ValueError naming the option that is wrong."""
    if options.get("tests") and not _is_python(options["tests"]):
        raise ValueError("option 'tests' is not Python")
