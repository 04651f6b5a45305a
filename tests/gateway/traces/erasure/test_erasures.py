"""The list of erasures: what began before an erasure ended is written nowhere, and everybody else's is."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from pathlib import Path

import pytest

from gateway.config import Config
from gateway.errors import OperationError
from gateway.paths import Paths
from gateway.traces.erasure.erasures import (
    Erasure,
    ErasureList,
    Former,
    Named,
    Owner,
    latest,
    with_latest,
    without_old,
)
from gateway.traces.recorder import Recorder
from gateway.traces.segment_files import is_scrubbed, listing
from gateway.traces.store import Store
from tests.gateway.traces.test_shipper import BODY, data_directory, report, shipper_of, stored_ids, writer_of
from tests.support.capture import captured_feedback, captured_trace

JANE = Owner("subject", "web", "Jane Doe")


def an_erasure(known: ErasureList, *owners: Owner, **changes: object) -> Erasure:
    values: dict[str, object] = {
        "erasure": "er-1",
        "asked_at_us": 0,
        "until_us": None,
        "owners": [known.digest(owner) for owner in owners],
        "sessions": [],
        "traces": [],
    }
    return Erasure(**{**values, **changes})  # type: ignore[arg-type]


def listed(known: ErasureList, *entries: Erasure) -> None:
    with known.changed(lambda _: list(entries)):
        pass


def a_row(table: str = "traces", **changes: object) -> Named:
    values: dict[str, object] = {
        "table": table,
        "client": "web",
        "subject": None,
        "session": None,
        "trace_id": None,
        "at_us": 5,
    }
    return Named(**{**values, **changes})  # type: ignore[arg-type]


def test_what_began_before_an_erasure_ended_is_covered_and_what_begins_later_is_not(tmp_path: Path) -> None:
    known = ErasureList(tmp_path)
    rows = [a_row(subject="Jane Doe", at_us=at) for at in (0, 5, 6)]
    for until_us, covered in ((None, [True] * 3), (5, [True, True, False])):
        listed(known, an_erasure(known, JANE, until_us=until_us))
        with known.held() as watch:
            assert [watch.covers(row) for row in rows] == covered


def test_only_the_owner_of_that_kind_client_and_name_is_covered(tmp_path: Path) -> None:
    known = ErasureList(tmp_path)
    listed(known, an_erasure(known, JANE))
    with known.held() as watch:
        assert watch.covers(a_row(subject="Jane Doe", session="s"))
        for row in (
            a_row(subject="Jane"),
            a_row(subject="Jane Doe", client="app"),
            a_row(session="Jane Doe"),
            a_row(),
        ):
            assert not watch.covers(row)


def test_feedback_goes_with_its_trace_and_with_its_session_whoever_says_so_and_whenever(
    tmp_path: Path,
) -> None:
    known = ErasureList(tmp_path)
    session = known.digest(Owner("session", "web", "s"))
    listed(known, an_erasure(known, JANE, until_us=10, traces=["t1"], sessions=[session]))
    with known.held() as watch:
        assert watch.covers(a_row("feedback", trace_id="t1", client="app", at_us=1000))
        assert watch.covers(a_row("feedback", session="s"))
        assert not watch.covers(a_row("feedback", session="s", at_us=11))
        assert not watch.covers(a_row("feedback", session="s", trace_id="t2"))
        # Its session is somebody else's too: another trace in it is not the subject's.
        assert not watch.covers(a_row(session="s", trace_id="t3"))


def test_a_trace_that_began_when_every_erasure_was_over_is_covered_by_none(tmp_path: Path) -> None:
    known = ErasureList(tmp_path)
    ended = [an_erasure(known, JANE, until_us=until) for until in (5, 10)]
    for entries, over in (([], True), (ended, False), ([*ended, an_erasure(known, JANE)], False)):
        listed(known, *entries)
        with known.held() as watch:
            assert watch.is_over_at(10) == over
            assert watch.is_over_at(11) == (over or entries == ended)


def test_the_list_names_nobody(tmp_path: Path) -> None:
    known = ErasureList(tmp_path)
    listed(known, an_erasure(known, JANE))

    assert b"Jane" not in b"".join(path.read_bytes() for path in tmp_path.iterdir())


def test_entries_are_dropped_when_nothing_of_theirs_can_be_on_its_way(tmp_path: Path) -> None:
    known = ErasureList(tmp_path)
    day_us = 24 * 3600 * 1_000_000
    entries = [an_erasure(known, JANE, until_us=until) for until in (0, 50 * day_us, None)]

    assert without_old(entries, 100 * day_us) == entries[1:]


def test_an_owner_that_is_erased_again_has_one_entry_that_also_names_what_was_found_before(
    tmp_path: Path,
) -> None:
    known = ErasureList(tmp_path)
    session = known.digest(Owner("session", "web", "s"))
    entries: list[Erasure] = []
    for n, found in enumerate((["t0"], [], ["t2"], [])):
        sessions = [session] if n == 0 else []
        entry = an_erasure(known, JANE, erasure=f"er-{n}", until_us=10 * n, traces=found, sessions=sessions)
        entries = with_latest(entries, latest(entries, entry))

    (entry,) = entries
    assert (entry.erasure, entry.traces, [one.traces for one in entry.former]) == (
        "er-3",
        [],
        [["t0"], ["t2"]],
    )
    listed(known, *entries)
    with known.held() as watch:
        assert watch.covers(a_row(subject="Jane Doe", at_us=30))
        assert not watch.covers(a_row(subject="Jane Doe", at_us=31))
        assert watch.covers(a_row("feedback", trace_id="t0", at_us=1000))
        # Of her session only what was said before the erasure that found it.
        assert watch.covers(a_row("feedback", session="s", at_us=0))
        assert not watch.covers(a_row("feedback", session="s", at_us=1))


def test_an_entry_keeps_the_owners_that_are_not_erased_again(tmp_path: Path) -> None:
    known = ErasureList(tmp_path)
    john = Owner("subject", "app", "John")
    both = an_erasure(known, JANE, john, erasure="er-both", until_us=5, traces=["t1"])
    again = an_erasure(known, JANE, erasure="er-jane", until_us=9)
    listed(known, *with_latest([both], latest([both], again)))
    with known.held() as watch:
        assert watch.covers(a_row(subject="Jane Doe", at_us=9))
        assert watch.covers(a_row(subject="John", client="app", at_us=5))
        assert not watch.covers(a_row(subject="John", client="app", at_us=6))
        assert watch.covers(a_row("feedback", trace_id="t1", at_us=1000))
    assert [entry.erasure for entry in known.entries()] == ["er-both", "er-jane"]


def test_what_was_found_before_is_dropped_when_its_own_erasure_is_old(tmp_path: Path) -> None:
    known = ErasureList(tmp_path)
    day_us = 24 * 3600 * 1_000_000
    old = Former(until_us=0, sessions=[], traces=["t1"])
    newer = Former(until_us=50 * day_us, sessions=[], traces=["t2"])
    entry = an_erasure(known, JANE, former=[old, newer])

    assert [without_old([entry], 100 * day_us)[0].former, without_old([entry], 100 * day_us, 101)] == [
        [newer],
        [entry],
    ]


def test_a_list_that_cannot_be_read_lets_nothing_be_written(tmp_path: Path) -> None:
    (tmp_path / "erasures.json").write_text("{")

    with pytest.raises(OperationError, match=r"erasures.json cannot be read .*; restore it"):  # noqa: SIM117
        with ErasureList(tmp_path).held():
            pass


def test_a_change_waits_for_who_holds_the_list_and_comes_before_who_would_hold_it_next(
    tmp_path: Path,
) -> None:
    known, stop, changed = ErasureList(tmp_path), threading.Event(), threading.Event()

    def hold_again_and_again() -> None:
        own = ErasureList(tmp_path)
        while not stop.is_set():
            with own.held():
                time.sleep(0.02)

    def change() -> None:
        listed(known, an_erasure(known, JANE))
        changed.set()

    holders = [threading.Thread(target=hold_again_and_again) for _ in range(3)]
    for holder in holders:
        holder.start()
    try:
        changing = threading.Thread(target=change)
        changing.start()
        assert changed.wait(10)
    finally:
        stop.set()
        for thread in (*holders, changing):
            thread.join()


def test_the_list_is_changed_while_rows_are_being_sent_and_those_are_waited_for(tmp_path: Path) -> None:
    known, sender = ErasureList(tmp_path), ErasureList(tmp_path)
    sent = threading.Event()

    def wait() -> None:
        known.wait_until_sent(10)
        sent.set()

    with sender.sending() as before:
        listed(known, an_erasure(known, JANE))
        with pytest.raises(OperationError, match=r"within 0 s; .* see that the store answers"):
            known.wait_until_sent(0)
        waiting = threading.Thread(target=wait)
        waiting.start()
        # Who sends besides is not kept waiting, and not waited for.
        with ErasureList(tmp_path).sending() as another:
            assert another.covers(a_row(subject="Jane Doe"))
        assert not sent.is_set()
        assert not before.covers(a_row(subject="Jane Doe"))
    assert sent.wait(10)
    waiting.join()
    with sender.sending() as after:
        assert after.covers(a_row(subject="Jane Doe"))


def test_who_begins_to_send_while_an_erasure_waits_is_not_waited_for(tmp_path: Path) -> None:
    known = ErasureList(tmp_path)
    with contextlib.ExitStack() as later:
        with ErasureList(tmp_path).sending():
            with pytest.raises(OperationError):
                known.wait_until_sent(0)
            later.enter_context(ErasureList(tmp_path).sending())
            with pytest.raises(OperationError):  # asked again, it still waits for the first
                known.wait_until_sent(0)
            last = later.enter_context(ErasureList(tmp_path).sending())
            assert not last
        with pytest.raises(OperationError):
            known.wait_until_sent(0)  # for the second
    known.wait_until_sent(0)
    assert not list(tmp_path.glob("sending*"))


def erased_before(paths: Paths, *owners: Owner) -> None:
    known = ErasureList(paths.state)
    listed(known, an_erasure(known, *owners))


def test_the_recorder_writes_nothing_of_what_was_erased_and_counts_it(
    embedded_config_path: Path, clean_store: Store
) -> None:
    with data_directory(embedded_config_path) as (config, paths):
        recorder = Recorder(config)
        writer = writer_of(paths)
        writer.append(captured_trace("t0", client="web", subject="Jane Doe"), *BODY)
        recorder.step()
        erased_before(paths, JANE, Owner("session", "web", "gone"))
        writer.append(captured_trace("t1", client="web", subject="Jane Doe"), *BODY)
        writer.append(captured_trace("t2", client="web", session="gone"), *BODY)
        writer.append(captured_feedback("f1", trace_id="t1", client="web"))
        writer.append(captured_trace("t3", client="web", subject="John"), *BODY)
        writer.append(captured_feedback("f3", trace_id="t3", client="web"))
        writer.close()
        recorder.step()
        recorder.close()

        assert report(paths, "recorder")["dropped"] == {"erased": 3}
        assert listing(paths.segments) == []
        # t0 was written before; it is the shipper that keeps it out.
        _ship(config, paths)
        assert stored_ids(clean_store) == ["t3"]
        assert [row["feedback_id"] for row in clean_store.query("SELECT feedback_id FROM feedback")] == ["f3"]


def test_rows_that_are_refused_do_not_get_to_the_quarantine_when_they_were_erased(
    embedded_config_path: Path, clean_store: Store
) -> None:
    with data_directory(embedded_config_path) as (config, paths):
        recorder = Recorder(config)
        writer = writer_of(paths)
        for subject in ("Jane Doe", "John"):
            poison = captured_trace(f"of {subject}", client="web", subject=subject, status=-1)
            writer.append(poison, *BODY)
        writer.close()
        recorder.step()
        recorder.close()
        erased_before(paths, JANE)
        _ship(config, paths)

        lines = [line for path in paths.spool.rglob("*.jsonl") for line in path.read_text().splitlines()]
        assert [json.loads(line)["row"]["trace_id"] for line in lines] == ["of John"]


def _ship(config: Config, paths: Paths) -> None:
    """Ship all there is."""
    shipper = shipper_of(config, paths)
    while shipper.step():
        continue
    shipper.close()


def test_only_a_record_that_was_overwritten_counts_as_such() -> None:
    assert [is_scrubbed(meta) for meta in (b"", b"\0", bytes(9), b"\0\1", b"\x9d\0")] == [
        False,
        True,
        True,
        False,
        False,
    ]
