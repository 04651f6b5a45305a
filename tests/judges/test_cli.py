from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from gateway.traces.store import Store
from tests.support.judging import KEPT, YES, add, feedback_on, judged, some_traces
from tests.support.store import write_config


def tracetune(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "gateway.cli.root", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
        check=False,
        timeout=60,
    )


def test_run_judges_once_and_list_shows_what_it_came_to(clean_store: Store, write_judge, judges_config):
    first, second, third = some_traces(3)
    add(clean_store, first, second, third, feedback_on(first, "hi"), feedback_on(second, "other"))
    config = judges_config(write_judge(KEPT), write_judge(YES, name="always"))

    ran = tracetune("judge", "run", "--config", config, "--json")
    assert ran.returncode == 0, ran.stderr
    assert [(row["judge"], row["judged"], row["abstained"]) for row in json.loads(ran.stdout)] == [
        ("good", 2, 1),
        ("always", 3, 0),
    ]
    assert judged(clean_store) == {
        first.trace_id: 1.0,
        second.trace_id: 0.0,
        third.trace_id: "nobody said",
    }

    again = tracetune("judge", "run", "--config", config)
    assert again.stdout == "good: 0 judged, 0 abstained\nalways: 0 judged, 0 abstained\n"

    listed = json.loads(tracetune("judge", "list", "--config", config, "--json").stdout)
    assert [(row["name"], row["coverage"]) for row in listed] == [
        ("good", {"traces": 3, "judged": 2, "abstained": 1, "mean": 0.5}),
        ("always", {"traces": 3, "judged": 3, "abstained": 0, "mean": 1.0}),
    ]
    shown = tracetune("judge", "list", "--config", config).stdout
    assert "0.500" in shown


def test_a_broken_judge_gives_exit_code_2_and_the_others_are_judged(
    clean_store: Store, write_judge, judges_config
):
    add(clean_store, *some_traces(2))
    broken = write_judge("def good(trace\n", name="broken")
    three = write_judge("good = 3\n", name="three")
    ran = tracetune("judge", "run", "--config", judges_config(broken, write_judge(YES), three))
    assert ran.returncode == 2
    first, second = ran.stderr.splitlines()
    assert first.startswith(f"tracetune: judge broken: {broken.file}:1: does not import: SyntaxError")
    assert second.startswith(f"tracetune: judge three: {three.file}: 'good' is not a function")
    assert "Traceback" not in ran.stderr
    assert len(judged(clean_store)) == 2


def test_list_says_of_a_judge_that_cannot_be_used_where_why_and_what_to_do(
    clean_store: Store, write_judge, judges_config
):
    add(clean_store, *some_traces(2))
    broken = write_judge("import nowhere\ndef good(trace): ...\n", name="broken")
    config = judges_config(broken, write_judge(YES))
    why = (
        f"{broken.file}:1: does not import: ModuleNotFoundError: No module named 'nowhere'; correct that line"
    )
    first, second = json.loads(tracetune("judge", "list", "--config", config, "--json").stdout)
    assert (first["error"], first["coverage"]["judged"], second["error"]) == (why, 0, None)
    assert f"broken judges nothing: {why}\n" in tracetune("judge", "list", "--config", config).stdout


def test_try_shows_verdicts_and_reasons_and_stores_nothing(clean_store: Store, write_judge, judges_config):
    traces = some_traces(3)
    add(clean_store, *traces, feedback_on(traces[2], "hi"))
    judge = write_judge(KEPT + "def length(trace):\n    print('seen')\n    return len(trace.answer)\n")
    config = judges_config()

    shown = tracetune("judge", "try", judge.file, "-n", 2, "--config", config)
    assert shown.returncode == 0, shown.stderr
    assert "1 judged, mean 1.000, 1 abstained" in shown.stdout
    assert "1: nobody said" in shown.stdout
    assert "0 judged, 2 abstained" in shown.stdout
    assert "slowest: " in shown.stdout
    assert shown.stderr == "seen\nseen\n"

    tried = json.loads(tracetune("judge", "try", judge.path, "-n", 2, "--config", config, "--json").stdout)
    assert [(row["judge"], row["trace_id"], row["score"], row["kept"]) for row in tried] == [
        ("good", traces[2].trace_id, 1.0, True),
        ("good", traces[1].trace_id, None, False),
    ]
    assert judged(clean_store) == {}


