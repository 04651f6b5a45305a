from __future__ import annotations

import itertools

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config import JudgeConfig
from gateway.config.judges import Credit
from judges.credit import ELSEWHERE, credited

SCORES = st.floats(0, 1)
TURNS = st.integers(1, 300)
RULES = st.builds(
    Credit,
    rule=st.sampled_from(["last", "all", "discounted"]),
    gamma=st.floats(0, 1, exclude_min=True, exclude_max=True),
)


@given(RULES, TURNS, SCORES)
def test_every_turn_gets_a_score_or_an_abstention_with_a_reason_and_the_last_gets_the_whole(
    credit: Credit, turns: int, score: float
):
    given_to = credited(credit, turns, score, "")
    assert len(given_to) == turns
    assert given_to[-1] == (score, "")
    for got, reason in given_to:
        assert (got is None and reason) or (got is not None and 0 <= got <= score)


@given(RULES, TURNS)
def test_who_abstains_on_a_session_abstains_on_every_turn_and_gives_nobody_a_zero(credit: Credit, turns: int):
    assert credited(credit, turns, None, "too short") == [(None, "too short")] * turns


@given(TURNS, SCORES, st.floats(0.01, 0.99))
def test_each_rule_gives_what_it_says(turns: int, score: float, gamma: float):
    assert credited(Credit(rule="last"), turns, score, "")[:-1] == [(None, ELSEWHERE)] * (turns - 1)
    assert credited(Credit(rule="all"), turns, score, "") == [(score, "")] * turns
    discounted = [got for got, _ in credited(Credit(rule="discounted", gamma=gamma), turns, score, "")]
    for before, after in itertools.pairwise(discounted):
        assert before is not None
        assert after is not None
        assert before == pytest.approx(gamma * after)


def test_another_rule_is_another_version_as_it_changes_the_verdicts(write_judge):
    from judges.definition import definition_of

    def version(**settings) -> str:
        judge: JudgeConfig = write_judge("def good(trace):\n    return True\n", **settings)
        return definition_of(judge).version

    versions = [
        version(),
        version(of="session"),
        version(of="session", credit={"rule": "all"}),
        version(of="session", credit={"rule": "discounted"}),
        version(of="session", credit={"rule": "discounted", "gamma": 0.5}),
    ]
    assert len(set(versions)) == len(versions)
    assert version(session_idle_s=5, of="session") == versions[1]
    assert version(credit={"rule": "all"}) == versions[0]
    assert msgspec.to_builtins(Credit()) == {"rule": "last", "gamma": 0.9}
