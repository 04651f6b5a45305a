from __future__ import annotations

from itertools import islice

from hypothesis import given
from hypothesis import strategies as st

from demo.messages import SYSTEM_PROMPT, messages
from learner.evaluation import ALL, CUT_SHORT, Verdict, few_shot, report, with_examples
from learner.generate import Answer
from learner.types import Example, HoldoutRow
from tests.learner.traffic import trace_of

TRACES = [trace_of(message, number) for number, message in enumerate(islice(messages(9), 30))]


def a_verdict(trace_id: str, score: float | None, *, stopped: bool = True) -> Verdict:
    answer = Answer(trace_id=trace_id, text="{}", stopped=stopped, tokens_in=10, tokens_out=4, seconds=0.5)
    return Verdict(score=score, reason="" if stopped else CUT_SHORT, answer=answer)


def holdout() -> list[HoldoutRow]:
    return [
        HoldoutRow(
            trace=trace,
            feedback=[],
            prompt=[{"role": "user", "content": "hi"}],
            score=1.0,
            slice="rest" if number % 3 else "template=unseen",
        )
        for number, trace in enumerate(TRACES)
    ]


def evaluated(candidate: list[float | None], stable: list[float | None]):
    ids = [trace.trace_id for trace in TRACES]
    verdicts = {
        arm: {key: a_verdict(key, score) for key, score in zip(ids, scores, strict=False)}
        for arm, scores in {"candidate": candidate, "base": [0.0] * 30, "stable": stable}.items()
    }
    return report(holdout(), verdicts, dataset="d", judge="j", version="v", few_shot=4)


scores = st.lists(st.sampled_from([0.0, 1.0, None]), min_size=30, max_size=30)


@given(scores, scores)
def test_every_prompt_of_both_arms_is_a_win_a_loss_a_tie_or_has_an_abstention(candidate, stable) -> None:
    evaluation = evaluated(candidate, stable)
    for slice_name in (ALL, "rest", "template=unseen"):
        pair = evaluation.pair("stable", slice_name)
        assert pair is not None
        rows = [n for n, row in enumerate(holdout()) if slice_name in {ALL, row.slice}]
        missing = sum(candidate[n] is None or stable[n] is None for n in rows)
        assert pair.wins + pair.losses + pair.ties + missing == len(rows)


def test_an_abstention_is_missing_and_never_zero() -> None:
    evaluation = evaluated([None] * 10 + [1.0] * 20, [1.0] * 30)
    arm = next(a for a in evaluation.arms if (a.arm, a.slice) == ("candidate", ALL))
    assert (arm.score.value, arm.score.n, arm.abstained) == (1.0, 20, 10)


def test_stable_is_compared_only_where_it_answered() -> None:
    evaluation = evaluated([1.0] * 30, [1.0] * 12)
    stable, base = evaluation.pair("stable"), evaluation.pair("base")
    assert stable is not None
    assert base is not None
    assert (stable.difference.n, base.difference.n) == (12, 30)


def test_wins_and_losses_are_shown_with_both_answers() -> None:
    evaluation = evaluated([1.0] * 10 + [0.0] * 20, [0.0] * 10 + [1.0] * 20)
    assert len(evaluation.wins) == len(evaluation.losses) == 5
    assert all(shown.score > shown.other_score for shown in evaluation.wins)


def test_examples_for_the_base_model_differ_and_stand_after_the_system_prompt() -> None:
    stream = islice(messages(9), 200)
    examples = [
        Example(
            traces=[f"t{number}"],
            prompt=[{"role": "system", "content": SYSTEM_PROMPT}, {"role": "user", "content": message.text}],
            completion=[{"role": "assistant", "content": message.ticket.json()}],
            score=1.0,
        )
        for number, message in enumerate(stream)
    ]
    chosen = few_shot(examples, 4)
    intents = {example.completion[0]["content"].split(",")[0] for example in chosen}
    assert len(intents) == 4
    prompt = with_examples(
        [{"role": "system", "content": SYSTEM_PROMPT}, {"role": "user", "content": "last"}], chosen
    )
    assert [turn["role"] for turn in prompt] == ["system", *["user", "assistant"] * 4, "user"]
    assert prompt[-1]["content"] == "last"
    assert few_shot(examples[:2], 4) == few_shot(examples[:2], 2), "fewer than asked for are enough"
