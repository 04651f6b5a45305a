"""Judges and how they are run: settings.

Names of routes and upstreams are checked in `gateway.config.check`; files are read by the judges themselves.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from msgspec import Meta

from gateway.config.base import Name, Seconds, Strict, Usd

BUILTIN = "builtin"  # `builtin:NAME` in place of FILE.py:FUNCTION is a judge that comes with us
PYTHON_TIMEOUT_S = 5.0
LLM_TIMEOUT_S = 60.0
MAX_MEMBERS = 15
FILE_OPTION = (
    "_file"  # `schema_file: FILE` in place of `schema: …`: what is in that file, of a built-in judge
)

_PATH = re.compile(r"^(.+\.py|builtin):[A-Za-z_][A-Za-z0-9_]*$")
_LLM_FIELDS = ("rubric", "upstream", "model", "members", "against", "threshold")

# What a person takes upon themselves in so many words; every report then says so too.
Acceptance = Literal["uncalibrated_trains", "uncalibrated_gates", "weak_trains", "weak_gates"]


def is_file_option(name: str) -> bool:
    """Whether the option *name* of a built-in judge is a file whose content the judge takes."""
    return name.endswith(FILE_OPTION)


class Member(Strict, frozen=True, kw_only=True):
    """One model of a jury."""

    upstream: Name
    model: Name


class JudgeLimits(Strict, frozen=True, kw_only=True):
    """How fast and for how much a judge may judge. Absent: no bound.

    `concurrent` traces are judged at a time: by so many processes, or in so many calls of an LLM judge.
    """

    concurrent: Annotated[int, Meta(ge=1, le=256)] = 1
    per_minute: Annotated[float, Meta(gt=0)] | None = None  # traces
    usd_per_day: Usd | None = None  # of UTC; what judging costs at the prices of the upstreams


class Credit(Strict, frozen=True, kw_only=True):
    """How the score of a session is given to its turns.

    `last`: to the last turn alone; `all`: to each; `discounted`: the last one gets it whole, each turn before
    it `gamma` times what the turn after it got.
    """

    rule: Literal["last", "all", "discounted"] = "last"
    gamma: Annotated[float, Meta(gt=0, lt=1)] = 0.9


class JudgeConfig(Strict, frozen=True, kw_only=True):
    """A judge. `routes` absent: it judges every route.

    python: `path` is FILE.py:FUNCTION or builtin:NAME, `options` are arguments by name.
    llm: `rubric` is a file of criteria that `model` of `upstream` answers. pairwise: the same model compares
    the answer with what was kept, or the stable variant's, in both orders. jury: each of `members` answers.
    embedding: `model` of `upstream` embeds the answer and what it is compared with, and the score is how near
    they are; with `threshold`, a cosine, whether they are that near.
    `of: session` shows the judge a whole session, once nothing was added to it for `session_idle_s`.
    """

    name: Name
    kind: Literal["python", "llm", "pairwise", "jury", "embedding"] = "python"
    path: str | None = None
    options: dict[str, Any] = {}
    timeout_s: Seconds | None = None  # for one trace; absent: 5, of an LLM judge 60
    memory_mb: Annotated[int, Meta(ge=128)] = 4096  # of address space, for the process that runs it
    routes: list[str] | None = None
    rubric: Path | None = None
    upstream: Name | None = None
    model: Name | None = None
    members: Annotated[list[Member], Meta(max_length=MAX_MEMBERS)] = []
    against: Literal["kept", "stable"] = "kept"
    threshold: Annotated[float, Meta(gt=-1, le=1)] | None = None
    of: Literal["trace", "session"] = "trace"
    credit: Credit = Credit()
    session_idle_s: Seconds = 600
    limits: JudgeLimits = JudgeLimits()
    accept: list[Acceptance] = []

    def __post_init__(self) -> None:
        if self.kind == "python":
            self._check_python()
            return
        if self.path is not None or self.options:
            raise ValueError(f"judge {self.name!r} is of kind {self.kind}: path and options are python's")
        if self.kind == "embedding" and self.rubric is not None:
            raise ValueError(f"judge {self.name!r} is of kind embedding: no rubric is read by it")
        if self.kind != "embedding" and self.rubric is None:
            raise ValueError(f"judge {self.name!r} is of kind {self.kind} and needs a rubric file")
        if self.kind != "embedding" and self.threshold is not None:
            raise ValueError(f"judge {self.name!r} is of kind {self.kind}: threshold is embedding's")
        alone = self.upstream is not None and self.model is not None
        if self.kind == "jury":
            if len(self.members) < 2 or self.upstream is not None or self.model is not None:
                raise ValueError(
                    f"judge {self.name!r}: a jury has two or more members and no model of its own"
                )
        elif not alone or self.members:
            raise ValueError(f"judge {self.name!r} is of kind {self.kind} and needs upstream and model")
        if self.kind in {"pairwise", "embedding"} and self.of == "session":
            raise ValueError(f"judge {self.name!r}: pairs are of answers, not of sessions")

    def _check_python(self) -> None:
        if self.path is None or not _PATH.match(self.path):
            shown = "" if self.path is None else f" {self.path!r}"
            raise ValueError(f"judge {self.name!r}: path{shown} is not FILE.py:FUNCTION or builtin:NAME")
        told = (self.rubric, self.upstream, self.model, self.threshold)
        if self.members or any(value is not None for value in told):
            raise ValueError(
                f"judge {self.name!r} is of kind python: {', '.join(_LLM_FIELDS)} are of LLM judges"
            )

    @property
    def within_s(self) -> float:
        """How long one trace may take."""
        if self.timeout_s is not None:
            return self.timeout_s
        return PYTHON_TIMEOUT_S if self.kind == "python" else LLM_TIMEOUT_S

    @property
    def builtin(self) -> bool:
        """Whether it comes with us."""
        return self.path is not None and self.path.startswith(f"{BUILTIN}:")

    @property
    def file(self) -> Path:
        """Of a python judge, the user's file."""
        assert self.path is not None
        return Path(self.path.rpartition(":")[0])

    @property
    def function(self) -> str:
        """Of a python judge, the function in its file, or the name of the built-in one."""
        assert self.path is not None
        return self.path.rpartition(":")[2]

    @property
    def watched(self) -> Path | None:
        """The file whose every change makes a new version of it; None where there is none."""
        if self.rubric is not None:
            return self.rubric
        return None if self.path is None or self.builtin else self.file

    @property
    def made_of(self) -> str:
        """What it is, for people: `my_judges.py:resolved`, `rubric.yaml by gpt-4o of openai`."""
        if self.path is not None:
            return self.path if self.builtin else f"{self.file.name}:{self.function}"
        models = ", ".join(f"{member.model} of {member.upstream}" for member in self.asked)
        return f"{self.rubric.name if self.rubric is not None else self.kind} by {models}"

    @property
    def asked(self) -> tuple[Member, ...]:
        """The models that it asks; none of a python judge."""
        if self.upstream is not None and self.model is not None:
            return (Member(upstream=self.upstream, model=self.model),)
        return tuple(self.members)

    @property
    def upstreams(self) -> tuple[str, ...]:
        """Names of those that it shows text to."""
        return tuple(dict.fromkeys(member.upstream for member in self.asked))


class Judging(Strict, frozen=True, kw_only=True):
    """What runs judges: processes of this machine, or actors of a Ray cluster (the extra `ray`).

    `ray_address` absent: a cluster of this machine alone is started.
    """

    executor: Literal["local", "ray"] = "local"
    ray_address: str | None = None
