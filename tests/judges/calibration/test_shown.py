"""What a judge is shown while it is calibrated, what that may cost, and who is told to have seen it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gateway.config.judges import JudgeLimits
from gateway.traces.markers import ERASED
from gateway.traces.store import Store
from gateway.traces.types import Label, Trace
from judges.budget import Budget, midnight, spent_since
from judges.calibration.bounded import Bounded, SpentError
from judges.wire import Task
from tests.judges.calibration.test_calibrate import BAD_WORDS, GOOD_WORDS, RIGHT, answered, tracetune
from tests.judges.test_limits import Dear
from tests.support.judging import add, some_traces
from tests.support.standing import calibrate
from tests.support.store import a_trace

LATER = "def good(trace, later):\n    return any('thanks' in turn.prompt for turn in later)\n"
SESSION = (
    "import judges\n"
    "def good(session):\n"
    "    if len(session) != 2:\n"
    "        return judges.abstain('not the whole session')\n"
    "    return 'is paid' in session[-1].answer\n"
)
Write = Callable[..., Any]


def turns(number: int, *, good: bool, thanks: bool) -> tuple[Trace, Trace]:
    """A session of two turns, the second in the words of who is content or not."""
    first = answered(number, GOOD_WORDS if good else BAD_WORDS)
    words = "thanks" if thanks else "what?"
    second = a_trace(
        session=first.session,
        started_at=first.started_at.replace(year=first.started_at.year + 1),
        request=json.dumps({"messages": [{"role": "user", "content": words}]}),
        response=first.response,
    )
    return first, second


def label(store: Store, *labels: tuple[Trace, bool]) -> None:
    now = datetime.now(UTC)
    rows = [
        Label(trace_id=trace.trace_id, who="ann", label=int(good), source="file", labelled_at=now)
        for trace, good in labels
    ]
    store.insert("labels", rows, token=os.urandom(8).hex())


def measured(config: Path) -> dict[str, Any]:
    done = tracetune("judge", "calibrate", "--config", config, "--json")
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(done.stdout)
    return dict(row)


@pytest.mark.parametrize(
    ("source", "settings", "labelled_turn"),
    [(LATER, {}, 0), (SESSION, {"of": "session"}, 1)],
    ids=["later", "session"],
)
def test_a_judge_is_shown_what_it_is_shown_when_it_judges(
    clean_store: Store,
    write_judge: Write,
    judges_config: Write,
    source: str,
    settings: Any,
    labelled_turn: int,
) -> None:
    sessions = [(turns(n, good=n % 2 == 0, thanks=n % 2 == 0), n % 2 == 0) for n in range(24)]
    add(clean_store, *(trace for pair, _ in sessions for trace in pair))
    label(clean_store, *((pair[labelled_turn], good) for pair, good in sessions))

    row = measured(judges_config(write_judge(source, **settings)))

    assert (row["labels"], row["tpr"], row["tnr"]) == (24, 1.0, 1.0)


def test_what_was_erased_is_neither_measured_nor_asked_about(
    clean_store: Store, write_judge: Write, judges_config: Write
) -> None:
    traces = [answered(n, GOOD_WORDS if n % 2 else BAD_WORDS) for n in range(20)]
    erased = [msgspec.structs.replace(answered(n, GOOD_WORDS), response=ERASED) for n in range(3)]
    add(clean_store, *traces, *erased)
    label(clean_store, *((trace, n % 2 == 1) for n, trace in enumerate(traces)), *((e, True) for e in erased))
    config = judges_config(write_judge(RIGHT))

    assert measured(config)["labels"] == 20


def test_what_is_shown_for_labels_and_by_try_is_put_down(
    clean_store: Store, write_judge: Write, judges_config: Write
) -> None:
    traces = [answered(n, GOOD_WORDS if n % 2 else BAD_WORDS) for n in range(6)]
    add(clean_store, *traces)
    judge = write_judge(RIGHT)
    config = judges_config(judge)

    tracetune("judge", "calibrate", "--label", 4, "--config", config)
    tracetune("judge", "try", judge.path, "-n", 2, "--config", config)

    reads = clean_store.query("SELECT purpose, length(trace_ids) AS n FROM body_reads ORDER BY at")
    assert [(row["purpose"], int(row["n"])) for row in reads] == [("label", 4), ("try", 2)]


def test_calibrating_stops_where_the_money_of_the_day_is_spent() -> None:
    budget = Budget("good", JudgeLimits(usd_per_day=2.0))
    dear = Dear()
    with pytest.raises(
        SpentError, match=r"after asking for 2 USD: judge good pauses: its limits.usd_per_day"
    ):
        list(Bounded(dear, budget).judge([Task(trace=trace, feedback=[]) for trace in some_traces(10)]))
    assert len(dear.asked_at) == 4


def test_what_a_calibration_cost_counts_in_the_money_of_the_day(clean_store: Store) -> None:
    calibrate(clean_store, "good", "v0", report=json.dumps({"measured": {"cost_usd": 1.5}}))
    calibrate(clean_store, "other", "v0", report=json.dumps({"measured": {"cost_usd": 9.0}}))

    assert spent_since(clean_store, "good", midnight(datetime.now(UTC))) == 1.5
    assert spent_since(clean_store, "nobody", midnight(datetime.now(UTC))) == 0


def test_a_judge_that_cannot_be_used_keeps_no_other_from_being_measured(
    clean_store: Store, write_judge: Write, judges_config: Write
) -> None:
    traces = [answered(n, GOOD_WORDS if n % 2 else BAD_WORDS) for n in range(20)]
    add(clean_store, *traces)
    label(clean_store, *((trace, n % 2 == 1) for n, trace in enumerate(traces)))
    config = judges_config(write_judge("def good(:\n", name="broken"), write_judge(RIGHT))

    done = tracetune("judge", "calibrate", "--config", config, "--json")

    assert (done.returncode, [row["judge"] for row in json.loads(done.stdout)]) == (2, ["good"])
    assert "broken.py:1" in done.stderr
