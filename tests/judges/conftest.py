from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from gateway.config import JudgeConfig

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