def test_try_keeps_to_the_bounds_and_routes_of_a_configured_judge_unless_told_otherwise(
    tmp_path: Path, clean_store: Store, write_judge, judges_config
):
    add(clean_store, *some_traces(1, route="other"), *some_traces(1))
    judge = write_judge(
        "import time\ndef good(trace):\n    time.sleep(600)\n", timeout_s=0.3, routes=["support-bot"]
    )
    config = judges_config(judge)
    asked = ("judge", "try", judge.file, "--config", config, "--json")
    (row,) = json.loads(tracetune(*asked).stdout)
    assert row["reason"].startswith("took longer than 0.3 s")
    rows = json.loads(
        tracetune(*asked, "--route", "support-bot", "--route", "other", "--timeout-s", 0.2).stdout
    )
    assert [row["reason"].partition(";")[0] for row in rows] == ["took longer than 0.2 s"] * 2


@pytest.mark.parametrize("where", ["import", "call"])
def test_a_judge_that_closes_its_descriptors_shows_no_traceback_of_ours(
    clean_store: Store, write_judge, judges_config, where: str
):
    add(clean_store, *some_traces(2))
    at_import, at_call = (
        ("os.closerange(3, 300)", "pass") if where == "import" else ("", "os.closerange(3, 300)")
    )
    judge = write_judge(f"import os\n{at_import}\ndef good(trace):\n    {at_call}\n    return True\n")
    done = tracetune("judge", "try", judge.file, "--config", judges_config())
    assert "Traceback" not in done.stderr
    assert "closed the pipes of its process" in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("judge", "run"), "no judges are configured; add one under `judges:`"),
        (("judge", "try", "nowhere.py"), "nowhere.py: no such file"),
        (("judge", "try", "nowhere.py:good"), "nowhere.py: no such file"),
        (("judge", "try", "README.md"), "README.md"),
    ],
)
def test_what_a_person_got_wrong_is_one_line_and_exit_code_2(
    embedded_config_path: Path, tmp_path: Path, arguments: tuple[str, ...], said: str
):
    done = tracetune(*arguments, "--config", embedded_config_path)
    assert done.returncode == 2
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


def test_an_unknown_judge_is_named_with_those_there_are(write_judge, judges_config):
    done = tracetune("judge", "run", "other", "--config", judges_config(write_judge(YES)))
    assert done.returncode == 2
    assert "no judge is named 'other'; judges: good" in done.stderr


def test_without_traces_try_says_so(tmp_path: Path, clean_store: Store, write_judge, judges_config):
    judge = write_judge(YES)
    done = tracetune("judge", "try", judge.file, "--config", judges_config())
    assert done.returncode == 0
    assert "there are no answered traces in the store yet" in done.stdout


def test_try_says_what_it_waits_for_while_a_file_is_imported(write_judge, judges_config, clean_store: Store):
    judge = write_judge("import time\ntime.sleep(4)\n" + YES)
    done = tracetune("judge", "try", judge.file, "--config", judges_config())
    assert done.returncode == 0
    assert done.stderr == f"{judge.file}: still being imported for 'good'; it has 120 s\n"


@pytest.mark.slow
def test_the_commands_work_while_nothing_else_runs(tmp_path: Path, write_judge):
    judge = write_judge(YES)
    config = write_config(tmp_path / "own", f'judges:\n  - {{name: good, path: "{judge.path}"}}\n')
    ran = tracetune("judge", "run", "--config", config)
    assert (ran.returncode, ran.stdout) == (0, "good: 0 judged, 0 abstained\n"), ran.stderr


def test_try_tells_what_it_would_have_got_wrong(clean_store: Store, write_judge, judges_config):
    right, wrong, unsaid = some_traces(3)
    add(clean_store, right, wrong, unsaid)
    add(clean_store, feedback_on(right, "hi"), feedback_on(wrong, "something else"))
    config = judges_config(write_judge(YES))

    shown = tracetune("judge", "try", "good", "--config", config)

    assert shown.returncode == 0, shown.stderr
    assert "people said something of 2 of them; it would have got 1 wrong\n" in shown.stdout
    assert f"  {wrong.trace_id} people: bad, judge: 1\n" in shown.stdout
    rows = {
        row["trace_id"]: row["said"]
        for row in json.loads(tracetune("judge", "try", "good", "--config", config, "--json").stdout)
    }
    assert rows == {right.trace_id: True, wrong.trace_id: False, unsaid.trace_id: None}


def test_try_takes_a_name_of_the_configuration_or_a_judge_that_comes_with_us(
    clean_store: Store, write_judge, judges_config
):
    add(clean_store, *some_traces(2))
    config = judges_config(write_judge(YES))

    (row, _) = json.loads(
        tracetune("judge", "try", "builtin:json_valid", "--config", config, "--json").stdout
    )
    assert (row["judge"], row["score"]) == ("json_valid", 0.0)
    nobody = tracetune("judge", "try", "nobody", "--config", config)
    assert (nobody.returncode, nobody.stderr) == (
        2,
        "tracetune: 'nobody' is no file, and no judge of the configuration; judges there: good\n",
    )
