"""What a judge is made of, read once: whatever changes its verdicts changes its version."""

from __future__ import annotations

import msgspec

from gateway.config import JudgeConfig
from judges.load import JudgeSource, read_source

Definition = JudgeSource


def definition_of(judge: JudgeConfig) -> Definition:
    """Read what *judge* is made of, without running it. Raises JudgeFileError."""
    source = read_source(judge.file, judge.function, judge.options)
    return source if judge.of == "trace" else msgspec.structs.replace(source, credit=judge.credit)
