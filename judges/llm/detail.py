"""What stands behind a score, as it is stored in `judgments.detail`: JSON of one of these, texts bounded."""

from __future__ import annotations

from typing import Literal

import msgspec

Said = Literal["yes", "no", "unsure", "off the menu"]


class CriterionDetail(msgspec.Struct, frozen=True, kw_only=True):
    """One criterion. `met`: None where it has no answer; `quoted`: the quote stands in the material."""

    name: str
    answer: Said
    met: bool | None
    quote: str = ""
    quoted: bool = False
    why: str = ""


class MemberDetail(msgspec.Struct, frozen=True, kw_only=True):
    """One model's answers to a rubric; `reason` where it abstained."""

    upstream: str
    model: str
    score: float | None
    reason: str = ""
    criteria: list[CriterionDetail] = []


class OrderDetail(msgspec.Struct, frozen=True, kw_only=True):
    """One order of a pair: which was shown first, and which was found better; None: off the menu."""

    first: Literal["answer", "other"]
    better: Literal["answer", "other", "tie"] | None
    quote: str = ""
    why: str = ""


class Detail(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Of an LLM judge `criteria`, of a jury `members`, of a pair `orders`, of an embedding `cosine`."""

    criteria: list[CriterionDetail] = []
    members: list[MemberDetail] = []
    abstained: int = 0  # of the members
    orders: list[OrderDetail] = []
    against: str = ""
    cosine: float | None = None

    def encoded(self) -> str:
        return msgspec.json.encode(self).decode()
