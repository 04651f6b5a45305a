"""What a judge is made of, read once: whatever changes its verdicts changes its version."""

from __future__ import annotations

from gateway.config import JudgeConfig
from judges.llm.source import RubricSource, rubric_source
from judges.load import JudgeSource, read_source

Definition = JudgeSource | RubricSource


def definition_of(judge: JudgeConfig) -> Definition:
    """Read what *judge* is made of, without running it. Raises JudgeFileError."""
    if judge.asked:
        return rubric_source(judge)
    return read_source(judge.file, judge.function, judge.options)
