"""Outcomes from a file: which traces they reach, once, by whom, and what is said of the rest."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest

from gateway.config import load_config
from gateway.feedback_import import MAX_REPORTED, MAX_TRACES_OF_A_TAG, Imported, Importer
from gateway.outcome_file import JoinedOn, Outcome
from gateway.traces.assembling.said import Statement, signal
from gateway.traces.erasure.erasures import Erasure, ErasureList
from gateway.traces.feedback import IN_FORCE, standings
from gateway.traces.redaction.redact import Redactor
from gateway.traces.rows import RowBuilder
from gateway.traces.segments import Record
from gateway.traces.store import Store
from gateway.traces.types import Feedback, Trace
from judges.pending import pending
from tests.support.capture import captured_trace
from tests.support.judging import ALWAYS, ANY_JUDGE, add, feedback_on, judge_all
from tests.support.store import a_trace, started_store, write_config

NOW = datetime(2026, 3, 9, tzinfo=UTC)
BEGAN = NOW - timedelta(days=5)
REDACTING = RowBuilder(Redactor(b"k" * 32))
REOPENED = [signal("reopened", value=True)]


def imported(
    store: Store,
    *outcomes: Outcome,
    on: JoinedOn = "trace",
    tag: str | None = None,
    client: str | None = None,
    now: datetime = NOW,
    dry_run: bool = False,
) -> Imported:
    importer = Importer(store, REDACTING, on=on, tag=tag, client=client, by="ops")
    return importer.run(outcomes, now=now, dry_run=dry_run)


def in_force_on(store: Store, trace: Trace) -> dict[str, float | str | None]:
    rows = store.query("SELECT * FROM traces WHERE trace_id = {id:String}", {"id": trace.trace_id})
    return {
        row["kind"]: row["value"] if row["text"] is None else row["text"]
        for row in standings(store, rows[0])
        if row["standing"] == IN_FORCE
    }


def test_nothing_is_added_about_somebody_whom_an_erasure_keeps_out(
    tmp_path: Path, clean_store: Store
) -> None:
    erased, other = a_trace(started_at=BEGAN), a_trace(started_at=BEGAN)
    add(clean_store, erased, other)
    erasures = ErasureList(tmp_path)
    entry = Erasure(
        erasure="er-1", asked_at_us=0, until_us=None, owners=[], sessions=[], traces=[erased.trace_id]
    )
    with erasures.changed(lambda _: [entry]):
        pass
    importer = Importer(
        clean_store, REDACTING, on="trace", tag=None, client=None, by="ops", erasures=erasures
    )
    outcomes = [Outcome(n, trace.trace_id, REOPENED, None) for n, trace in enumerate((erased, other), 1)]
    assert importer.run(outcomes, now=NOW).rows == 1
    assert clean_store.query("SELECT trace_id FROM feedback") == [{"trace_id": other.trace_id}]


def test_an_outcome_reaches_the_trace_it_names_and_says_who_imported_it(clean_store: Store) -> None:
    trace, other = a_trace(client="web", started_at=BEGAN), a_trace(client="app", started_at=BEGAN)
    add(clean_store, trace, other)

    done = imported(clean_store, Outcome(1, trace.trace_id, REOPENED, None))

    assert (done.lines, done.matched, done.rows, done.already, done.unmatched) == (1, 1, 1, 0, [])
    assert in_force_on(clean_store, trace) == {"reopened": 1.0}
    assert in_force_on(clean_store, other) == {}
    assert clean_store.query("SELECT client, imported_by FROM feedback") == [
        {"client": "web", "imported_by": "ops"}
    ]


def test_the_same_again_adds_nothing_and_does_not_take_back_a_later_word(clean_store: Store) -> None:
    trace = a_trace(started_at=BEGAN)
    add(clean_store, trace)
    first = Outcome(1, trace.trace_id, REOPENED, None)

    imported(clean_store, first)
    imported(
        clean_store,
        Outcome(1, trace.trace_id, [signal("reopened", value=False)], None),
        now=NOW + timedelta(days=1),
    )
    again = imported(clean_store, first, now=NOW + timedelta(days=2))

    assert (again.rows, again.already) == (0, 1)
    assert clean_store.query("SELECT count() AS n FROM feedback") == [{"n": 2}]
    assert in_force_on(clean_store, trace) == {"reopened": 0.0}


def test_what_was_said_at_another_time_is_said_again(clean_store: Store) -> None:
    trace = a_trace(started_at=BEGAN)
    add(clean_store, trace)
    for day, reopened in enumerate([True, False, True]):
        said = [signal("reopened", value=reopened)]
        imported(clean_store, Outcome(1, trace.trace_id, said, BEGAN + timedelta(days=day)))

    assert in_force_on(clean_store, trace) == {"reopened": 1.0}


def test_of_two_lines_on_one_thing_the_later_one_is_the_last_word(clean_store: Store) -> None:
    trace = a_trace(started_at=BEGAN)
    add(clean_store, trace)
    lines = [Outcome(n, trace.trace_id, [signal("n", value=float(n))], None) for n in range(1, 20)]

    imported(clean_store, *lines)

    assert in_force_on(clean_store, trace) == {"n": 19.0}


def test_an_outcome_of_a_session_is_one_row_and_counts_for_what_had_started(clean_store: Store) -> None:
    first, second, late = (
        a_trace(session="s", client="web", started_at=BEGAN + timedelta(days=n)) for n in (0, 1, 4)
    )
    add(clean_store, first, second, late)

    done = imported(clean_store, Outcome(1, "s", REOPENED, BEGAN + timedelta(days=2)), on="session")

    assert done.rows == 1
    assert [len(in_force_on(clean_store, trace)) for trace in (first, second, late)] == [1, 1, 0]


def test_a_session_that_was_redacted_is_found_by_what_the_app_called_it(clean_store: Store) -> None:
    meta = captured_trace(session="jane@example.com", client="web", started_at_us=0)
    record = Record(captured=meta, meta=b"", request=b"", response=b"", bodies_left_out=False, end=0)
    trace = REDACTING.build(record).values
    assert isinstance(trace, Trace)
    assert trace.session.startswith("[EMAIL_")
    add(clean_store, trace)

    done = imported(clean_store, Outcome(1, "jane@example.com", REOPENED, None), on="session")

    assert done.matched == 1
    assert in_force_on(clean_store, trace) == {"reopened": 1.0}


def test_a_session_of_several_clients_is_refused_until_one_is_named(clean_store: Store) -> None:
    web, app = (a_trace(session="s", client=client, started_at=BEGAN) for client in ("web", "app"))
    add(clean_store, web, app)
    said = Outcome(7, "s", REOPENED, None)

    (unmatched,) = imported(clean_store, said, on="session").unmatched
    imported(clean_store, said, on="session", client="app")

    assert unmatched.line == 7
    assert "several clients (app, web); --client says" in unmatched.why
    assert (in_force_on(clean_store, web), in_force_on(clean_store, app)) == ({}, {"reopened": 1.0})


def test_an_outcome_of_a_tag_reaches_each_trace_that_had_started(clean_store: Store) -> None:
    traces = [
        a_trace(tags={"order_id": order}, client=client, started_at=BEGAN + timedelta(days=day))
        for order, client, day in (("A", "web", 0), ("A", "app", 1), ("A", "web", 4), ("B", "web", 0))
    ]
    add(clean_store, *traces)

    done = imported(
        clean_store, Outcome(1, "A", REOPENED, BEGAN + timedelta(days=2)), on="tag", tag="order_id"
    )

    assert (done.matched, done.rows) == (1, 2)
    assert [len(in_force_on(clean_store, trace)) for trace in traces] == [1, 1, 0, 0]


def test_what_matches_nothing_is_named_by_its_line_and_the_rest_is_imported(clean_store: Store) -> None:
    trace = a_trace(tags={"order": "A"}, started_at=BEGAN)
    many = [a_trace(tags={"order": "all"}, started_at=BEGAN) for _ in range(MAX_TRACES_OF_A_TAG + 1)]
    add(clean_store, trace, *many)
    lines = [
        Outcome(1, "A", REOPENED, None),
        Outcome(2, "gone", REOPENED, None),
        Outcome(3, "A", REOPENED, BEGAN - timedelta(days=1)),
        Outcome(4, "all", REOPENED, None),
        Outcome(5, "4111 1111 1111 1111", REOPENED, None),
    ]

    done = imported(clean_store, *lines, on="tag", tag="order")

    assert (done.lines, done.matched, done.rows) == (5, 1, 1)
    assert [(one.line, one.why.split(":")[0].split(" (")[0]) for one in done.unmatched] == [
        (2, "no tag of this value"),
        (3, "said before the trace had started"),
        (4, "on over 100 traces"),
        (5, "looks like personal data, which the store does not keep; join by trace or session"),
    ]


def test_lines_that_match_nothing_are_counted_beyond_those_that_are_named(clean_store: Store) -> None:
    done = imported(
        clean_store, *(Outcome(n, f"gone-{n}", REOPENED, None) for n in range(MAX_REPORTED + 500))
    )

    assert (done.lines - done.matched, len(done.unmatched)) == (MAX_REPORTED + 500, MAX_REPORTED)


def test_a_dry_run_says_the_same_and_stores_nothing(clean_store: Store) -> None:
    trace = a_trace(started_at=BEGAN)
    add(clean_store, trace)
    lines = [Outcome(1, trace.trace_id, REOPENED, None), Outcome(2, "gone", REOPENED, None)]

    dry = imported(clean_store, *lines, dry_run=True)

    assert clean_store.query("SELECT count() AS n FROM feedback") == [{"n": 0}]
    assert dry == imported(clean_store, *lines)


def test_what_is_imported_is_redacted_with_the_placeholders_of_its_session(clean_store: Store) -> None:
    meta = captured_trace(session="s", client="web", trace_id="t1", tags={"to": "jane@example.com"})
    record = Record(captured=meta, meta=b"", request=b"", response=b"", bodies_left_out=False, end=0)
    trace = REDACTING.build(record).values
    assert isinstance(trace, Trace)
    add(clean_store, trace)
    said = [Statement("kept", None, "write to jane@example.com")]

    imported(clean_store, Outcome(1, "t1", said, None), now=datetime.now(UTC))

    (row,) = clean_store.query("SELECT * FROM feedback")
    assert "jane" not in msgspec.json.encode(row).decode()
    assert row["text"] == f"write to {trace.tags['to']}"


def test_an_import_makes_judges_judge_again(clean_store: Store) -> None:
    trace, other = a_trace(started_at=BEGAN), a_trace(started_at=BEGAN)
    add(clean_store, trace, other, feedback_on(trace, "kept", created_at=BEGAN))
    judge_all(clean_store)

    imported(clean_store, Outcome(1, trace.trace_id, REOPENED, None))

    assert pending(clean_store, ANY_JUDGE, ALWAYS, limit=10) == [trace.trace_id]
    judge_all(clean_store)
    imported(clean_store, Outcome(1, trace.trace_id, REOPENED, None))
    assert pending(clean_store, ANY_JUDGE, ALWAYS, limit=10) == []


def run_import(config: Path, file: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    script = [sys.executable, "-m", "gateway.cli.root", "feedback", "import", str(file)]
    return subprocess.run(
        [*script, "--config", str(config), *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "COLUMNS": "200"},
    )


def test_the_command_tells_lines_and_exit_codes(
    embedded_config_path: Path, clean_store: Store, tmp_path: Path
) -> None:
    trace = a_trace(tags={"order_id": "A"}, started_at=BEGAN)
    add(clean_store, trace)
    file = tmp_path / "refunds.csv"
    file.write_text("order_id,refunded\nA,true\nB,false\n")
    arguments = ("--on", "tag", "--tag", "order_id", "--signal", "refunded", "--by", "finance")

    first = run_import(embedded_config_path, file, *arguments)
    again = run_import(embedded_config_path, file, *arguments, "--json", "--strict")
    wrong = run_import(embedded_config_path, file, "--on", "tag", "--tag", "order_id")
    file.write_text("order_id,refunded\nB,true\n")
    nothing = run_import(embedded_config_path, file, *arguments)

    assert (first.returncode, again.returncode, wrong.returncode, nothing.returncode) == (0, 1, 2, 1)
    assert first.stdout == "2 lines: 1 rows of feedback imported, 0 already there; 1 lines match nothing\n"
    assert first.stderr == f"{file}:3: no tag of this value\n"
    assert json.loads(again.stdout) == {
        "lines": 2,
        "matched": 1,
        "rows": 0,
        "already": 1,
        "unmatched": [{"line": 3, "why": "no tag of this value"}],
    }
    assert f"{file}:2: unknown column 'refunded'; name it with --signal" in wrong.stderr
    assert "no line matches anything in the store; is --on tag what joins them?" in nothing.stderr
    assert in_force_on(clean_store, trace) == {"refunded": 1.0}
    assert clean_store.query("SELECT DISTINCT imported_by FROM feedback") == [{"imported_by": "finance"}]


def test_encrypted_texts_are_read_again_and_the_same_file_adds_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MASTER", base64.b64encode(b"m" * 32).decode())
    config = write_config(tmp_path, "privacy: {encrypt: per_subject, master_key: {env: MASTER}}\n")
    trace = a_trace(tags={"order_id": "A"}, started_at=BEGAN, subject="jane")
    file = tmp_path / "notes.csv"
    file.write_text("order_id,comment,at\nA,the lavender ferrets,2099-01-01T00:00:00Z\nB,none,\n")
    arguments = ("--on", "tag", "--tag", "order_id", "--json")

    with started_store(config), Store.connect(load_config(config), dict(os.environ)) as store:
        add(store, trace)
        first = run_import(config, file, *arguments)
        again = run_import(config, file, *arguments)

        (row,) = store.query("SELECT * FROM feedback")
        assert "ferrets" not in row["text"]
        assert store.bodies.feedback(msgspec.convert(row, Feedback)).text == "the lavender ferrets"
    assert json.loads(first.stdout)["unmatched"] == [{"line": 3, "why": "no tag of this value"}]
    assert (json.loads(again.stdout)["rows"], json.loads(again.stdout)["already"]) == (0, 1)


@pytest.mark.parametrize("missing", ["--on"])
def test_what_joins_must_be_said(embedded_config_path: Path, tmp_path: Path, missing: str) -> None:
    file = tmp_path / "o.csv"
    file.write_text("trace_id,rating\n")

    assert missing in run_import(embedded_config_path, file).stderr
