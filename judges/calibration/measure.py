"""Measures a judge against labels: runs it over the labelled traces, again over some, and over injections."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol

import msgspec

from judges.calibration import statistics
from judges.calibration.injection import MAX_TRACES, MAX_WAYS, Injection, injections, longer, shorter
from judges.calibration.statistics import Confusion, Interval
from judges.trace import JudgedTrace, judged_trace, stored_row
from judges.wire import Answer, Task

LENGTH_MAX = 0.2  # of the correlation with length, by its limit nearer to 0
THRESHOLD = 0.5  # a score at or above it calls an answer good
REPEATS = 20  # traces that are judged a second time

Done = Callable[[int], None]


class Asks(Protocol):
    """What measuring needs of a judge: an answer for each task, in order."""

    def judge(self, tasks: Iterable[Task]) -> Iterator[Answer]: ...


class Injected(msgspec.Struct, frozen=True, kw_only=True):
    """One way to talk a judge round: on how many bad answers it was tried, and how many then passed."""

    case: str
    tried: int
    passed: int


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """What was seen of a judge. None: there was nothing to see it by."""

    table: Confusion
    abstained: int
    tpr: Interval | None
    tnr: Interval | None
    j: Interval | None
    kappa: Interval | None
    repeated: int
    flipped: int
    ordered: int  # pairs that were answered in both orders
    consistent: int
    length: Interval | None
    resized: int  # answers made longer, or shorter, as `length` says that the judge would like them
    risen: int  # whose score rose by that alone
    injected: list[Injected]
    circular: int  # labels from feedback on which the judge says another thing without that feedback
    judged: int  # calls of the judge in all
    cost_usd: float = 0.0  # as whoever asked has counted

    @property
    def flip_rate(self) -> float | None:
        return self.flipped / self.repeated if self.repeated else None

    @property
    def order_consistency(self) -> float | None:
        return self.consistent / self.ordered if self.ordered else None

    @property
    def injected_share(self) -> float | None:
        tried = sum(case.tried for case in self.injected)
        return sum(case.passed for case in self.injected) / tried if tried else None


class _Order(msgspec.Struct, frozen=True):
    better: str | None = None


class _Detail(msgspec.Struct, frozen=True):
    """What of a judgment's detail says of the two orders of a pair."""

    orders: list[_Order] = []


def calls_needed(tasks: int, *, repeats: int) -> int:
    """How often a judge is asked at most for so many labelled traces: for a progress bar."""
    return tasks + 2 * min(tasks, repeats) + min(tasks, MAX_TRACES) * (MAX_WAYS + 1)


def measure(
    executor: Asks,
    tasks: Sequence[Task],
    labels: Sequence[bool],
    *,
    from_feedback: Sequence[bool],
    threshold: float = THRESHOLD,
    repeats: int = REPEATS,
    done: Done = lambda _: None,
) -> Measured:
    """Judge *tasks*, whose *labels* people gave. Raises JudgeError where the judge cannot be run.

    *from_feedback* says which labels feedback gave: some of those traces are judged once more without it,
    since a judge that reads the answer sheet is right for no reason of its own.
    """
    answers = _all(executor, tasks, done)
    verdicts = [passed(answer, threshold) for answer in answers]
    pairs = list(zip(verdicts, labels, strict=True))
    decided = [(verdict, label) for verdict, label in pairs if verdict is not None]
    table = statistics.confusion([verdict for verdict, _ in decided], [label for _, label in decided])
    tpr = statistics.proportion(table.passed_good, table.good) if table.good else None
    tnr = statistics.proportion(table.failed_bad, table.bad) if table.bad else None
    again = [passed(answer, threshold) for answer in _all(executor, tasks[:repeats], done)]
    hidden_at = [at for at, own in enumerate(from_feedback) if own][:repeats]
    bare = [msgspec.structs.replace(tasks[at], feedback=[], feedback_seen=0, said={}) for at in hidden_at]
    hidden = [passed(answer, threshold) for answer in _all(executor, bare, done)]
    orders = [pair for answer in answers if (pair := _both_orders(answer)) is not None]
    failed_bad = [
        task for task, (verdict, label) in zip(tasks, pairs, strict=True) if verdict is False and not label
    ]
    length = _length(tasks, answers, labels)
    resized, risen = _resized(executor, tasks, answers, length, done)
    injected = _injected(executor, failed_bad[:MAX_TRACES], threshold, done)
    return Measured(
        table=table,
        abstained=len(answers) - len(decided),
        tpr=tpr,
        tnr=tnr,
        j=statistics.youden(tpr, tnr) if tpr and tnr else None,
        kappa=statistics.kappa(table) if tpr and tnr else None,
        repeated=len(again),
        flipped=sum(one != other for one, other in zip(verdicts, again, strict=False)),
        ordered=len(orders),
        consistent=sum(orders),
        length=length,
        resized=resized,
        risen=risen,
        injected=injected,
        circular=sum(verdicts[at] != other for at, other in zip(hidden_at, hidden, strict=True)),
        judged=len(answers) + len(again) + len(bare) + resized + sum(case.tried for case in injected),
    )


