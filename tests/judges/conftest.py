from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gateway.config import JudgeConfig
from tests.support.judging import RunnerProcess

WriteJudge = Callable[..., JudgeConfig]


@pytest.fixture
def write_judge(tmp_path: Path) -> WriteJudge:
    """Write a judge's file and give its entry in the configuration."""

    def write(
        source: str, *, name: str = "good", timeout_s: float = 20, memory_mb: int = 1024, **settings: Any
    ) -> JudgeConfig:
        (tmp_path / f"{name}.py").write_text(source)
        entry = {"name": name, "path": f"{tmp_path}/{name}.py:good", **settings}
        return msgspec.convert(entry | {"timeout_s": timeout_s, "memory_mb": memory_mb}, JudgeConfig)

    return write


@pytest.fixture
def judges_config(embedded_config_path: Path, tmp_path: Path) -> Callable[..., Path]:
    """Write a configuration with these judges over the session's store."""

    def write(*judges: JudgeConfig) -> Path:
        entries = [
            {key: value for key, value in msgspec.to_builtins(judge).items() if value} for judge in judges
        ]
        written = msgspec.yaml.encode({"judges": entries}).decode() if entries else ""
        path = tmp_path / "tracetune.yaml"
        path.write_text(embedded_config_path.read_text() + written)
        return path

    return write


@pytest.fixture
def start_runner() -> Iterator[Callable[[Path], RunnerProcess]]:
    started: list[RunnerProcess] = []

    def start(config_path: Path) -> RunnerProcess:
        started.append(RunnerProcess(config_path))
        return started[-1]

    yield start
    for runner in started:
        runner.stop()
