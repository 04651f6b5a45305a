"""What a judge is made of, read once: whatever changes its verdicts changes its version."""

from __future__ import annotations

from pathlib import Path

import msgspec

from gateway.config import JudgeConfig
from judges.builtin.source import builtin_files, builtin_source
from judges.llm.source import RubricSource, rubric_source
from judges.load import JudgeSource, read_source

Definition = JudgeSource | RubricSource


def definition_of(judge: JudgeConfig) -> Definition:
    """Read what *judge* is made of, without running it. Raises JudgeFileError."""
    if judge.asked:
        return rubric_source(judge)
    if judge.builtin:
        source = builtin_source(judge.function, judge.options)
    else:
        source = read_source(judge.file, judge.function, judge.options)
    return source if judge.of == "trace" else msgspec.structs.replace(source, credit=judge.credit)


def files_of(judge: JudgeConfig) -> tuple[Path, ...]:
    """The files that say how *judge* judges: one of them changes before its definition does."""
    if judge.builtin:
        return builtin_files(judge.function, judge.options)
    return (judge.watched,) if judge.watched is not None else ()
