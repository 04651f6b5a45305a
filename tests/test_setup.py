"""`make` and the script that sets vLLM up may be interrupted at any moment: the next call ends in a whole environment."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# Stands for python and pip, and hangs where HANG says, as one that is about to be interrupted. Like the real ones it
# leaves an environment as it is unless told to clear it, and skips a package that looks installed.
PYTHON = """#!/bin/sh
hang() { if [ "$HANG" = "$1" ]; then touch "$HERE/hanging"; exec sleep 30; fi; }
case "$1 $2" in
"-c "*) ;;
"-m venv")
    shift 2
    if [ "$1" = --clear ]; then rm -rf "$2"; shift; fi
    mkdir -p "$1/bin"
    cp "$0" "$1/bin/python"
    hang venv
    cp "$0" "$1/bin/pip"
    echo made >> "$HERE/venvs"
    ;;
"-m learner.base_model")
    mkdir -p "$3"
    touch "$3/weights" "$3/config.json"
    hang model
    ;;
"install "*)
    test -e "$(dirname "$0")/../package" && exit 0
    touch "$(dirname "$0")/../package"
    hang pip
    echo whole > "$(dirname "$0")/../package"
    ;;
esac
"""


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    for name in ("Makefile", "pyproject.toml", "constraints", "scripts"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy2
        copy(ROOT / name, tmp_path / name)
    (tmp_path / "python").write_text(PYTHON)
    (tmp_path / "python").chmod(0o755)
    return tmp_path


def start(clone: Path, command: list[str], hang: str = "") -> subprocess.Popen[bytes]:
    environ = {**os.environ, "PYTHON": str(clone / "python"), "HERE": str(clone), "HANG": hang}
    return subprocess.Popen(
        # Tests that a shell has put into the background ignore SIGINT, and so would all that they start.
        ["env", "--default-signal=INT", *command],
        cwd=clone,
        env=environ,
        start_new_session=True,
        stdout=subprocess.DEVNULL,
    )


def interrupt(clone: Path, command: list[str], hang: str, number: signal.Signals) -> None:
    process = start(clone, command, hang)
    while not (clone / "hanging").exists():
        assert process.poll() is None
        time.sleep(0.02)
    os.killpg(process.pid, number)
    assert process.wait(10) != 0
    (clone / "hanging").unlink()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("moment", ["venv", "pip"])
@pytest.mark.parametrize(
    ("command", "venv"),
    [(["make", "setup"], ".venv"), (["scripts/setup_vllm_cpu.sh"], ".venv-vllm")],
    ids=["make", "vllm"],
)
def test_an_environment_is_whole_after_any_interruption_and_made_once(
    clone: Path, command: list[str], venv: str, moment: str, number: signal.Signals
) -> None:
    interrupt(clone, command, moment, number)
    assert not (clone / venv / ".installed").exists()

    assert start(clone, command).wait(10) == 0
    assert (clone / venv / "package").read_text() == "whole\n"
    made = (clone / "venvs").read_text()
    assert start(clone, command).wait(10) == 0
    assert (clone / "venvs").read_text() == made


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_model_that_was_just_put_in_place_is_not_torn_apart_by_an_interruption(
    clone: Path, number: signal.Signals
) -> None:
    interrupt(clone, ["make", "model"], "model", number)

    assert (clone / "models" / "smollm2-135m-instruct" / "config.json").exists()
    assert start(clone, ["make", "model"]).wait(10) == 0
