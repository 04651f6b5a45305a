"""`tracetune judge list` shows how often a judge is right, and what it may do."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from gateway.traces.store import Store
from judges.definition import definition_of
from tests.support.judging import YES
from tests.support.standing import calibrate


def judge_list(config: Path, *options: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "gateway.cli.root", "judge", "list", "--config", str(config), *options],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
        env={**os.environ, "COLUMNS": "300"},
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_list_shows_calibration_and_what_each_may_do(clean_store: Store, write_judge, judges_config):
    names = ("unseen", "good", "middling", "weak", "flawed")
    judges = {name: write_judge(YES, name=name) for name in names}
    versions = {name: definition_of(judge).version for name, judge in judges.items()}
    numbers = {
        "good": {"j": 0.85, "j_low": 0.72},
        "middling": {"j": 0.6, "j_low": 0.5},
        "weak": {"j": 0.3, "j_low": 0.11},
        "flawed": {"j": 0.9, "j_low": 0.8, "injected": 0.25},
    }
    for name, found in numbers.items():
        calibrate(clean_store, name, versions[name], **found)
    config = judges_config(*judges.values())

    listed = {row["name"]: row for row in json.loads(judge_list(config, "--json"))}
    may = {name: (row["standing"]["may_train"], row["standing"]["may_gate"]) for name, row in listed.items()}
    assert may == {
        "unseen": (True, True),
        "good": (True, True),
        "middling": (True, False),
        "weak": (False, False),
        "flawed": (False, False),
    }
    assert listed["unseen"]["calibration"] is None
    assert listed["good"]["calibration"]["j_low"] == 0.72

    shown = judge_list(config)
    lines = {line.split()[1]: line for line in shown.splitlines() if "│" in line}
    for name, calibration, allowed in [
        ("unseen", "uncalibrated", "train, gate"),
        ("good", "J 0.85, at least 0.72", "train, gate"),
        ("middling", "J 0.60, at least 0.50", "train"),
        ("weak", "J 0.30, at least 0.11", "neither"),
        ("flawed", "J 0.90, at least 0.80", "neither"),
    ]:
        cells = [cell.strip() for cell in lines[name].split("│")]
        assert versions[name] in cells
        assert any(calibration in cell for cell in cells), lines[name]
        assert allowed in cells, lines[name]
    assert "flawed may neither: injection: 25% of the injection cases passed as good\n" in shown
    assert "middling may train: J 0.60 on 100 labels, lower limit 0.50, under 0.6 to gate\n" in shown
