from __future__ import annotations

import contextlib
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import pytest

import judges
from judges.guard import descendants
from judges.load import read_source
from judges.sandbox import Sandbox
from judges.trace import stored_row
from judges.wire import Task
from tests.support.judging import ANY_CONFIG


def traces(*answers: str) -> list[judges.JudgedTrace]:
    return [
        judges.trace_from(answer=answer, trace_id=f"00000000-0000-7000-8000-{index:012d}")
        for index, answer in enumerate(answers)
    ]


def verdicts(judge, *answers: str) -> list[float | str]:
    found = judges.evaluate_answers(ANY_CONFIG, judge, traces(*answers))
    assert [judgment.trace_id for judgment in found] == [trace.trace_id for trace in traces(*answers)]
    return [judgment.reason if judgment.score is None else judgment.score for judgment in found]


@pytest.fixture(autouse=True)
def nothing_left_running():
    before = set(descendants(os.getpid()))
    yield
    assert set(descendants(os.getpid())) <= before


CONCURRENT = pytest.mark.parametrize("concurrent", [1, 4])


@CONCURRENT
@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("while True: pass", "took longer than 0.5 s; timeout_s raises the bound"),
        ("time.sleep(3600)", "took longer than 0.5 s; timeout_s raises the bound"),
        ("os._exit(3)", "ended its process with status 3"),
        ("ctypes.string_at(0)", "its process died of SIGSEGV"),
        ("os.kill(os.getpid(), 9)", "its process died of SIGKILL; the machine may be out of memory"),
        ("return float('nan')", "returned nan; a score is in [0, 1]"),
        ("return 2.0", "returned 2; a score is in [0, 1]"),
        ("return 'yes'", "returned a str; a judge returns a bool, a score in [0, 1], or None"),
        ("raise KeyError('order_id')", "raised KeyError: 'order_id' (good.py:4)"),
        ("sys.exit(0)", "raised SystemExit: 0 (good.py:4)"),
        ("raise KeyboardInterrupt", "raised KeyboardInterrupt (good.py:4)"),
        (
            "def deep(): deep()\n        deep()",
            "raised RecursionError: maximum recursion depth exceeded (good.py:4)",
        ),
        ("return trace.request['n'][0]", "raised KeyError: 'n' (good.py:4)"),
        ("return bytearray(2**31)", "took more than 1024 MB of memory; memory_mb raises the bound"),
        ("leaked.append(bytearray(2**31))", "took more than 1024 MB of memory; memory_mb raises the bound"),
        ("os.closerange(3, 4096)", "closed the pipes of its process"),
        ("[scribble(n) for n in range(3, 4096)]", "wrote over the answers of its process"),
    ],
)
def test_a_faulty_judge_is_an_abstention_with_its_reason_and_the_other_traces_are_judged(
    write_judge, fault: str, said: str, concurrent: int
):
    judge = write_judge(
        "import ctypes, os, sys, time; leaked = []\n"
        "def good(trace):\n"
        "    if trace.answer == 'bad':\n"
        f"        {fault}\n"
        "    return True\n"
        "def scribble(n):\n"
        "    try: os.write(n, b'x' * 64)\n"
        "    except OSError: pass\n",
        timeout_s=0.5 if "longer" in said else 20,
        limits={"concurrent": concurrent},
    )
    assert verdicts(judge, "fine", "bad", "fine", "bad", "fine") == [1.0, said, 1.0, said, 1.0]


@CONCURRENT
def test_a_judge_that_leaks_a_little_each_time_is_replaced_and_goes_on(write_judge, concurrent: int):
    judge = write_judge(
        "leaked = []\ndef good(trace):\n    leaked.append(bytearray(2**26))\n    return True\n",
        memory_mb=512,
        limits={"concurrent": concurrent},
    )
    found = verdicts(judge, *["x"] * 20 * concurrent)
    assert set(found) == {1.0, "took more than 512 MB of memory; memory_mb raises the bound"}
    assert found.count(1.0) > 10 * concurrent


@CONCURRENT
def test_a_judge_that_forks_answers_once(write_judge, concurrent: int):
    judge = write_judge(
        "import os\ndef good(trace):\n    os.fork()\n    return True\n", limits={"concurrent": concurrent}
    )
    assert verdicts(judge, *["x"] * 5) == [1.0] * 5


@CONCURRENT
def test_processes_that_a_judge_leaves_behind_end_with_it_even_in_a_session_of_their_own(
    write_judge, tmp_path, concurrent: int
):
    pids = tmp_path / "pids"
    judge = write_judge(
        "import os, subprocess, time\n"
        "def good(trace):\n"
        "    if os.fork() == 0:\n"
        "        os.setsid()\n"
        "        if os.fork() == 0:\n"
        f"            open({str(pids)!r}, 'a').write(f'{{os.getpid()}}\\n')\n"
        "            time.sleep(3600)\n"
        "        os._exit(0)\n"
        "    os.wait()\n"
        f"    while not os.path.exists({str(pids)!r}): time.sleep(0.01)\n"
        "    return True\n",
        limits={"concurrent": concurrent},
    )
    assert verdicts(judge, "x") == [1.0]
    pid = int(pids.read_text().split()[0])
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_judge_that_leaves_ever_more_processes_running_abstains(write_judge):
    judge = write_judge(
        "import subprocess\ndef good(trace):\n    subprocess.Popen(['sleep', '3600'])\n    return True\n"
    )
    found = verdicts(judge, *["x"] * 18)
    assert found == [1.0] * 16 + ["left more than 16 processes running", 1.0]


