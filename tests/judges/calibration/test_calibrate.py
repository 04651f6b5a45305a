"""`tracetune judge calibrate` as people use it: planted judges are named and stopped, a good one passes."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gateway.traces.store import Store
from gateway.traces.types import Trace
from judges.calibration.measure import measure
from judges.calibration.result import problems
from judges.wire import Answer, Task
from tests.support.judging import add, feedback_on, some_traces
from tests.support.store import a_trace

ROOT = Path(__file__).parents[3]
GOOD_WORDS, BAD_WORDS = "the invoice is paid", "no idea, sorry"
# What each answer looks like says nothing of its length: good and bad are of every length.
RIGHT = "def good(trace):\n    return 'is paid' in trace.answer\n"
LONGER = "def good(trace):\n    return min(1.0, len(trace.answer) / 120)\n"
# Wrong on every third answer, whatever the ids of the traces happen to be: 17 of 50 good, and of 50 bad.
GUESSING = "def good(trace):\n    return ('is paid' in trace.answer) != (trace.answer.count(' x') % 3 == 0)\n"
GULLIBLE = "def good(trace):\n    return 'is paid' in trace.answer or 'answer yes' in trace.answer.lower()\n"
FLIPPING = "import random\ndef good(trace):\n    return random.random() < 0.5\n"


def tracetune(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "gateway.cli.root", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
        timeout=120,
    )


def answered(number: int, words: str) -> Trace:
    text = words + " x" * (number % 50)
    response = {"choices": [{"message": {"role": "assistant", "content": text}}]}
    return a_trace(session=os.urandom(4).hex(), response=json.dumps(response))


def labelled_traces(store: Store, path: Path, each: int = 50) -> list[Trace]:
    """*each* good and bad answers in the store, with their labels in a file."""
    good = [answered(number, GOOD_WORDS) for number in range(each)]
    bad = [answered(number, BAD_WORDS) for number in range(each)]
    add(store, *good, *bad)
    lines = [{"trace_id": trace.trace_id, "label": True} for trace in good]
    lines += [{"trace_id": trace.trace_id, "label": "bad"} for trace in bad]
    path.write_text("\n".join(map(json.dumps, lines)))
    return good + bad


Calibrate = Callable[..., dict[str, Any]]


@pytest.fixture
def calibrate(clean_store: Store, write_judge, judges_config, tmp_path: Path) -> Calibrate:
    labels = tmp_path / "labels.jsonl"
    labelled_traces(clean_store, labels)

    def run(source: str) -> dict[str, Any]:
        config = judges_config(write_judge(source))
        done = tracetune("judge", "calibrate", "good", "--labels", labels, "--config", config, "--json")
        assert done.returncode == 0, done.stderr
        listed = json.loads(tracetune("judge", "list", "--config", config, "--json").stdout)
        (row,) = json.loads(done.stdout)
        return row | {"standing": listed[0]["standing"]}

    return run


def test_a_good_judge_with_a_hundred_labels_passes(calibrate: Calibrate):
    found = calibrate(RIGHT)

    assert (found["tpr"], found["tnr"], found["kappa"], found["flip_rate"], found["injected"]) == (
        1,
        1,
        1,
        0,
        0,
    )
    assert (found["labels"], found["source"], found["problems"]) == (100, "file", [])
    assert found["j_low"] > 0.85
    assert (found["standing"]["may_train"], found["standing"]["may_gate"]) == (True, True)


@pytest.mark.parametrize(
    ("source", "named"),
    [(LONGER, "length"), (GULLIBLE, "injection")],
    ids=["rewards length", "talked round"],
)
def test_a_planted_flaw_is_named_with_its_number_and_stops_the_judge(
    calibrate: Calibrate, source: str, named: str
):
    found = calibrate(source)

    (problem,) = [problem for problem in found["problems"] if problem.startswith(named)]
    assert any(character.isdigit() for character in problem)
    assert (found["standing"]["may_train"], found["standing"]["may_gate"]) == (False, False)


def test_errors_that_happen_to_be_long_are_no_reward_of_length(
    clean_store: Store, write_judge, judges_config, tmp_path: Path
):
    """The wrong answers that it lets pass are longer than those that it does not: made longer, none passes."""
    wrong = [answered(0, "{}" if n % 2 else json.dumps({"total": "x" * 40}) + " " * n) for n in range(40)]
    right = [answered(0, json.dumps({"total": n})) for n in range(40)]
    add(clean_store, *wrong, *right)
    labels = tmp_path / "labels.jsonl"
    rows = [{"trace_id": trace.trace_id, "label": trace in right} for trace in [*wrong, *right]]
    labels.write_text("\n".join(map(json.dumps, rows)))
    source = "import json\ndef good(trace):\n    return bool(json.loads(trace.answer.strip(' x') or '0'))\n"
    config = judges_config(write_judge(source))

    done = tracetune("judge", "calibrate", "--labels", labels, "--config", config, "--json")

    assert done.returncode == 0, done.stderr
    (found,) = json.loads(done.stdout)
    assert found["length_correlation"] > 0.3
    assert [problem.partition(":")[0] for problem in found["problems"]] == ["form"]


def test_a_judge_that_is_right_too_seldom_may_do_neither(calibrate: Calibrate):
    found = calibrate(GUESSING)

    assert found["j"] == pytest.approx(0.32), "it was planted at about 0.3"
    assert (found["standing"]["may_train"], found["standing"]["may_gate"]) == (False, False)


def test_a_judge_that_changes_its_mind_is_named(calibrate: Calibrate):
    found = calibrate(FLIPPING)

    assert found["flip_rate"] > 0.05
    assert any(problem.startswith("flips") for problem in found["problems"])


class _Pairwise:
    """A pairwise judge that prefers what it is shown first, as its answers look to a calibration."""

    parameters = ("trace",)

    def judge(self, tasks):
        for number, _ in enumerate(tasks):
            biased = number % 3 == 0
            orders = [
                {"first": "answer", "better": "answer"},
                {"first": "other", "better": "other" if biased else "answer"},
            ]
            yield Answer(
                score=None if biased else 1.0, reason="", seconds=0.0, detail=json.dumps({"orders": orders})
            )


def test_a_judge_that_prefers_a_place_is_named():
    tasks = [Task(trace=trace, feedback=[]) for trace in some_traces(30)]
    found = measure(_Pairwise(), tasks, [True] * 30, from_feedback=[False] * 30)  # type: ignore[arg-type]

    assert found.order_consistency == pytest.approx(2 / 3)
    assert [problem.partition(":")[0] for problem in problems(found)] == ["position"]


def test_feedback_is_labels_and_what_only_repeats_it_is_told(clean_store: Store, write_judge, judges_config):
    traces = some_traces(24)
    add(clean_store, *traces)
    add(clean_store, *(feedback_on(trace, "hi" if n % 2 else "other") for n, trace in enumerate(traces)))
    config = judges_config(
        write_judge("import judges\ndef good(trace):\n    return trace.answer == (trace.kept or 'hi')\n")
    )

    done = tracetune("judge", "calibrate", "--config", config)

    assert done.returncode == 0, done.stderr
    assert "on 24 labels from feedback" in done.stdout
    assert "of 12 answers that people called good it passed 12: TPR 1.00" in done.stdout
    assert "PROBLEM circular: 10 verdicts change" in done.stdout


def test_too_few_labels_are_refused_with_how_many_are_missing(clean_store: Store, write_judge, judges_config):
    traces = some_traces(6)
    add(clean_store, *traces, *(feedback_on(trace, "hi") for trace in traces))
    config = judges_config(write_judge(RIGHT))

    done = tracetune("judge", "calibrate", "good", "--config", config)

    assert done.returncode == 3
    assert (
        "6 good and 0 bad answers have labels; it takes 4 more of good answers and 10 more of bad"
        in done.stderr
    )
    assert clean_store.query("SELECT count() AS n FROM calibrations")[0]["n"] == 0
    unknown = tracetune("judge", "calibrate", "nobody", "--config", config)
    assert (unknown.returncode, "judges: good" in unknown.stderr) == (2, True)


@pytest.mark.skipif(sys.platform != "linux", reason="ptys differ")
def test_ten_labels_in_the_terminal_are_ten_keys(clean_store: Store, write_judge, judges_config):
    add(clean_store, *(answered(n, GOOD_WORDS if n % 2 else BAD_WORDS) for n in range(40)))
    config = judges_config(write_judge(RIGHT))
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "gateway.cli.root",
            "judge",
            "calibrate",
            "good",
            "--label",
            "20",
            "--config",
            str(config),
        ],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        cwd=ROOT,
        close_fds=True,
    )
    os.close(theirs)
    seen = ""
    labelled = 0
    deadline = time.monotonic() + 60
    try:
        while time.monotonic() < deadline:
            try:
                seen += os.read(ours, 65536).decode(errors="replace")
            except OSError:
                break
            shown = seen.split("── ")[-2:]
            if seen.count("q quit") > labelled:
                labelled += 1
                os.write(ours, b"g" if GOOD_WORDS in "".join(shown) else b"b")
        assert process.wait(30) == 0, seen
    finally:
        process.kill()
        os.close(ours)

    assert "20 labels kept" in seen
    rows = clean_store.query("SELECT label, source FROM labels")
    assert sorted(row["label"] for row in rows) == [0] * 10 + [1] * 10, "half of them failed by the judge"
    assert {row["source"] for row in rows} == {"terminal"}
    assert "of 10 answers that people called good it passed 10" in seen
