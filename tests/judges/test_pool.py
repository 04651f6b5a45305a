from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator

import pytest

import judges
from judges.errors import JudgeFileError
from judges.executor import executor_of
from judges.guard import descendants
from judges.load import read_source
from judges.pool import IN_FLIGHT_EACH, Pool
from judges.sandbox import Sandbox
from judges.trace import stored_row
from judges.wire import Task
from tests.support.judging import ANY_CONFIG, wait_for

ECHO = "def good(trace):\n    return float(trace.answer)\n"
# Answers 0 hang until a file is there.
GATED = (
    "import os, time\n"
    "def good(trace):\n"
    "    while float(trace.answer) == 0 and not os.path.exists({gate!r}): time.sleep(0.01)\n"
    "    return float(trace.answer)\n"
)


@pytest.fixture(autouse=True)
def nothing_left_running():
    before, threads = set(descendants(os.getpid())), threading.active_count()
    yield
    assert set(descendants(os.getpid())) <= before
    assert threading.active_count() <= threads


def tasks(*answers: float, drawn: list[float] | None = None) -> Iterator[Task]:
    for answer in answers:
        if drawn is not None:
            drawn.append(answer)
        yield Task(trace=stored_row(judges.trace_from(answer=str(answer))), feedback=[])


def pool_of(judge, count: int = 4) -> Pool:
    source = read_source(judge.file, "good")
    return Pool([Sandbox(source, timeout_s=judge.within_s, memory_mb=1024) for _ in range(count)])


def test_answers_come_in_the_order_of_their_tasks_however_long_each_takes(write_judge):
    judge = write_judge(
        "import time\ndef good(trace):\n    time.sleep(float(trace.answer) % 0.01)\n    return float(trace.answer)\n"
    )
    answers = [round((7 * n % 200) / 200, 3) for n in range(200)]
    with pool_of(judge) as pool:
        assert [answer.score for answer in pool.judge(tasks(*answers))] == answers
        assert [answer.score for answer in pool.judge(tasks(0.5))] == [0.5]
        assert list(pool.judge(tasks())) == []


def test_as_many_traces_are_judged_at_a_time_as_there_are_processes(write_judge, tmp_path):
    judge = write_judge(
        "import os, time\n"
        "def good(trace):\n"
        f"    open(os.path.join({str(tmp_path)!r}, 'here-%d' % os.getpid()), 'w').close()\n"
        f"    while sum(n.startswith('here-') for n in os.listdir({str(tmp_path)!r})) < 3: time.sleep(0.01)\n"
        "    return True\n",
        limits={"concurrent": 3},
    )
    with executor_of(ANY_CONFIG, judge, judges.definition_of(judge)) as executor:
        assert [answer.score for answer in executor.judge(tasks(1, 1, 1))] == [1.0] * 3


def test_one_that_hangs_lets_the_others_judge_what_may_be_in_flight_and_no_more(write_judge, tmp_path):
    gate, drawn = tmp_path / "gate", list[float]()
    judge = write_judge(GATED.format(gate=str(gate)))
    many = [0.0] + [0.5] * 1000
    most = 2 * IN_FLIGHT_EACH
    with pool_of(judge, 2) as pool:
        answers: list[float | None] = []
        asker = threading.Thread(
            target=lambda: answers.extend(answer.score for answer in pool.judge(tasks(*many, drawn=drawn)))
        )
        asker.start()
        wait_for(lambda: len(drawn) == most)
        time.sleep(0.3)
        assert (len(drawn), answers) == (most, [])
        gate.touch()
        asker.join()
    assert answers == many


def test_one_that_hangs_for_good_costs_the_others_its_own_time_and_not_theirs(write_judge):
    judge = write_judge(GATED.format(gate="/nowhere"), timeout_s=1)
    with pool_of(judge) as pool:
        found = [answer.score for answer in pool.judge(tasks(0, *[0.5] * 50, 0, *[0.5] * 50))]
    assert found == [None, *[0.5] * 50, None, *[0.5] * 50]


def test_large_bodies_are_drawn_as_they_are_judged(write_judge, tmp_path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("judges.pool.IN_FLIGHT_BYTES", 5_000)
    gate, drawn = tmp_path / "gate", list[float]()
    judge = write_judge(GATED.format(gate=str(gate)))
    size = next(tasks(0.0)).size
    with pool_of(judge) as pool:
        answers = pool.judge(tasks(0.0, *[0.5] * 200, drawn=drawn))
        asker = threading.Thread(target=lambda: list(answers))
        asker.start()
        wait_for(lambda: len(drawn) * size >= 5_000)
        time.sleep(0.2)
        assert (len(drawn) - 1) * size < 5_000
        gate.touch()
        asker.join()


def test_whoever_leaves_early_gets_nobody_elses_answers(write_judge):
    with pool_of(write_judge(ECHO)) as pool:
        answers = pool.judge(tasks(*[0.1] * 100))
        assert next(answers).score == 0.1
        answers.close()
        assert [answer.score for answer in pool.judge(tasks(*[0.3] * 20))] == [0.3] * 20


def test_told_to_stop_it_leaves_at_once_though_all_hang(write_judge):
    stop = threading.Event()
    judge = write_judge("import time\ndef good(trace):\n    time.sleep(3600)\n", timeout_s=3600)
    with pool_of(judge) as pool:
        threading.Timer(0.5, stop.set).start()
        began = time.monotonic()
        assert list(pool.judge(tasks(*[0.5] * 20), stop.is_set)) == []
        assert time.monotonic() - began < 10
        wait_for(lambda: threading.active_count() == 1 or stop.is_set())


def test_told_to_stop_it_does_not_wait_for_an_import(write_judge, tmp_path):
    """The second process and those after it import while the first one judges already."""
    judge = write_judge(
        "import os, time\n"
        f"if os.path.exists({str(tmp_path / 'first')!r}): time.sleep(3600)\n"
        f"open({str(tmp_path / 'first')!r}, 'w').close()\n"
        "def good(trace):\n    time.sleep(0.1)\n    return float(trace.answer)\n"
    )
    with pool_of(judge, 2) as pool:
        answers = pool.judge(tasks(*[0.5] * 10))
        assert next(answers).score == 0.5
        answers.close()


def test_a_file_that_does_not_import_is_told_once_and_what_the_first_imported_counts(write_judge):
    with pool_of(write_judge("import nowhere\n")) as pool, pytest.raises(JudgeFileError, match="nowhere"):
        pool.start()


def test_what_a_later_process_refuses_is_raised_where_answers_are_asked_for(write_judge, tmp_path):
    judge = write_judge(
        "import os\n"
        f"if os.path.exists({str(tmp_path / 'first')!r}): raise ValueError('second')\n"
        f"open({str(tmp_path / 'first')!r}, 'w').close()\n"
        "import time\n"
        "def good(trace):\n    time.sleep(0.05)\n    return True\n"
    )
    with pool_of(judge, 2) as pool, pytest.raises(JudgeFileError, match="second"):
        list(pool.judge(tasks(*[0.5] * 100)))
