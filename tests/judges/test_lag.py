from __future__ import annotations

import contextlib
import os
import pty
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.config import Config
from gateway.traces.store import Store
from judges.follow import PASS_S, POLL_S
from judges.passes import FLUSH_S
from tests.support.judging import YES, add, judged, some_traces, wait_for

LAG_S = 5.0
SLOW = "import time\ndef good(trace):\n    time.sleep(0.2)\n    return True\n"


@contextlib.contextmanager
def steady_stream(config: Config) -> Iterator[list[int]]:
    """Twenty traces a second until the end of the block."""
    stop, written = threading.Event(), list[int]()

    def write() -> None:
        with Store.connect(config, {}) as store:
            while not stop.wait(0.2):
                add(store, *some_traces(4))
                written.append(4)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        yield written
    finally:
        stop.set()
        writer.join()


def test_what_a_judge_may_do_before_it_looks_again_adds_up_to_less_than_the_lag_that_is_promised():
    assert PASS_S + POLL_S + FLUSH_S < LAG_S


@pytest.mark.slow
@pytest.mark.parametrize("source", [YES, SLOW], ids=["keeps up", "too slow for all of it"])
def test_with_a_steady_stream_and_a_backlog_the_newest_judgment_is_of_a_trace_a_few_seconds_old(
    clean_store: Store, embedded_config: Config, write_judge, judges_config, start_runner, source: str
):
    add(clean_store, *some_traces(500))
    start_runner(judges_config(write_judge(source)))
    wait_for(lambda: bool(judged(clean_store)))
    ages: list[float] = []
    with steady_stream(embedded_config) as written:
        wait_for(lambda: sum(written) >= 2 * LAG_S * 20)
        for _ in range(20):
            time.sleep(0.25)
            (row,) = clean_store.query(
                "SELECT date_diff('millisecond', max(stored_at), now64(3, 'UTC')) AS age FROM traces "
                "WHERE trace_id IN (SELECT trace_id FROM judgments)"
            )
            ages.append(row["age"] / 1000)
    assert max(ages) < 2 * LAG_S, ages  # slack for a machine that runs other tests


def test_on_a_terminal_a_bar_for_each_judge_shows_how_far_it_is(
    clean_store: Store, write_judge, judges_config
):
    add(clean_store, *some_traces(40))
    config = judges_config(
        write_judge(YES, name="first"), write_judge(YES, name="second", limits={"per_minute": 6000})
    )
    shown = on_a_terminal("judge", "run", "--config", config)
    for name in ("first", "second"):
        assert name in shown
    assert shown.count("40/40") >= 2


def on_a_terminal(*arguments: object) -> str:
    """What a command writes to a terminal that is its standard error."""
    terminal, end = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "gateway.cli.root", *map(str, arguments)],
        stdout=subprocess.DEVNULL,
        stderr=end,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "120"},
        cwd=Path(__file__).parents[2],
    )
    os.close(end)
    shown = b""
    with contextlib.suppress(OSError):  # how a terminal says that nobody writes to it any more
        while chunk := os.read(terminal, 65536):
            shown += chunk
    os.close(terminal)
    assert process.wait(60) == 0, shown
    return shown.decode(errors="replace")
