"""The unit that starts `tracetune up` again says what the program does."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

from gateway.config import load_config
from gateway.errors import ConfigError
from gateway.supervisor.plan import plan_up

ROOT = Path(__file__).resolve().parents[1]
UNIT = ROOT / "config" / "tracetune.service"


@pytest.fixture
def unit() -> dict[str, dict[str, str]]:
    sections: dict[str, dict[str, str]] = defaultdict(dict)
    section = ""
    for line in UNIT.read_text(encoding="utf-8").splitlines():
        if line.startswith("["):
            section = line.strip("[]")
        elif line and not line.startswith("#"):
            name, _, value = line.partition("=")
            assert name.isalpha(), line
            assert name not in sections[section], f"{name} is there twice"
            sections[section][name] = value
    return sections


def test_it_starts_up_as_a_user_would(unit: dict[str, dict[str, str]]) -> None:
    program, *arguments = unit["Service"]["ExecStart"].split()

    assert program.endswith("/bin/tracetune")
    done = subprocess.run(
        [sys.executable, "-m", "gateway.cli.root", *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == ConfigError.exit_code
    assert "/etc/tracetune/tracetune.yaml" in done.stderr, "there is no such file here"


def test_it_starts_again_but_for_what_does_not_mend_itself(unit: dict[str, dict[str, str]]) -> None:
    assert unit["Service"]["Restart"] == "always"
    assert unit["Unit"]["StartLimitIntervalSec"] == "0"
    assert unit["Service"]["RestartPreventExitStatus"] == str(ConfigError.exit_code)


def test_a_clean_stop_of_the_complete_example_is_given_the_time_it_may_take(
    unit: dict[str, dict[str, str]],
) -> None:
    path = ROOT / "config" / "tracetune.yaml"
    takes = sum(plan.stop_within_s for plan in plan_up(load_config(path), path) if not plan.listens)
    takes += max(plan.stop_within_s for plan in plan_up(load_config(path), path) if plan.listens)

    assert int(unit["Service"]["TimeoutStopSec"]) >= takes
    assert unit["Service"]["KillMode"] == "mixed"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not here")
def test_systemd_understands_it() -> None:
    done = subprocess.run(
        ["systemd-analyze", "verify", str(UNIT)], capture_output=True, text=True, check=False
    )

    assert "Unknown" not in done.stderr
