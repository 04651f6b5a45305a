"""Pairs, juries and embeddings: what several answers come to, and when they come to nothing."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from gateway.config import Member, Price
from judges.llm.detail import CriterionDetail, MemberDetail
from judges.llm.rubric import parse_rubric
from judges.llm.scores import cosine, jury_score
from tests.support.asking import RUBRIC, a_config, a_judge, a_task, better, said, says, verdicts
from tests.support.upstream import Received, Reply, Script, ScriptedUpstream, answers, answers_status

GOOD, BAD = "Order 7 is on its way.", "I do not know."


def in_favour_of(text: str) -> Script:
    """Prefers *text* wherever it stands."""

    def decide(asked: str) -> str:
        material = json.loads(next(line for line in asked.splitlines() if line.startswith('{"conversation"')))
        return better("first" if material["first"] == text else "second")

    return says(decide)


def pair(folder: Path, upstream: ScriptedUpstream, answer: str = GOOD, kept: str | None = BAD) -> Any:
    judge = a_judge(folder, kind="pairwise")
    return verdicts(a_config(upstream.base_url), judge, a_task(answer, kept=kept))[0]


@pytest.mark.parametrize(("preferred", "score"), [(GOOD, 1.0), (BAD, 0.0)])
def test_a_pair_is_asked_in_both_orders_and_what_both_say_counts(
    tmp_path: Path, upstream: ScriptedUpstream, preferred: str, score: float
) -> None:
    upstream.default = in_favour_of(preferred)
    answer = pair(tmp_path, upstream)

    assert answer.score == score
    assert len(upstream.received) == 2
    assert [order["first"] for order in json.loads(answer.detail)["orders"]] == ["answer", "other"]


def test_a_tie_in_both_orders_is_half(tmp_path: Path, upstream: ScriptedUpstream) -> None:
    upstream.default = answers(better("tie"))

    assert pair(tmp_path, upstream).score == 0.5


@pytest.mark.parametrize("place", ["first", "second"])
def test_a_judge_that_prefers_a_place_abstains_and_says_so(
    tmp_path: Path, upstream: ScriptedUpstream, place: str
) -> None:
    upstream.default = answers(better(place))
    answer = pair(tmp_path, upstream)

    assert (answer.score, answer.reason) == (None, f"prefers the {place} place: order-inconsistent")


@pytest.mark.parametrize("replies", [("tie", "first"), ("second", "tie")], ids=["tie first", "tie last"])
def test_a_tie_in_one_order_alone_is_an_abstention(
    tmp_path: Path, upstream: ScriptedUpstream, replies: tuple[str, str]
) -> None:
    upstream.then(*[answers(better(reply)) for reply in replies])
    answer = pair(tmp_path, upstream)

    assert answer.score is None
    assert answer.reason.endswith("order-inconsistent")


def test_a_pair_that_is_off_the_menu_is_an_abstention(tmp_path: Path, upstream: ScriptedUpstream) -> None:
    upstream.then(answers(better("first")), answers("second, as the answer says"))

    assert "off the menu" in pair(tmp_path, upstream).reason


def test_equal_answers_are_half_and_nobody_is_asked(tmp_path: Path, upstream: ScriptedUpstream) -> None:
    answer = pair(tmp_path, upstream, kept=f" {GOOD}\n")

    assert (answer.score, answer.cost_usd, upstream.received) == (0.5, None, [])


def test_a_pair_without_another_answer_is_an_abstention(tmp_path: Path, upstream: ScriptedUpstream) -> None:
    answer = pair(tmp_path, upstream, kept=None)

    assert (answer.score, answer.reason) == (None, "nobody said what was kept")
    assert upstream.received == []


MEMBERS = [Member(upstream="judging", model=f"m{number}") for number in range(3)]


def by_model(**replies: str) -> Script:
    """Each model answers each criterion with its own word; `broken` does not answer."""

    async def script(received: Received, reply: Reply) -> None:
        word = replies[received.json()["model"]]
        await (answers_status(400) if word == "broken" else answers(said(word)))(received, reply)

    return script


def jury(folder: Path, upstream: ScriptedUpstream, members: list[Member] = MEMBERS, **entry: Any) -> Any:
    judge = a_judge(folder, kind="jury", upstream=None, model=None, members=members)
    return verdicts(a_config(upstream.base_url, **entry), judge, a_task())[0]


def test_a_jurys_score_is_the_mean_of_its_members(tmp_path: Path, upstream: ScriptedUpstream) -> None:
    upstream.default = by_model(m0="yes", m1="yes", m2="no")
    prices = [Price(model=member.model, input=1, output=1) for member in MEMBERS]
    answer = jury(tmp_path, upstream, prices=prices)

    assert answer.score == pytest.approx(2 / 3)
    detail = json.loads(answer.detail)
    assert [(member["model"], member["score"]) for member in detail["members"]] == [
        ("m0", 1),
        ("m1", 1),
        ("m2", 0),
    ]
    assert [criterion["name"] for criterion in detail["members"][2]["criteria"]] == ["polite", "correct"]
    assert answer.cost_usd == pytest.approx(6 * 13 / 1e6)


def test_members_that_abstain_are_left_out_and_counted(tmp_path: Path, upstream: ScriptedUpstream) -> None:
    upstream.default = by_model(m0="yes", m1="unsure", m2="yes")
    answer = jury(tmp_path, upstream)

    assert answer.score == 1.0
    detail = json.loads(answer.detail)
    assert detail["abstained"] == 1
    assert detail["members"][1]["reason"] == "no answer to polite (unsure), correct (unsure)"


def test_fewer_than_half_of_a_jury_is_no_verdict(tmp_path: Path, upstream: ScriptedUpstream) -> None:
    upstream.default = by_model(m0="yes", m1="unsure", m2="broken")
    answer = jury(tmp_path, upstream)

    assert (answer.score, answer.reason) == (None, "only 1 of 3 members answered")
    assert "status 400" in json.loads(answer.detail)["members"][2]["reason"]


def test_an_even_split_is_no_verdict(tmp_path: Path, upstream: ScriptedUpstream) -> None:
    upstream.default = by_model(m0="yes", m1="no")
    answer = jury(tmp_path, upstream, MEMBERS[:2])

    assert (answer.score, answer.reason) == (None, "members split evenly on polite: 1 to 1")


def test_a_jury_never_scores_against_the_majority_of_its_members() -> None:
    rubric, chance = parse_rubric(RUBRIC.encode(), "r"), random.Random(7)
    for _ in range(500):
        members = []
        for _ in range(chance.randint(2, 7)):
            met = chance.choice([True, False, None])
            criteria = [CriterionDetail(name=c.name, answer="yes", met=met) for c in rubric.criteria]
            score = None if met is None else float(met)
            members.append(MemberDetail(upstream="u", model="m", score=score, criteria=criteria))
        scores = [member.score for member in members if member.score is not None]
        score, reason = jury_score(rubric, members)
        if score is None:
            assert reason
            assert 2 * len(scores) < len(members) or not scores or sum(scores) * 2 == len(scores)
        else:
            assert score == pytest.approx(sum(scores) / len(scores))
            assert score != 0.5


def embeds(*vectors: list[float]) -> Script:
    async def script(received: Received, reply: Reply) -> None:
        data = [{"object": "embedding", "index": i, "embedding": v} for i, v in enumerate(vectors)]
        usage = {"prompt_tokens": 20, "total_tokens": 20}
        body = {"object": "list", "model": "e", "data": data[::-1], "usage": usage}
        await reply.whole(json.dumps(body).encode(), 200, ("content-type", "application/json"))

    return script


def near(folder: Path, upstream: ScriptedUpstream, **changes: Any) -> Any:
    judge = a_judge(folder, kind="embedding", **changes)
    prices = [Price(model="judge-model", input=1, output=0)]
    task = a_task(GOOD, kept=BAD)
    return verdicts(a_config(upstream.base_url, prices=prices), judge, task)[0]


def test_an_embedding_judge_scores_how_near_the_answer_is_to_what_was_kept(
    tmp_path: Path, upstream: ScriptedUpstream
) -> None:
    upstream.default = embeds([3, 4], [4, 3])
    answer = near(tmp_path, upstream)

    assert answer.score == pytest.approx((24 / 25 + 1) / 2)
    assert json.loads(answer.detail)["cosine"] == pytest.approx(24 / 25)
    assert (answer.tokens_in, answer.tokens_out) == (20, 0)
    assert answer.cost_usd == pytest.approx(20 / 1e6)
    (received,) = upstream.received
    assert received.target == "/v1/embeddings"
    assert received.json()["input"] == [GOOD, BAD]


@pytest.mark.parametrize(("threshold", "score"), [(0.9, 1.0), (0.97, 0.0)])
def test_with_a_threshold_it_says_whether_they_are_that_near(
    tmp_path: Path, upstream: ScriptedUpstream, threshold: float, score: float
) -> None:
    upstream.default = embeds([3, 4], [4, 3])

    assert near(tmp_path, upstream, threshold=threshold).score == score


@pytest.mark.parametrize(
    "vectors",
    [[[0, 0], [1, 0]], [[1, 0]], [[1, 0], [1, 0, 0]], [[1, 0], [1, 0], [1, 0]]],
    ids=["zero", "one", "lengths", "three"],
)
def test_embeddings_that_say_nothing_are_an_abstention(
    tmp_path: Path, upstream: ScriptedUpstream, vectors: list[list[float]]
) -> None:
    upstream.default = embeds(*vectors)
    answer = near(tmp_path, upstream)

    assert answer.score is None
    assert "embedding" in answer.reason


def test_a_cosine_is_in_its_range_however_large_the_numbers() -> None:
    assert cosine([1e200, 0], [1e200, 0]) is None
    assert cosine([1, 0], [-1, 0]) == -1
    assert cosine([0.1] * 3, [0.1] * 3) == pytest.approx(1)
