from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest
import yaml

from benchmarks import ours
from benchmarks.processes import free_port, interruptible, started, wait_answering
from benchmarks.types import BenchmarkError
from benchmarks.work_folder import CONFIGURATION, PREFIX, work_folder
from gateway.config.load import load_config
from gateway.paths import paths_of

CORE = min(os.sched_getaffinity(0))
# Starts one of its own, says its id, and cannot be asked to end.
STUBBORN = """
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
print(child.pid, flush=True)
time.sleep(60)
"""


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_process_and_what_it_started_end_with_the_block_even_if_they_will_not(tmp_path) -> None:
    log = tmp_path / "log"
    with started([sys.executable, "-c", STUBBORN], core=CORE, log=log, stop_within_s=0.2) as process:
        while not log.read_text().strip():
            time.sleep(0.02)
        child = int(log.read_text())
        assert os.sched_getaffinity(process.pid) == {CORE}

    for _ in range(100):
        if not alive(child):
            break
        time.sleep(0.05)
    assert not alive(process.pid)
    assert not alive(child)


def test_a_contender_that_cannot_start_or_ends_at_once_is_an_error_with_its_last_words(tmp_path) -> None:
    log = tmp_path / "log"
    with (
        pytest.raises(BenchmarkError, match="could not be started"),
        started(["/no/such"], core=CORE, log=log),
    ):
        pass
    command = [sys.executable, "-c", "raise SystemExit('no model given')"]
    with (
        started(command, core=CORE, log=log) as process,
        pytest.raises(BenchmarkError, match="ended with status 1: no model given"),
    ):
        wait_answering(process, free_port(), {}, log, 20)


def test_a_run_that_takes_too_long_is_an_error_and_so_unwinds() -> None:
    with pytest.raises(BenchmarkError, match="took longer"), interruptible(0.05):
        time.sleep(5)


def test_a_run_leaves_nothing_on_disk_or_in_shared_memory_and_sweeps_what_a_killed_one_left(tmp_path) -> None:
    killed = tmp_path / f"{PREFIX}killed" / "1"
    killed.mkdir(parents=True)
    path = killed / CONFIGURATION
    path.write_text(yaml.safe_dump(ours.configuration(killed, 8080, 9000, capture="full", workers=1)))
    segments = paths_of(load_config(path)).segments
    segments.mkdir(parents=True)
    try:
        with work_folder(tmp_path) as first:
            assert not killed.parent.exists()
            assert not segments.exists()
            with work_folder(tmp_path) as second:
                assert first.exists()  # another run's, that goes on
                assert second != first
        assert list(tmp_path.iterdir()) == []
    finally:
        if segments.exists():
            segments.rmdir()
