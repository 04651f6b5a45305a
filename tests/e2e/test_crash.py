"""Law 2, shortened: `make crash` does the same two hundred times, with an outage of ten minutes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from benchmarks.crash import plan_run, run
from benchmarks.ledger import Ledger
from benchmarks.pipeline import STAGES

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

SEED, RUNS, OUTAGE_S = 1, 6, 5.0  # of these runs, each process is killed in one


def test_killed_at_random_moments_and_through_an_outage_no_id_is_lost_and_none_is_stored_twice(
    tmp_path: Path,
) -> None:
    said: list[str] = []
    result = run(tmp_path, seed=SEED, first=0, runs=RUNS, outage_s=OUTAGE_S, say=said.append)

    assert said[0] == f"seed {SEED}"
    assert [(done.missing, done.twice) for done in result.runs] == [(0, 0)] * RUNS
    assert result.outage is not None
    assert (result.outage.missing, result.outage.twice) == (0, 0)
    assert result.outage.backlog_rows > 100
    assert (result.never_stored, result.stored_twice, result.dropped, result.quarantined) == (0, 0, {}, 0)
    assert result.minutes_off == 0
    assert result.clean
    assert result.read > 500
    assert {name for done in result.runs for name in done.plan.killed} == set(STAGES)


def test_a_seed_says_what_every_run_does() -> None:
    assert plan_run(7, 3) == plan_run(7, 3)
    assert len({tuple(plan_run(7, number).killed) for number in range(100)}) > len(STAGES)


class _Stored:
    def __init__(self, counts: dict[str, int]) -> None:
        self.counts = counts

    def query(self, sql: str) -> list[dict[str, str | int]]:
        least = 1 if re.search("n > 1", sql) else 0
        return [{"trace_id": name, "n": n} for name, n in self.counts.items() if n > least]


def test_the_ledger_finds_what_is_missing_and_what_is_there_twice(tmp_path: Path) -> None:
    ids = tmp_path / "ids"
    ids.write_text("a\nb\nc\nhalf")
    ledger = Ledger(ids, 0)

    assert ledger.take() == 3
    assert ledger.settle(_Stored({"a": 1, "b": 2}), 0.2) == 1
    assert ledger.twice(_Stored({"a": 1, "b": 2})) == 1
    ids.write_text("a\nb\nc\n")
    assert ledger.never_stored(_Stored({"a": 1, "b": 2})) == 1
