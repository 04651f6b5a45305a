from __future__ import annotations

import time

import pytest

from judges import slow_import
from judges.usable import why_unusable
from tests.support.judging import YES, config_with

HANGS = "import time\ntime.sleep(600)\ndef good(trace): ...\n"


def test_only_what_cannot_be_used_is_named(write_judge):
    gone = write_judge("", name="gone")
    gone.file.unlink()
    found = why_unusable(config_with(write_judge(YES), gone, write_judge("good = 3\n", name="three")))
    assert found == {
        "gone": f"{gone.file}: no such file; write the judge there or correct its path",
        "three": f"{gone.file.parent}/three.py: 'good' is not a function; write `def name(trace): …`",
    }


def test_files_that_hang_are_waited_for_together_and_named(write_judge):
    began = time.monotonic()
    found = why_unusable(config_with(*(write_judge(HANGS, name=f"hangs{n}") for n in range(3))), within_s=3)
    assert time.monotonic() - began < 8
    assert list(found) == ["hangs0", "hangs1", "hangs2"]
    assert "not imported after 3 s; move slow work into the function" in found["hangs0"]


def test_what_is_waited_for_is_said(write_judge, monkeypatch, capfd: pytest.CaptureFixture[str]):
    monkeypatch.setattr(slow_import, "TELL_AFTER_S", 0.2)
    judge = write_judge(HANGS)
    why_unusable(config_with(judge), within_s=2)
    assert f"{judge.file}: still being imported for 'good'; it has 2 s\n" in capfd.readouterr().err