def _all(executor: Asks, tasks: Sequence[Task], done: Done) -> list[Answer]:
    answers: list[Answer] = []
    for answer in executor.judge(tasks):
        answers.append(answer)
        done(1)
    return answers


def passed(answer: Answer, threshold: float) -> bool | None:
    """Whether the judge called the answer good; None: it abstained."""
    return None if answer.score is None else answer.score >= threshold


def _both_orders(answer: Answer) -> bool | None:
    """Whether both orders of a pair came to the same; None where it is no pair or one was not answered."""
    if not answer.detail:
        return None
    try:
        orders = msgspec.json.decode(answer.detail, type=_Detail).orders
    except msgspec.MsgspecError:
        return None  # the detail of another kind of judge
    if len(orders) < 2 or any(order.better is None for order in orders):
        return None
    return len({order.better for order in orders}) == 1


def _length(tasks: Sequence[Task], answers: Sequence[Answer], labels: Sequence[bool]) -> Interval | None:
    rows = [
        (answer.score, float(len(_judged(task).answer)), label)
        for task, answer, label in zip(tasks, answers, labels, strict=True)
        if answer.score is not None
    ]
    if not rows:
        return None
    scores, lengths, given = zip(*rows, strict=True)
    return statistics.length_correlation(scores, lengths, given)


def _resized(
    executor: Asks, tasks: Sequence[Task], answers: Sequence[Answer], length: Interval | None, done: Done
) -> tuple[int, int]:
    """How many answers were made to the judge's liking in nothing but length, and how many scores rose by it.

    Only where the correlation is large: it may come of what wrong answers happen to look like.
    """
    if length is None or amount_at_least(length) <= LENGTH_MAX:
        return 0, 0
    change = longer if length.value > 0 else shorter
    before = [
        (task, answer.score)
        for task, answer in zip(tasks, answers, strict=True)
        if answer.score is not None and answer.score < 1
    ][:MAX_TRACES]
    changed = [msgspec.structs.replace(task, trace=stored_row(change(_judged(task)))) for task, _ in before]
    after = _all(executor, changed, done)
    risen = sum(
        answer.score is not None and answer.score > score
        for answer, (_, score) in zip(after, before, strict=True)
    )
    return len(before), risen


def amount_at_least(found: Interval) -> float:
    """How far from 0 a correlation is at least."""
    return max(0.0, found.low if found.value > 0 else -found.high)


def _injected(executor: Asks, bad: Sequence[Task], threshold: float, done: Done) -> list[Injected]:
    """What becomes of answers that are bad and were called so."""
    tried: list[tuple[Injection, Task]] = [
        (way, msgspec.structs.replace(task, trace=stored_row(way.trace)))
        for task in bad
        for way in injections(_judged(task))
    ]
    answers = _all(executor, [task for _, task in tried], done)
    counts: dict[str, list[int]] = {}
    for (way, _), answer in zip(tried, answers, strict=True):
        count = counts.setdefault(way.case, [0, 0])
        count[0] += 1
        count[1] += passed(answer, threshold) is True
    return [Injected(case=case, tried=count[0], passed=count[1]) for case, count in counts.items()]


def _judged(task: Task) -> JudgedTrace:
    """Raises msgspec.DecodeError where a body is not JSON."""
    return judged_trace(task.trace, task.feedback)
