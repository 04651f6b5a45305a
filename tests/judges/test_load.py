from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

import judges
from judges.errors import JudgeFileError
from judges.load import read_source
from tests.support.judging import ANY_CONFIG

ANSWERS = [judges.trace_from(answer="yes")]


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("import nowhere_to_be_found\n", ":1: does not import: ModuleNotFoundError: No module named"),
        ("x = 1\n\ndef good(trace:\n", ":3: does not import: SyntaxError"),
        ("x = 1\nprint(1 / 0)\n", ":2: does not import: ZeroDivisionError: division by zero"),
        ("import sys\nsys.exit(3)\n", ":2: does not import: SystemExit: 3"),
        ("import os\nos._exit(3)\n", ": ended its process with status 3 while it was imported"),
        ("def better(trace):\n    return True\n", ": no function 'good' in it"),
        ("good = 3\n", ": 'good' is not a function"),
        ("\ndef good(answer):\n    return True\n", ":2: judge 'good': parameter 'answer' is none of trace"),
        ("def good():\n    return True\n", ":1: judge 'good': takes none of trace, session, feedback"),
        ("def helper():\n    return 1 / 0\nx = helper()\n", ":2: does not import"),
    ],
)
def test_a_file_that_cannot_be_used_is_one_line_naming_the_users_own(write_judge, source: str, said: str):
    judge = write_judge(source)
    with pytest.raises(JudgeFileError) as caught:
        judges.evaluate_answers(ANY_CONFIG, judge, ANSWERS)
    message = str(caught.value)
    assert f"{judge.file}{said}" in message
    assert "\n" not in message
    assert caught.value.exit_code == 2


def test_a_missing_file_is_named(tmp_path: Path):
    with pytest.raises(JudgeFileError, match=r"nowhere\.py: no such file"):
        read_source(tmp_path / "nowhere.py", "good")


def test_the_version_is_the_digest_of_the_bytes(write_judge):
    judge = write_judge("def good(trace):\n    return True\n")
    first = read_source(judge.file, "good").version
    assert first == hashlib.sha256(judge.file.read_bytes()).hexdigest()[:12]
    judge.file.write_text("def good(trace):\n    return False\n")
    assert read_source(judge.file, "good").version != first


def test_the_judges_in_a_file_are_found_without_running_it(tmp_path: Path):
    file = tmp_path / "mine.py"
    file.write_text(
        "raise SystemExit\n"
        "def one(trace): ...\n"
        "async def two(*, feedback): ...\n"
        "def _helper(trace): ...\n"
        "def other(text): ...\n"
    )
    assert judges.functions_in(file) == ["one", "two"]


def test_a_judge_may_import_what_lies_beside_it(write_judge, tmp_path: Path):
    (tmp_path / "beside.py").write_text("LIMIT = 0.5\n")
    judge = write_judge("from beside import LIMIT\ndef good(trace):\n    return LIMIT\n")
    (judgment,) = judges.evaluate_answers(ANY_CONFIG, judge, ANSWERS)
    assert judgment.score == 0.5


def test_a_file_named_like_a_module_of_ours_hides_nothing(write_judge):
    judge = write_judge("import judges\ndef good(trace):\n    return judges.abstain('w')\n", name="judges")
    (judgment,) = judges.evaluate_answers(ANY_CONFIG, judge, ANSWERS)
    assert judgment.reason == "w"
