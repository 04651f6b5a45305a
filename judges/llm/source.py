"""What a judge that asks a model is made of: whatever changes its verdicts changes its version."""

from __future__ import annotations

import hashlib

import msgspec

from gateway.config import JudgeConfig
from gateway.config.judges import Credit
from judges.llm.prompts import PROMPT_VERSION
from judges.llm.rubric import Rubric, parse_rubric, read_rubric
from judges.load import VERSION_CHARS


class RubricSource(msgspec.Struct, frozen=True, kw_only=True):
    """The bytes of a rubric (none of an embedding judge), and which models answer it how.

    `models` are pairs of upstream and model, in the order of the configuration.
    """

    file: str
    content: bytes
    kind: str
    models: tuple[tuple[str, str], ...]
    against: str = ""  # of a pairwise or embedding judge
    threshold: float | None = None
    prompts: str = PROMPT_VERSION
    credit: Credit | None = None  # of a judge of sessions

    @property
    def version(self) -> str:
        """Twelve hex digits of the SHA-256 over all of it but the file's name."""
        parts = msgspec.json.encode(
            [self.kind, self.models, self.against, self.threshold, self.prompts], order="deterministic"
        )
        credit = b"" if self.credit is None else msgspec.json.encode(self.credit)
        return hashlib.sha256(parts + b"\0" + self.content + credit).hexdigest()[:VERSION_CHARS]

    @property
    def rubric(self) -> Rubric:
        """What the file says. Raises JudgeFileError naming the place."""
        return parse_rubric(self.content, self.file)


def rubric_source(judge: JudgeConfig) -> RubricSource:
    """Read what *judge* is made of. Raises JudgeFileError for a rubric that cannot be used."""
    source = RubricSource(
        file=str(judge.rubric) if judge.rubric is not None else "",
        content=read_rubric(judge.rubric) if judge.rubric is not None else b"",
        kind=judge.kind,
        models=tuple((member.upstream, member.model) for member in judge.asked),
        against=judge.against if judge.kind in {"pairwise", "embedding"} else "",
        threshold=judge.threshold,
        credit=judge.credit if judge.of == "session" else None,
    )
    if judge.rubric is not None:
        parse_rubric(source.content, source.file)
    return source
