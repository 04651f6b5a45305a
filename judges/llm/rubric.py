"""A rubric: what the judged model is for, and questions of yes or no that say how good its answer is."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta

from gateway.config.base import Name, Strict
from gateway.config.load import parse_yaml
from gateway.errors import ConfigError
from judges.errors import JudgeFileError

MAX_RUBRIC_BYTES = 200_000
MAX_CRITERIA = 20  # each is a call of its own
Text = Annotated[str, Meta(min_length=1, max_length=10_000)]


class Criterion(Strict, frozen=True, kw_only=True):
    """One question about an answer. `good`: which of yes and no speaks for it.

    `required`: an answer that fails it scores 0, whatever else it meets.
    """

    name: Name
    question: Text
    good: Literal["yes", "no"] | bool = "yes"  # unquoted, YAML reads yes and no as true and false
    weight: Annotated[float, Meta(gt=0, le=1_000_000)] = 1.0
    required: bool = False

    @property
    def good_answer(self) -> Literal["yes", "no"]:
        """The answer that meets it."""
        if isinstance(self.good, bool):
            return "yes" if self.good else "no"
        return self.good


class Rubric(Strict, frozen=True, kw_only=True):
    """`task`: what the judged model was asked to do, in words for whoever judges it."""

    task: Text
    criteria: Annotated[list[Criterion], Meta(min_length=1, max_length=MAX_CRITERIA)]

    def __post_init__(self) -> None:
        names = [criterion.name for criterion in self.criteria]
        repeated = next((name for name in names if names.count(name) > 1), None)
        if repeated is not None:
            raise ValueError(f"two criteria are named {repeated!r}; give each a name of its own")


def read_rubric(file: Path) -> bytes:
    """The bytes of a rubric file. Raises JudgeFileError for one that cannot be read."""
    try:
        if file.stat().st_size > MAX_RUBRIC_BYTES:
            raise JudgeFileError(f"{file}: larger than {MAX_RUBRIC_BYTES} bytes, not a rubric")
        return file.read_bytes()
    except FileNotFoundError as error:
        raise JudgeFileError(f"{file}: no such file; write the rubric there or correct its path") from error
    except OSError as error:
        raise JudgeFileError(f"{file}: cannot be read: {error.strerror}") from error


def parse_rubric(content: bytes, file: str) -> Rubric:
    """The rubric in *content*. Raises JudgeFileError naming *file*, the place in it and what is wrong."""
    try:
        return parse_yaml(content.decode("utf-8"), Rubric, file)
    except UnicodeDecodeError as error:
        raise JudgeFileError(f"{file}: not UTF-8 at byte {error.start}; save it as UTF-8") from error
    except ConfigError as error:
        raise JudgeFileError(str(error)) from error


def weighted(met: dict[str, bool], rubric: Rubric) -> float:
    """The share of *rubric*'s weight that the criteria *met* have; 0 where a required one is not met."""
    if any(criterion.required and not met[criterion.name] for criterion in rubric.criteria):
        return 0.0
    total = sum(criterion.weight for criterion in rubric.criteria)
    return sum(criterion.weight for criterion in rubric.criteria if met[criterion.name]) / total