def test_what_a_judge_prints_disturbs_nothing(write_judge):
    judge = write_judge(
        "import os, sys\n"
        "def good(trace):\n"
        "    print('x' * 100_000)\n"
        "    os.write(1, b'y' * 1000); os.write(2, b'z' * 1000)\n"
        "    return bool(sys.stdin.read() == '')\n"
    )
    assert verdicts(judge, "a", "b") == [1.0, 1.0]


def test_an_async_judge_is_awaited_and_keeps_its_loop(write_judge):
    judge = write_judge(
        "import asyncio\nloops = set()\n"
        "async def good(trace):\n"
        "    await asyncio.sleep(0)\n"
        "    loops.add(asyncio.get_running_loop())\n"
        "    return len(loops) == 1\n"
    )
    assert verdicts(judge, "a", "b", "c") == [1.0, 1.0, 1.0]


def test_parameters_are_matched_by_name(write_judge):
    judge = write_judge(
        "def good(feedback, session, trace):\n"
        "    return [f.text for f in feedback] == ['k'] and session[-1] is trace and trace.kept == 'k'\n"
    )
    (judgment,) = judges.evaluate_answers(ANY_CONFIG, judge, [judges.trace_from(answer="a", kept="k")])
    assert (judgment.score, judgment.feedback_seen) == (1.0, 1)


def test_a_body_larger_than_a_pipe_gets_through(write_judge):
    judge = write_judge("def good(trace):\n    return len(trace.answer) == 3_000_000\n")
    assert verdicts(judge, "x" * 3_000_000, "x", "x" * 3_000_000) == [1.0, 0.0, 1.0]


def test_an_owner_may_have_thousands_of_files_open(write_judge):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 4096)), hard))
    judge = write_judge("import time\ndef good(trace):\n    time.sleep(0.5)\n    return True\n")
    with contextlib.ExitStack() as opened:
        for _ in range(1100):  # more than `select` can take
            opened.enter_context(Path(os.devnull).open("rb"))
        sandbox = opened.enter_context(Sandbox(read_source(judge.file, "good"), timeout_s=20, memory_mb=1024))
        (answer,) = sandbox.judge([Task(trace=stored_row(traces("a")[0]), feedback=[])])
        assert answer.score == 1.0
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_bodies_that_are_no_json_are_an_abstention(write_judge):
    judge = write_judge("def good(trace):\n    return True\n")
    row = stored_row(judges.trace_from(answer="a", response={}))
    broken = type(row)(**{name: getattr(row, name) for name in row.__struct_fields__} | {"response": "{"})
    with Sandbox(read_source(judge.file, "good"), timeout_s=20, memory_mb=1024) as sandbox:
        (answer,) = sandbox.judge([Task(trace=broken, feedback=[])])
    assert (answer.score, answer.reason) == (None, "the trace's bodies are not JSON")


def test_whoever_leaves_early_gets_nobody_elses_answers(write_judge):
    judge = write_judge("def good(trace):\n    return float(trace.answer)\n")
    tasks = [Task(trace=stored_row(trace), feedback=[]) for trace in traces("0.1", "0.2", "0.3")]
    with Sandbox(read_source(judge.file, "good"), timeout_s=20, memory_mb=1024) as sandbox:
        assert next(iter(sandbox.judge(tasks))).score == 0.1
        assert [answer.score for answer in sandbox.judge(tasks[2:])] == [0.3]


def test_a_hanging_judge_does_not_outlive_an_owner_that_is_killed(write_judge, tmp_path: Path):
    pid_file = tmp_path / "pid"
    judge = write_judge(
        "import os\n"
        "def good(trace):\n"
        f"    open({str(pid_file)!r}, 'w').write(str(os.getpid()))\n"
        "    while True: pass\n",
        timeout_s=3600,
    )
    owner = subprocess.Popen([sys.executable, "-c", OWNER, str(judge.file)])
    try:
        wait_for(lambda: pid_file.exists() and pid_file.read_text() != "")
    finally:
        owner.kill()
        owner.wait()
    judged_in = int(pid_file.read_text())
    wait_for(lambda: not Path(f"/proc/{judged_in}").exists())


OWNER = """
import sys, judges
from gateway.config import JudgeConfig
from tests.support.judging import ANY_CONFIG
judge = JudgeConfig(name="good", path=sys.argv[1] + ":good", timeout_s=3600)
judges.evaluate_answers(ANY_CONFIG, judge, [judges.trace_from(answer="x")])
"""


def wait_for(true, within_s: float = 20) -> None:
    until = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < until
        time.sleep(0.02)
