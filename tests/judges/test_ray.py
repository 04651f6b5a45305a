from __future__ import annotations

import os
import sys
from pathlib import Path

import msgspec
import pytest

import judges
from gateway.config import JudgeConfig
from gateway.config.judges import Judging
from gateway.errors import ConfigError
from judges.definition import definition_of
from judges.errors import JudgeFileError
from judges.executor import executor_of
from judges.guard import descendants
from judges.pool import Pool
from judges.sandbox import Sandbox
from judges.trace import stored_row
from judges.wire import Task
from tests.support.judging import ANY_CONFIG, wait_for


def config_on_ray():
    return msgspec.structs.replace(ANY_CONFIG, judging=Judging(executor="ray"))


def tasks(*answers: str) -> list[Task]:
    return [Task(trace=stored_row(judges.trace_from(answer=answer)), feedback=[]) for answer in answers]


def test_without_ray_its_executor_is_one_line_that_says_what_to_install(
    write_judge, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(sys.modules, "ray", None)
    judge = write_judge("def good(trace):\n    return True\n")
    with pytest.raises(ConfigError, match=r"pip install 'tracetune\[ray\]'"):
        executor_of(config_on_ray(), judge, definition_of(judge))
    assert isinstance(executor_of(ANY_CONFIG, judge, definition_of(judge)), Sandbox)


@pytest.fixture
def cluster():
    ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'tracetune[ray]'")
    yield ray
    ray.shutdown()


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.filterwarnings("ignore")
def test_a_judge_on_a_local_ray_node_keeps_the_order_and_every_bound(cluster, write_judge):
    def judged(source: str, *answers: str, concurrent: int = 1, timeout_s: float = 20) -> list[float | str]:
        judge: JudgeConfig = write_judge(
            source, limits={"concurrent": concurrent}, timeout_s=timeout_s, memory_mb=1024
        )
        executor = executor_of(config_on_ray(), judge, definition_of(judge))
        assert isinstance(executor, Pool)
        with executor:
            executor.start()
            assert executor.parameters == ("trace",)
            found = list(executor.judge(tasks(*answers)))
        return [answer.reason if answer.score is None else answer.score for answer in found]

    numbers = [str(n / 200) for n in range(200)]
    echo = "def good(trace):\n    return float(trace.answer)\n"
    assert judged(echo, *numbers, concurrent=2) == [float(number) for number in numbers]
    # More actors than the machine has CPUs: the others wait for room, and hold nothing up.
    assert judged(echo, *numbers[:50], concurrent=os.cpu_count() + 3) == [float(n) for n in numbers[:50]]

    faulty = (
        "import os, time\n"
        "def good(trace):\n"
        "    if trace.answer == 'hang': time.sleep(3600)\n"
        "    if trace.answer == 'exit': os._exit(3)\n"
        "    if trace.answer == 'leak': return bytearray(2**31)\n"
        "    if trace.answer == 'nan': return float('nan')\n"
        "    if trace.answer == 'fork': os.fork()\n"
        "    return True\n"
    )
    assert judged(faulty, "fine", "hang", "fine", "exit", "leak", "nan", "fork", "fine", timeout_s=1) == [
        1.0,
        "took longer than 1 s; timeout_s raises the bound",
        1.0,
        "ended its process with status 3",
        "took more than 1024 MB of memory; memory_mb raises the bound",
        "returned nan; a score is in [0, 1]",
        1.0,
        1.0,
    ]
    with pytest.raises(JudgeFileError, match=r"good.py:1: does not import"):
        judged("import nowhere\n", "x")


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.filterwarnings("ignore")
def test_what_is_left_early_or_closed_leaves_no_process_of_a_judge_on_the_node(
    cluster, write_judge, tmp_path
):
    pid_file = tmp_path / "pid"
    judge = write_judge(
        "import os, time\n"
        "def good(trace):\n"
        "    if trace.answer == 'hang':\n"
        f"        open({str(pid_file)!r}, 'w').write(str(os.getpid()))\n"
        "        time.sleep(3600)\n"
        "    return True\n",
        timeout_s=3600,
    )
    with executor_of(config_on_ray(), judge, definition_of(judge)) as executor:
        found = executor.judge(
            tasks("fine", "hang"), lambda: pid_file.exists() and pid_file.read_text() != ""
        )
        assert [answer.score for answer in found] in ([1.0], [])
        assert [answer.score for answer in executor.judge(tasks("fine"))] == [1.0]
    hung = int(pid_file.read_text())
    wait_for(lambda: not Path(f"/proc/{hung}").exists())
    assert descendants(os.getpid()), "the cluster itself is still there"
