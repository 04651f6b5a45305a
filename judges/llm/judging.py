"""How each kind of judge that asks comes to its verdict on one trace: questions one after another."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from gateway.traces.types import Trace
from judges.llm.asking import Model, NoReplyError, Reply
from judges.llm.detail import CriterionDetail, Detail, MemberDetail, OrderDetail, Said
from judges.llm.fence import escaped, new_boundary
from judges.llm.material import answer_material, answer_text, pair_material, session_material
from judges.llm.menu import CriterionReply, PairReply, is_quoted, read_reply
from judges.llm.prompts import Messages, criterion_messages, pair_messages
from judges.llm.rubric import Criterion, Rubric
from judges.llm.scores import EQUAL, Scored, cosine, jury_score, nearness, pair_score, rubric_score
from judges.trace import JudgedTrace, judged_trace
from judges.wire import Task

OFF_MENU: Said = "off the menu"
MAX_EMBEDDED_CHARS = 100_000  # of one text; models of embeddings take a few thousand tokens


class Ledger:
    """What the calls for one trace have taken so far. Unknown makes a sum unknown; no call costs nothing."""

    def __init__(self) -> None:
        self._replies: list[Reply] = []

    def add(self, reply: Reply) -> Reply:
        self._replies.append(reply)
        return reply

    def taken(self) -> dict[str, Any]:
        """Fields of an Answer: cost_usd, tokens_in, tokens_out."""
        return {name: self._sum(name) for name in ("cost_usd", "tokens_in", "tokens_out")}

    def _sum(self, name: str) -> Any:
        values = [getattr(reply, name) for reply in self._replies]
        return None if not values or None in values else sum(values)


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """One trace to judge; `stable`: what the stable variant answered, where that is looked for and found."""

    task: Task
    trace: JudgedTrace
    stable: Trace | None = None


Verdict = tuple[Scored, Detail]
Judging = Callable[[Asked, Ledger], Awaitable[Verdict]]


def by_rubric(model: Model, rubric: Rubric) -> Judging:
    """One model answers each criterion."""

    async def judge(asked: Asked, ledger: Ledger) -> Verdict:
        answers = await _answers(model, rubric, _material(asked), ledger)
        return rubric_score(rubric, answers), Detail(criteria=answers)

    return judge


def by_jury(models: list[Model], rubric: Rubric) -> Judging:
    """Each model answers each criterion. A member that cannot be asked has abstained."""

    async def judge(asked: Asked, ledger: Ledger) -> Verdict:
        material = _material(asked)
        members = [await _member(model, rubric, material, ledger) for model in models]
        abstained = sum(member.score is None for member in members)
        return jury_score(rubric, members), Detail(members=members, abstained=abstained)

    return judge


def by_pair(model: Model, rubric: Rubric, against: str) -> Judging:
    """The answer against another one, in both orders."""

    async def judge(asked: Asked, ledger: Ledger) -> Verdict:
        other, why = _other(asked, against)
        if other is None:
            return Scored(None, why), Detail(against=against)
        answer = answer_text(asked.trace)
        if answer.strip() == other.strip():
            return Scored(EQUAL), Detail(against=against)
        shown_first = pair_material(asked.trace, answer, other)
        shown_second = pair_material(asked.trace, other, answer)
        orders = [
            await _order(model, rubric, shown_first, "answer", ledger),
            await _order(model, rubric, shown_second, "other", ledger),
        ]
        return pair_score(orders), Detail(against=against, orders=orders)

    return judge


def by_embedding(model: Model, against: str, threshold: float | None) -> Judging:
    """How near the answer is to another one."""

    async def judge(asked: Asked, ledger: Ledger) -> Verdict:
        other, why = _other(asked, against)
        if other is None:
            return Scored(None, why), Detail(against=against)
        texts = [answer_text(asked.trace), other]
        if not all(text.strip() for text in texts):
            return Scored(None, "one of the two texts is empty, and has no embedding"), Detail(
                against=against
            )
        if (longest := max(map(len, texts))) > MAX_EMBEDDED_CHARS:
            why = f"a text of {longest} characters is longer than {MAX_EMBEDDED_CHARS}"
            return Scored(None, why), Detail(against=against)
        near = cosine(*ledger.add(await model.embed(texts)).vectors)
        if near is None:
            return Scored(None, f"an embedding by {model.name} has no direction"), Detail(against=against)
        return Scored(nearness(near, threshold)), Detail(against=against, cosine=near)

    return judge


def _material(asked: Asked) -> dict[str, Any]:
    return session_material(asked.task, asked.trace) if asked.task.session else answer_material(asked.trace)


def _other(asked: Asked, against: str) -> tuple[str | None, str]:
    """What the answer is compared with, or None and why there is nothing."""
    if against == "kept":
        return asked.trace.kept, "nobody said what was kept"
    if asked.stable is None:
        return None, "the stable variant has no answer to the same prompt"
    return answer_text(judged_trace(asked.stable)), ""


async def _member(model: Model, rubric: Rubric, material: dict[str, Any], ledger: Ledger) -> MemberDetail:
    try:
        answers = await _answers(model, rubric, material, ledger)
    except NoReplyError as error:
        return MemberDetail(upstream=model.upstream, model=model.model, score=None, reason=str(error))
    scored = rubric_score(rubric, answers)
    return MemberDetail(
        upstream=model.upstream,
        model=model.model,
        score=scored.score,
        reason=scored.reason,
        criteria=answers,
    )


async def _answers(
    model: Model, rubric: Rubric, material: dict[str, Any], ledger: Ledger
) -> list[CriterionDetail]:
    return [await _criterion(model, rubric, each, material, ledger) for each in rubric.criteria]


async def _criterion(
    model: Model, rubric: Rubric, criterion: Criterion, material: dict[str, Any], ledger: Ledger
) -> CriterionDetail:
    messages = criterion_messages(rubric, criterion, material, new_boundary())
    said = await _said(model, messages, ledger, CriterionReply)
    if said is None:
        return CriterionDetail(name=criterion.name, answer=OFF_MENU, met=None)
    return CriterionDetail(
        name=criterion.name,
        answer=said.answer,
        met=None if said.answer == "unsure" else said.answer == criterion.good_answer,
        quote=said.quote,
        quoted=any(is_quoted(said.quote, text) for text in _texts(material)),
        why=said.why,
    )


async def _order(
    model: Model, rubric: Rubric, material: dict[str, Any], first: Any, ledger: Ledger
) -> OrderDetail:
    said = await _said(model, pair_messages(rubric, material, new_boundary()), ledger, PairReply)
    if said is None:
        return OrderDetail(first=first, better=None)
    second = "other" if first == "answer" else "answer"
    better: Any = {"first": first, "second": second, "tie": "tie"}[said.better]
    return OrderDetail(first=first, better=better, quote=said.quote, why=said.why)


async def _said(model: Model, messages: Messages, ledger: Ledger, kind: Any) -> Any:
    reply = ledger.add(await model.reply(messages))
    return None if reply.cut else read_reply(reply.text, kind)


def _texts(material: Any) -> list[str]:
    """Every text in *material*, however deep, and as a model saw it."""
    if isinstance(material, str):
        return [material, escaped(material)]
    inner = (
        material.values() if isinstance(material, dict) else material if isinstance(material, list) else ()
    )
    return [text for each in inner for text in _texts(each)]
