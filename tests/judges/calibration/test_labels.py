from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from random import Random

import pytest

import judges
from gateway.traces.types import Feedback, Label
from judges.calibration.labelling import Choice, balanced, label_in_terminal
from judges.calibration.labels import LabelFileError, combined, feedback_label, read_labels, unlabelled

NOW = datetime(2026, 1, 2, tzinfo=UTC)


def said(kind: str, text: str | None = None, value: float | None = None) -> Feedback:
    return Feedback(
        feedback_id=kind,
        trace_id="t",
        session=None,
        client="c",
        kind=kind,
        value=value,
        text=text,
        created_at=NOW,
    )


def label(trace_id: str, value: int, who: str = "ann") -> Label:
    return Label(trace_id=trace_id, who=who, label=value, source="terminal", labelled_at=NOW)


@pytest.mark.parametrize(
    ("feedback", "expected"),
    [
        ([said("outcome", "accepted")], True),
        ([said("outcome", "rejected")], False),
        ([said("outcome", "edited")], None),
        ([said("outcome", "edited"), said("kept", "other")], False),
        ([said("kept", " the   answer ")], True),
        ([said("rating", value=0.9)], True),
        ([said("rating", value=0.5)], None),
        ([said("rating", value=0.1)], False),
        ([said("rating", value=0.9), said("outcome", "rejected")], None),
        ([said("comment", "good")], None),
        ([], None),
    ],
    ids=str,
)
def test_feedback_says_good_bad_or_nothing(feedback: list[Feedback], expected: bool | None):
    assert feedback_label(feedback, "the answer") is expected


def test_who_disagrees_is_counted_and_left_out():
    found = combined(
        {"a": [label("a", 1), label("a", 0, "bob")], "b": [label("b", 0)], "c": [label("c", 1)]},
        {"b": False, "c": False, "d": True},
        disputed=1,
    )
    assert found.labels == {"b": False, "d": True}
    assert (found.source, found.disputed) == ("mixed", 3)


def test_a_file_of_labels_is_read_whole_or_not_at_all(tmp_path: Path):
    path = tmp_path / "labels.jsonl"
    values = [True, False, 1, 0, "good", "bad"]
    path.write_text(
        "\n".join(json.dumps({"trace_id": str(n), "label": v}) for n, v in enumerate(values)) + "\n\n"
    )
    assert [row.label for row in read_labels(path, NOW)] == [1, 0, 1, 0, 1, 0]

    path.write_text(
        '{"trace_id": "a", "label": true}\n{"trace_id": "b", "label": 2}\nnonsense\n{"label": 1}\n'
    )
    with pytest.raises(LabelFileError) as caught:
        read_labels(path, NOW)
    assert [f"labels.jsonl:{n}:" in str(caught.value) for n in (1, 2, 3, 4)] == [False, True, True, True]
    with pytest.raises(LabelFileError, match="cannot be read"):
        read_labels(tmp_path / "none", NOW)


def test_as_many_that_failed_as_passed_are_asked_about():
    traces = [judges.trace_from(answer=str(n), trace_id=str(n)) for n in range(100)]
    choices = [Choice(trace, n % 10 != 0) for n, trace in enumerate(traces)]  # one in ten failed

    chosen = balanced(choices, 20, Random(1))

    failed = [trace for trace in chosen if int(trace.trace_id) % 10 == 0]
    assert (len(chosen), len(failed)) == (20, 10)
    assert [trace in failed for trace in chosen] != sorted(
        (trace in failed for trace in chosen), reverse=True
    )


def test_keys_label_undo_and_leave(capsys: pytest.CaptureFixture[str]):
    traces = [judges.trace_from(answer=f"answer {n}", trace_id=str(n)) for n in range(4)]
    kept: list[tuple[str, bool]] = []
    keys = iter("gxbuGsq")

    count = label_in_terminal(traces, lambda key, good: kept.append((key, good)), lambda: next(keys))

    assert kept == [("0", True), ("1", False), ("1", True)], "undone, and labelled anew"
    assert count == 2
    shown = capsys.readouterr().out
    assert shown.count("answer 1") == 2
    assert "answer 3" in shown, "skipped to, and left"


def test_what_is_shown_obeys_no_answer(capsys: pytest.CaptureFixture[str]):
    label_in_terminal([judges.trace_from(answer="\x1b[2J" + "x" * 5000)], lambda *_: None, lambda: "q")
    shown = capsys.readouterr().out
    assert "\x1b" not in shown
    assert len(shown) < 4000


def test_nobody_is_asked_twice():
    people = {"a": [label("a", 1)], "b": [label("b", 1, "bob")]}
    assert list(unlabelled(["a", "b", "c"], people, "ann")) == ["b", "c"]
