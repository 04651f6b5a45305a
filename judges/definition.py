"""What a judge is made of, read once: whatever changes its verdicts changes its version."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import msgspec

from gateway.config import JudgeConfig
from judges.builtin.source import builtin_files, builtin_source
from judges.errors import JudgeFileError
from judges.llm.source import RubricSource, rubric_source
from judges.load import JudgeSource, read_source

Definition = JudgeSource | RubricSource


def definition_of(judge: JudgeConfig) -> Definition:
    """Read what *judge* is made of, without running it. Raises JudgeFileError."""
    if judge.asked:
        return rubric_source(judge)
    if judge.builtin:
        source = builtin_source(judge.function, judge.options)
        _check_idle(judge, source)
    else:
        source = read_source(judge.file, judge.function, judge.options)
    return source if judge.of == "trace" else msgspec.structs.replace(source, credit=judge.credit)


def _check_idle(judge: JudgeConfig, source: JudgeSource) -> None:
    """A last turn is judged once: a judge that waits longer than its runner would never speak of it."""
    function = getattr(import_module(f"judges.builtin.{Path(source.file).stem}"), source.function)
    idle_s = ({**(function.__kwdefaults__ or {}), **source.options}).get("idle_s")
    if idle_s is not None and idle_s > judge.session_idle_s:
        raise JudgeFileError(
            f"builtin:{judge.function}: option 'idle_s' is {idle_s:g} and the judge's session_idle_s "
            f"{judge.session_idle_s:g}; make idle_s no longer, or session_idle_s longer"
        )


def files_of(judge: JudgeConfig) -> tuple[Path, ...]:
    """The files that say how *judge* judges: one of them changes before its definition does."""
    if judge.builtin:
        return builtin_files(judge.function, judge.options)
    return (judge.watched,) if judge.watched is not None else ()
