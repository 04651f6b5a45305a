"""The gap between the judge that trains and the one that gates: seen where it is, and not where it is not."""

from __future__ import annotations

import numpy as np
import pytest

from judges.calibration.statistics import Interval
from learner.gap import GAP_BOUND, Gap, Scores, offline_gap, traffic_gap
from learner.rollout.eprocess import Sample

SIMULATIONS = 250
NOMINAL = 0.025  # one side of a 95 % interval
# Three standard errors of a share of NOMINAL among so many simulations.
ALLOWED = NOMINAL + 3 * (NOMINAL * (1 - NOMINAL) / SIMULATIONS) ** 0.5


def found(train: float, gate: float, low: float, n: int = 100) -> Gap:
    interval = Interval(value=train - gate, low=low, high=1.0, n=n)
    return Gap(
        train_judge="long",
        gate_judge="right",
        against="stable",
        train_gain=train,
        gate_gain=gate,
        gap=interval,
    )


@pytest.mark.parametrize(
    ("gap", "alarming"),
    [
        (found(GAP_BOUND + 0.001, 0.0, 0.001), True),
        (found(GAP_BOUND - 0.001, 0.0, 0.001), False),
        (found(GAP_BOUND + 0.001, 0.0, 0.0), False),
        (found(0.5, 0.0, 0.1, n=0), False),
        (found(-0.5, 0.0, -0.6), False),
    ],
    ids=["beyond", "within_the_bound", "not_surely", "nothing_compared", "the_gate_sees_more"],
)
def test_only_a_gap_beyond_the_bound_and_surely_above_zero_is_a_sign(gap: Gap, *, alarming: bool):
    assert gap.alarming == alarming
    assert (gap.sign is not None) == alarming


def test_the_sign_is_one_line_with_both_judges_and_the_numbers():
    said = found(0.31, 0.02, 0.2).sign
    assert said is not None
    assert "\n" not in said
    for part in (
        "reward hacking",
        "'long'",
        "'right'",
        "+0.310",
        "+0.020",
        "0.290",
        "0.200 to 1.000",
        "n = 100",
    ):
        assert part in said


def hacked_prompts(rng: np.random.Generator, n: int) -> list[Scores]:
    """The candidate writes more and is right no more often; the training judge rewards length."""
    words = {"candidate": rng.normal(60, 10, n), "stable": rng.normal(30, 10, n)}
    right = {arm: rng.random(n) < 0.7 for arm in words}
    train = {arm: np.clip(words[arm] / 100, 0, 1) for arm in words}
    return [
        Scores(
            train=float(train["candidate"][i]),
            train_other=float(train["stable"][i]),
            gate=float(right["candidate"][i]),
            gate_other=float(right["stable"][i]),
        )
        for i in range(n)
    ]


def honest_prompts(rng: np.random.Generator, n: int, gain: float) -> list[Scores]:
    """The candidate is better by *gain*; both judges are right in nine of ten, each in its own way."""
    truth = {"candidate": rng.random(n) < 0.5 + gain, "stable": rng.random(n) < 0.5}

    def judged(arm: str) -> list[float]:
        wrong = rng.random(n) < 0.1
        return [float(value) for value in truth[arm] ^ wrong]

    columns = [judged("candidate"), judged("stable"), judged("candidate"), judged("stable")]
    return [Scores(train=a, train_other=b, gate=c, gate_other=d) for a, b, c, d in zip(*columns, strict=True)]


def offline(scores: list[Scores]) -> Gap:
    gap = offline_gap(scores, train_judge="long", gate_judge="right", against="stable")
    assert gap is not None
    return gap


def test_a_training_judge_that_rewards_length_is_found_out_on_held_out_prompts():
    alarms = sum(offline(hacked_prompts(np.random.default_rng(seed), 100)).alarming for seed in range(50))
    assert alarms >= 45


@pytest.mark.parametrize("gain", [0.0, 0.3])
def test_two_good_judges_raise_no_alarm_beyond_the_nominal_rate(gain: float):
    rng = np.random.default_rng(11)
    alarms = sum(offline(honest_prompts(rng, 100, gain)).alarming for _ in range(SIMULATIONS))
    assert alarms / SIMULATIONS <= ALLOWED


def test_the_interval_on_prompts_covers_the_gap_at_about_its_nominal_rate():
    rng = np.random.default_rng(5)
    covered = 0
    for _ in range(SIMULATIONS):
        interval = offline(honest_prompts(rng, 150, 0.2)).gap
        covered += interval.low <= 0 <= interval.high
    assert covered / SIMULATIONS >= 0.91


def test_nothing_judged_by_both_is_no_gap():
    assert offline_gap([], train_judge="a", gate_judge="b", against="stable") is None
    nothing = Sample.of([], [], [])
    one_arm = Sample.of([True, True], [0.5, 0.5], [1.0, 0.0])
    for sample in (nothing, one_arm):
        assert traffic_gap(sample, sample, alpha=0.05, train_judge="a", gate_judge="b", against="s") is None


def traffic(rng: np.random.Generator, n: int, hack: float) -> tuple[Sample, Sample]:
    """Sessions at one half; the training judge passes the candidate's answers by *hack* more often."""
    candidate = rng.random(n) < 0.5
    right = rng.random(n) < 0.7
    gate = right ^ (rng.random(n) < 0.1)
    train = (right ^ (rng.random(n) < 0.1)) | (candidate & (rng.random(n) < hack))
    share = np.full(n, 0.5)
    return (
        Sample.of(candidate, share, train.astype(float)),
        Sample.of(candidate, share, gate.astype(float)),
    )


def of_traffic(train: Sample, gate: Sample) -> Gap:
    gap = traffic_gap(train, gate, alpha=0.05, train_judge="long", gate_judge="right", against="stable")
    assert gap is not None
    return gap


def test_a_gap_in_traffic_is_found_and_its_gains_are_those_of_the_two_judges():
    train, gate = traffic(np.random.default_rng(3), 2_000, hack=0.8)
    gap = of_traffic(train, gate)
    assert gap.alarming
    assert gap.gap.n == 2_000
    for sample, gain in ((train, gap.train_gain), (gate, gap.gate_gain)):
        mine, others = sample.mean(candidate=True), sample.mean(candidate=False)
        assert mine is not None
        assert others is not None
        assert gain == pytest.approx(mine - others)
    assert gap.gap.value == pytest.approx(gap.train_gain - gap.gate_gain)
    assert gap.gap.low < gap.gap.value < gap.gap.high


def test_looking_often_at_traffic_without_a_gap_raises_no_alarm_beyond_the_nominal_rate():
    rng = np.random.default_rng(7)
    alarms = 0
    for _ in range(60):
        train, gate = traffic(rng, 600, hack=0.0)
        looks = range(50, 601, 50)
        alarms += any(of_traffic(first(train, k), first(gate, k)).alarming for k in looks)
    assert alarms / 60 <= 0.05


def first(sample: Sample, k: int) -> Sample:
    return Sample(sample.candidate[:k], sample.share[:k], sample.x[:k], sample.count[:k])
