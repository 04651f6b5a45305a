"""Delivery: every row once, whatever the store did with earlier tries; a poison row blocks no other."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import StoreError, StoreRefusedError, StoreUnreachableError
from gateway.traces.delivery import DOUBTFUL_AT_MOST, IDS_PER_QUERY, deliver

POISON = "poison"
ODD = "odd"  # refused with a code that does not tell whose fault it is


class FaultyStore:
    """Keeps rows, honours tokens, and fails as told: before or after it stored, or remembering a token alone."""

    def __init__(self, faults: list[str]) -> None:
        self.faults = faults
        self.rows: list[dict[str, Any]] = []
        self.tokens: list[str] = []

    def insert(self, _table: str, rows: list[dict[str, Any]], *, token: str) -> None:
        fault = self.faults.pop(0) if self.faults else "none"
        if fault == "lost before":
            raise StoreUnreachableError("no answer")
        if any(row["trace_id"].startswith(POISON) for row in rows):
            raise StoreRefusedError("code 53, TYPE_MISMATCH", code=53, about_data=True)
        if any(row["trace_id"].startswith(ODD) for row in rows):
            raise StoreRefusedError("code 395, FUNCTION_THROW_IF_VALUE_IS_NON_ZERO", code=395)
        if fault == "busy":
            raise StoreRefusedError("code 252, TOO_MANY_PARTS", code=252, about_store=True)
        if fault == "memory":
            raise StoreRefusedError("code 241, MEMORY_LIMIT_EXCEEDED", code=241, about_store=True)
        if token not in self.tokens:
            self.tokens.append(token)
            if fault != "killed with the token":
                self.rows += rows
        if fault == "a view refuses":
            raise StoreRefusedError("code 395, FUNCTION_THROW_IF_VALUE_IS_NON_ZERO", code=395)
        if fault in ("lost after", "killed with the token"):
            raise StoreUnreachableError("no answer")

    def query(self, _sql: str, parameters: dict[str, Any] | None = None) -> list[dict[str, Any]]:
        assert parameters is not None
        ids = parameters["ids"]
        assert len(ids) <= IDS_PER_QUERY
        within = [row for row in self.rows if parameters["first"] <= row["started_at"] <= parameters["last"]]
        return [{"trace_id": row["trace_id"]} for row in within if row["trace_id"] in ids]


def rows_named(names: list[str]) -> list[dict[str, Any]]:
    start = datetime(2026, 1, 1, tzinfo=UTC)
    return [{"trace_id": name, "started_at": start + timedelta(seconds=n)} for n, name in enumerate(names)]


def until_delivered(store: FaultyStore, rows: list[dict[str, Any]]) -> list[str]:
    suspect = False
    parts: list[bool] = []
    while True:
        try:
            refused = deliver(
                store,
                "traces",
                rows,
                "file:traces",
                suspect=suspect,
                in_parts=bool(parts),
                go_in_parts=lambda: parts.append(True),
                settle_s=0,
            )
        except StoreError:
            suspect = True
        else:
            return [row["trace_id"] for row, _ in refused]


FAULTS = st.lists(
    st.sampled_from(
        ["none", "lost before", "lost after", "killed with the token", "a view refuses", "busy", "memory"]
    ),
    max_size=8,
)


@given(st.integers(4, 300), st.sets(st.integers(0, 299), max_size=3), st.sampled_from([POISON, ODD]), FAULTS)
@settings(max_examples=200, deadline=None)
def test_every_row_is_stored_once_and_poison_is_set_aside(
    count: int, poisoned: set[int], kind: str, faults: list[str]
) -> None:
    names = [f"{kind if n in poisoned else 'row'}-{n}" for n in range(count)]
    store = FaultyStore(faults)
    refused = until_delivered(store, rows_named(names))
    assert sorted(row["trace_id"] for row in store.rows) == sorted(n for n in names if n.startswith("row"))
    assert sorted(refused) == sorted(name for name in names if name.startswith(kind))


@pytest.mark.parametrize("count", [1, 3, 200])
def test_rows_that_are_all_refused_for_no_telling_reason_are_nobodys_fault_until_they_are_blamed(
    count: int,
) -> None:
    store = FaultyStore([])
    rows = rows_named([f"{ODD}-{n}" for n in range(count)])
    with pytest.raises(StoreRefusedError, match="395"):
        deliver(store, "traces", rows, "t", suspect=False)
    refused = deliver(store, "traces", rows, "t", suspect=True, settle_s=0, blame_rows=True)
    assert [row for row, _ in refused] == rows
    assert all("395" in reason for _, reason in refused)


def test_a_store_that_refuses_everything_is_not_asked_about_every_row() -> None:
    asked = []

    class Refusing(FaultyStore):
        def insert(self, table: str, rows: list[dict[str, Any]], *, token: str) -> None:
            asked.append(token)
            super().insert(table, rows, token=token)

    rows = rows_named([f"{ODD}-{n}" for n in range(4096)])
    with pytest.raises(StoreRefusedError):
        deliver(Refusing([]), "traces", rows, "t", suspect=False)
    assert len(asked) <= 12 + 2 * DOUBTFUL_AT_MOST


def test_a_batch_and_its_token_are_the_same_at_every_try() -> None:
    store = FaultyStore(["lost after", "lost after"])
    until_delivered(store, rows_named(["a", "b"]))
    assert store.tokens == ["file:traces"]


def test_a_store_that_refuses_for_its_own_reasons_is_no_row_s_fault() -> None:
    with pytest.raises(StoreRefusedError):
        deliver(FaultyStore(["busy"]), "traces", rows_named(["a", "b"]), "t", suspect=False)
    with pytest.raises(StoreRefusedError):
        deliver(FaultyStore(["memory", "memory"]), "traces", rows_named(["a", "b"]), "t", suspect=False)


def test_rows_that_replace_their_equals_are_inserted_again_when_in_doubt() -> None:
    store = FaultyStore([])
    store.tokens = ["t"]  # remembered, and its rows gone
    deliver(store, "rollouts", rows_named(["a"]), "t", suspect=True)
    assert len(store.rows) == 1


class RecordingStore(FaultyStore):
    """Notes what it is sent."""

    def __init__(self, faults: list[str]) -> None:
        super().__init__(faults)
        self.sent: list[tuple[str, int]] = []

    def insert(self, table: str, rows: list[dict[str, Any]], *, token: str) -> None:
        self.sent.append((token, len(rows)))
        super().insert(table, rows, token=token)


def test_what_may_be_there_is_sent_again_whole_so_that_the_views_behind_the_table_get_it() -> None:
    store = RecordingStore(["lost after"])
    until_delivered(store, rows_named(["a", "b", "c"]))
    assert store.sent == [("file:traces", 3)] * 2
    assert len(store.rows) == 3


def test_where_parts_were_sent_what_is_there_is_not_sent_again() -> None:
    store = RecordingStore([])
    rows = rows_named(["a", "b", "c"])
    store.rows, store.tokens = rows[:2], ["file:traces/of-a-part"]
    deliver(store, "traces", rows, "file:traces", suspect=True, in_parts=True, settle_s=0)
    assert [count for _, count in store.sent] == [1]
    assert sorted(row["trace_id"] for row in store.rows) == ["a", "b", "c"]


def test_that_parts_are_sent_is_said_before_the_first_one() -> None:
    said: list[int] = []
    store = RecordingStore(["memory"])
    deliver(
        store,
        "traces",
        rows_named(["a", "b"]),
        "t",
        suspect=False,
        go_in_parts=lambda: said.append(len(store.sent)),
    )
    assert said == [1]
    assert [count for _, count in store.sent] == [2, 1, 1]
