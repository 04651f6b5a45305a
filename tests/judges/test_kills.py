"""Killed at any moment, every trace is judged once: `make kill-judges` does the same fifty times."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.judge_kills import ADDED, COMMANDS, plan, run

SEED, KILLS = 3, 10


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_kill_9_of_what_judges_leaves_every_trace_judged_once_and_nothing_running(tmp_path: Path) -> None:
    said: list[str] = []
    result = run(tmp_path, seed=SEED, kills=KILLS, say=said.append)
    assert said[0] == f"seed {SEED}"
    assert result.traces == KILLS * ADDED
    assert [kill.left for kill in result.kills] == [0] * KILLS
    for found in result.judges.values():
        assert (found["traces"], found["judgments"]) == (result.traces, result.traces)
    assert result.clean
    assert any(kill.judged > 0 for kill in result.kills), "some were killed while they judged"


def test_a_seed_says_what_every_run_does_and_both_commands_are_killed() -> None:
    assert plan(7, 3) == plan(7, 3)
    assert {plan(SEED, number).command for number in range(KILLS)} == set(COMMANDS)
