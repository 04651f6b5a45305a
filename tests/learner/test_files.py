"""Locks that outlive nobody: the next in line waits for one that is just ending, and no longer than it was told."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from learner.errors import LearnerError
from learner.files import locked

HOLD = "import fcntl, sys, time; f = open(sys.argv[1], 'a'); fcntl.flock(f, fcntl.LOCK_EX); print('held', flush=True); time.sleep({s})"


def hold(path: Path, seconds: float) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD.format(s=seconds), str(path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_who_goes_on_for_a_killed_run_waits_until_its_orphan_has_ended(tmp_path: Path) -> None:
    orphan = hold(tmp_path / "lock", 1.0)
    with locked(tmp_path / "lock", holder="a trainer is", wait_s=30):
        assert orphan.wait(5) == 0


def test_without_waiting_a_held_lock_is_an_error_at_once(tmp_path: Path) -> None:
    holder = hold(tmp_path / "lock", 60)
    with (
        pytest.raises(LearnerError, match="a trainer is at work already"),
        locked(tmp_path / "lock", holder="a trainer is"),
    ):
        pytest.fail("two hold it")
    holder.kill()
    holder.wait()
