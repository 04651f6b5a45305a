from __future__ import annotations

from pathlib import Path

import pytest

import judges
from gateway.config import JudgeConfig
from tests.support.judging import ANY_CONFIG

FILE = Path(__file__).parents[2] / "config/judges/ticket.py"
RIGHT = '{"intent":"exchange","order_id":"C4821","date":"2024-03-03","priority":"low"}'
SPACED = '{"priority": "low", "date": "2024-03-03", "order_id": "C4821", "intent": "exchange"}'
OTHER_INTENT = RIGHT.replace("exchange", "refund")
MESSAGE = {"messages": [{"role": "user", "content": "swap the item in C4821, I bought it on Mar 3rd 2024."}]}


def score(function: str, answer: str, kept: str | None = None) -> float | None:
    judge = JudgeConfig(name=function, path=f"{FILE}:{function}")
    trace = judges.trace_from(request=MESSAGE, answer=answer, kept=kept)
    return judges.evaluate_answers(ANY_CONFIG, judge, [trace])[0].score


@pytest.mark.parametrize(
    ("answer", "verdict"),
    [
        (RIGHT, 1.0),
        (SPACED, 1.0),
        (OTHER_INTENT, 1.0),
        (RIGHT.replace("C4821", "C4812"), 0.0),
        (RIGHT.replace(',"priority":"low"', ""), 0.0),
        (RIGHT.replace("}", ',"note":"x"}'), 0.0),
        (RIGHT.replace('"C4821"', "4821"), 0.0),
        (f"Here is the ticket:\n{RIGHT}", 0.0),
        ("[]", 0.0),
        ("", 0.0),
    ],
)
def test_valid_reads_the_answer_alone(answer: str, verdict: float):
    assert score("valid", answer) == verdict


@pytest.mark.parametrize(
    ("answer", "kept", "verdict"),
    [
        (RIGHT, RIGHT, 1.0),
        (SPACED, RIGHT, 1.0),
        (OTHER_INTENT, RIGHT, 0.0),
        ("no JSON", RIGHT, 0.0),
        (RIGHT, None, None),
        ("no JSON", None, None),
    ],
)
def test_kept_compares_with_what_the_agent_saved_and_abstains_where_nobody_did(
    answer: str, kept: str | None, verdict: float | None
):
    assert score("kept", answer, kept) == verdict
