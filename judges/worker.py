"""The process that runs a judge: `python -m judges.worker TASKS ANSWERS LIFELINE` (descriptors of pipes).

It may hang, crash, leak or fork; its owner (`judges.sandbox`) replaces it, its guard leaves nothing behind.
Answers travel on a pipe of their own, so that what a judge prints disturbs nothing.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import resource
import sys
import time
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

import msgspec

from gateway.traces.markers import is_readable, why_text_unreadable
from gateway.traces.types import Feedback, Trace
from judges.errors import JudgeFileError
from judges.guard import descendants, stay_behind
from judges.load import JudgeSource, load_function, place, told
from judges.protocol import Judge, abstain, one_line, read_verdict
from judges.trace import JudgedTrace, judged_trace
from judges.wire import PIPES_GONE, Answer, Ready, Refused, Setup, Task, frame, read_message

MAX_CHILDREN = 16  # processes a judge may leave running from one trace to the next
_RESERVE_BYTES = 64 * 1024 * 1024  # of address space, to say that the memory is used up


def main(arguments: list[str]) -> None:
    """Serve tasks until the owner closes the pipe."""
    tasks, answers, lifeline = map(int, arguments)
    for descriptor in (tasks, answers, lifeline):
        os.set_inheritable(descriptor, False)  # noqa: FBT003 -- what a judge starts must not hold our pipes
    stay_behind(lifeline, close=(tasks, answers))
    buffer = bytearray()
    setup = read_message(tasks, buffer, Setup)
    if setup is None:
        return
    _bound_memory(setup.memory_bytes)
    try:
        _serve(setup, tasks, answers, buffer)
    except OSError:
        os._exit(PIPES_GONE)  # closed by the judge, or by an owner who left: nobody is there to be told


def _serve(setup: Setup, tasks: int, answers: int, buffer: bytearray) -> None:
    """Import the judge, and answer until there are no tasks. Raises OSError when a pipe is gone."""
    try:
        judge, parameters = load_function(setup.judge)
    except JudgeFileError as error:
        _write(answers, frame(Refused(message=str(error))))
        return
    _write(answers, frame(Ready(parameters=parameters)))
    owner = os.getpid()
    with asyncio.Runner() as runner:
        while (task := read_message(tasks, buffer, Task)) is not None:
            answer = _answer(setup, judge, parameters, task, runner)
            if os.getpid() != owner:
                os._exit(0)  # a child the judge forked has come back here: its verdict is nobody's
            try:
                _write(answers, frame(answer))
            except OSError:
                os._exit(PIPES_GONE)  # here, as a runner whose descriptors are closed too cannot be left


def _answer(
    setup: Setup, judge: Judge, parameters: tuple[str, ...], task: Task, runner: asyncio.Runner
) -> Answer:
    started = time.perf_counter()
    spent = False
    if (unreadable := task.why_unreadable) is not None:
        return Answer(score=None, reason=unreadable, seconds=0.0)
    try:
        value = judge(**_arguments(parameters, task))
        if inspect.isawaitable(value):
            value = runner.run(_wait_for(value))
    except MemoryError:
        resource.setrlimit(resource.RLIMIT_AS, (setup.memory_bytes + _RESERVE_BYTES,) * 2)
        value = abstain(f"took more than {setup.memory_bytes >> 20} MB of memory; memory_mb raises the bound")
        spent = True
    except BaseException as error:  # noqa: BLE001 -- the user's code may raise anything, SystemExit included
        value = abstain(_raised(setup.judge, error))
    if _children() > MAX_CHILDREN:
        value = abstain(f"left more than {MAX_CHILDREN} processes running")
        spent = True
    score, reason = read_verdict(value)
    return Answer(score=score, reason=reason, seconds=time.perf_counter() - started, spent=spent)


def _arguments(parameters: tuple[str, ...], task: Task) -> dict[str, Any]:
    trace = judged_trace(task.trace, task.feedback)
    arguments: dict[str, Any] = {"trace": trace, "feedback": list(trace.feedback)}
    if "session" in parameters or task.whole:
        arguments["session"] = [*_readable(task.session, trace, task.said), trace]
    if "later" in parameters:
        arguments["later"] = _readable(task.later, trace, {})
    if task.whole:
        arguments["feedback"] = _of_all(arguments["session"])
    return {name: arguments[name] for name in parameters}


def _readable(turns: list[Trace], trace: JudgedTrace, said: dict[str, list[Feedback]]) -> list[JudgedTrace]:
    """Those of *turns* that are not erased or damaged, each with what was *said* and is readable."""
    return [
        judged_trace(
            row, [word for word in said.get(row.trace_id, ()) if why_text_unreadable(word.text) is None]
        )
        for row in turns
        if row.trace_id != trace.trace_id and is_readable(row)
    ]


def _of_all(session: list[JudgedTrace]) -> list[Feedback]:
    """What is in force on any turn, oldest first; what was said of the session as a whole once."""
    said = {entry.feedback_id: entry for turn in session for entry in turn.feedback}
    return sorted(said.values(), key=lambda entry: (entry.created_at, entry.feedback_id))


async def _wait_for(value: Awaitable[Any]) -> Any:
    return await value


def _raised(source: JudgeSource, error: BaseException) -> str:
    if isinstance(error, msgspec.DecodeError) and place(source.file, error) == source.file:
        return "the trace's bodies are not JSON"  # the error did not pass through the user's code
    where = Path(place(source.file, error)).name
    return one_line(f"raised {told(error)} ({where})")


def _bound_memory(size: int) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    top = size + _RESERVE_BYTES if hard == resource.RLIM_INFINITY else min(hard, size + _RESERVE_BYTES)
    resource.setrlimit(resource.RLIMIT_AS, (min(size, top), top))


def _children() -> int:
    """How many processes the judge has running; nothing but a system call in the usual case of none."""
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return 0
    return len(descendants(os.getpid()))


def _write(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


if __name__ == "__main__":
    main(sys.argv[1:])
