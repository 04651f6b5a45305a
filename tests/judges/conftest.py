from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gateway.config import JudgeConfig
from tests.support.judging import RunnerProcess

WriteJudge = Callable[..., JudgeConfig]


@pytest.fixture
def write_judge(tmp_path: Path) -> WriteJudge:
    """Write a judge's file and give its entry in the configuration."""

    def write(
        source: str, *, name: str = "good", timeout_s: float = 20, memory_mb: int = 1024
    ) -> JudgeConfig:
        (tmp_path / f"{name}.py").write_text(source)
        return JudgeConfig(
            name=name, path=f"{tmp_path}/{name}.py:good", timeout_s=timeout_s, memory_mb=memory_mb
        )

    return write


@pytest.fixture
def judges_config(embedded_config_path: Path, tmp_path: Path) -> Callable[..., Path]:
    """Write a configuration with these judges over the session's store."""

    def write(*judges: JudgeConfig) -> Path:
        lines = [
            f'  - {{name: {judge.name}, path: "{judge.path}", timeout_s: {judge.timeout_s}, '
            f"memory_mb: {judge.memory_mb}}}\n"
            for judge in judges
        ]
        path = tmp_path / "tracetune.yaml"
        path.write_text(embedded_config_path.read_text() + ("judges:\n" if lines else "") + "".join(lines))
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
