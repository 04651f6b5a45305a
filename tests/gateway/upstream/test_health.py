"""A server that fails is left alone for growing pauses, and comes back. Random lives of a server, no clock."""

from __future__ import annotations

from itertools import pairwise
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config import Ejection
from gateway.upstream.health import ServerHealth, told, verdict

DEFAULTS = Ejection()
SETTINGS = st.builds(
    Ejection,
    consecutive=st.integers(1, 6),
    share=st.floats(0.01, 1),
    min_requests=st.integers(1, 30),
    window_s=st.floats(0.1, 60),
    base_s=st.floats(0.01, 5),
    growth=st.floats(1, 10),
    cap_s=st.floats(5, 100),
    jitter=st.floats(0, 0.99),
    probes=st.integers(1, 4),
    passes=st.integers(1, 5),
)
# Seconds that pass, whether a request is sent then, and how an older one ends.
LIFE = st.lists(st.tuples(st.floats(0, 20), st.booleans(), st.sampled_from([True, False, None])), max_size=80)


def fail(health: ServerHealth, now: float, times: int = 1) -> None:
    for _ in range(times):
        health.leave(health.enter(now), now, ok=False)


def answer(health: ServerHealth, now: float, times: int = 1) -> None:
    for _ in range(times):
        health.leave(health.enter(now), now, ok=True)


def ejected(settings: Ejection = DEFAULTS, now: float = 0.0) -> ServerHealth:
    health = ServerHealth(settings, Random(1))
    fail(health, now, settings.consecutive)
    assert health.state(now) == "ejected"
    return health


@given(SETTINGS, LIFE, st.integers())
def test_it_is_asked_nothing_in_a_pause_and_no_more_than_its_trials_after_it(
    settings: Ejection, life: list[tuple[float, bool, bool | None]], seed: int
):
    health = ServerHealth(settings, Random(seed))
    now = 0.0
    running: list[tuple[int, float | None]] = []  # tickets, each with the pause that it is a trial after
    for wait, sends, ok in life:
        now += wait
        until = health.ejected_until
        if sends and health.available(now):
            assert now >= until
            running.append((health.enter(now), None if health.healthy else until))
            assert sum(after == until for _, after in running) <= settings.probes
        elif running:
            health.leave(running.pop(0)[0], now, ok=ok)
            assert health.ejected_until == until or now < health.ejected_until <= now + settings.cap_s


@given(SETTINGS, st.integers(1, 40), st.integers())
def test_pauses_grow_while_trials_fail_and_are_capped(settings: Ejection, trials: int, seed: int):
    health = ServerHealth(settings, Random(seed))
    fail(health, 0.0, settings.consecutive)
    began = 0.0
    pauses = []
    for _ in range(trials):
        pauses.append(health.pause_s)
        assert health.pause_s * (1 - settings.jitter) <= health.ejected_until - began + 1e-6
        assert health.ejected_until - began <= health.pause_s + 1e-6
        began = health.ejected_until
        fail(health, began)

    assert pauses[0] == settings.base_s
    for shorter, longer in pairwise(pauses):
        assert longer == pytest.approx(min(settings.cap_s, shorter * settings.growth))


@given(SETTINGS, LIFE, st.booleans(), st.integers())
def test_one_that_answers_again_is_back_after_its_pause_and_the_named_number_of_trials(
    settings: Ejection, life: list[tuple[float, bool, bool | None]], panics: bool, seed: int
):
    health = ServerHealth(settings, Random(seed))
    now = 0.0
    running: list[int] = []
    for wait, sends, ok in life:
        now += wait
        if sends and (panics or health.available(now)):
            ticket = health.enter(now)
            running.append(health.opened(ticket, now) if ok else ticket)
        elif running:
            health.leave(running.pop(0), now, ok=ok)
    for ticket in running:
        health.leave(ticket, now, ok=None)
    if health.healthy:
        fail(health, now, settings.consecutive)

    now = max(now, health.ejected_until)
    trials = 0
    while not health.healthy:
        assert health.available(now)
        answer(health, now)
        trials += 1
    assert trials <= settings.passes


def test_each_trial_that_was_answered_lets_the_next_one_in():
    health = ejected(Ejection(probes=1, passes=3))
    now = health.ejected_until
    for _ in range(3):
        assert health.state(now) == "probing"
        assert health.available(now)
        ticket = health.enter(now)
        assert not health.available(now)
        health.leave(ticket, now, ok=True)

    assert health.state(now) == "healthy"


def test_why_is_the_failure_that_it_was_last_ejected_for():
    health = ServerHealth(Ejection(consecutive=2), Random(1))
    assert health.why is None
    for why in ("connect", "status_503"):
        health.leave(health.enter(0.0), 0.0, ok=False, why=why)
    assert health.why == "status_503"
    now = health.ejected_until
    health.leave(health.enter(now), now, ok=False, why="idle_timeout")
    assert health.why == "idle_timeout"


@pytest.mark.parametrize(
    ("status", "reason", "says"),
    [
        (503, "status_5xx", "status_503"),
        (200, "no_finish_reason", "no_finish_reason"),
        (None, "connect", "connect"),
    ],
)
def test_people_are_told_the_status_of_an_answer_that_was_an_error(
    status: int | None, reason: str, says: str
):
    assert told(status, reason) == says


def test_a_trial_has_passed_when_its_answer_begins():
    health = ejected(Ejection(passes=1))
    now = health.ejected_until
    ticket = health.opened(health.enter(now), now)

    assert health.healthy
    health.leave(ticket, now + 100, ok=True)
    assert health.healthy


def test_one_long_answer_is_one_trial():
    health = ejected(Ejection(passes=2))
    now = health.ejected_until
    health.leave(health.opened(health.enter(now), now), now, ok=True)

    assert health.state(now) == "probing"


def test_a_trial_that_is_broken_off_lets_another_one_in():
    health = ejected()
    now = health.ejected_until
    for _ in range(10):
        assert health.available(now)
        health.leave(health.enter(now), now, ok=None)

    assert health.state(now) == "probing"
    answer(health, now, 2)
    assert health.healthy


def test_requests_that_die_with_their_server_are_one_ejection():
    health = ServerHealth(DEFAULTS, Random(1))
    tickets = [health.enter(0.0) for _ in range(100)]
    for ticket in tickets:
        health.leave(ticket, 1.0, ok=False)

    assert health.pause_s == DEFAULTS.base_s
    answer(health, health.ejected_until, 2)
    assert health.healthy


def test_what_began_before_an_ejection_says_nothing_after_the_return():
    health = ServerHealth(Ejection(consecutive=1), Random(1))
    old = [health.enter(0.0) for _ in range(10)]
    fail(health, 0.0)
    answer(health, health.ejected_until, 2)
    for ticket in old:
        health.leave(ticket, 5.0, ok=False)

    assert health.healthy


def test_what_is_asked_in_a_pause_neither_prolongs_it_nor_goes_unheard():
    health = ejected(Ejection(passes=2))
    until, pause_s = health.ejected_until, health.pause_s
    fail(health, 0.1, 50)
    assert (health.ejected_until, health.pause_s) == (until, pause_s)

    answer(health, 0.2, 1)
    fail(health, 0.2)
    answer(health, 0.2, 1)
    assert not health.healthy
    answer(health, 0.2, 1)
    assert health.healthy


def test_a_server_that_fails_again_soon_pauses_for_longer_and_one_that_served_does_not():
    settings = Ejection(base_s=1, growth=2, window_s=10)
    health = ejected(settings)
    back = health.ejected_until
    answer(health, back, settings.passes)
    fail(health, back + 9, settings.consecutive)
    assert health.pause_s == 2

    back = health.ejected_until
    answer(health, back, settings.passes)
    fail(health, back + 10, settings.consecutive)
    assert health.pause_s == 1


@given(st.integers(1, 50), st.floats(0.05, 1), st.lists(st.booleans(), max_size=200))
def test_it_is_ejected_exactly_when_the_share_of_enough_requests_failed(
    min_requests: int, share: float, results: list[bool]
):
    health = ServerHealth(Ejection(consecutive=10_000, share=share, min_requests=min_requests), Random(1))
    failed = 0
    for count, ok in enumerate(results, 1):
        health.leave(health.enter(0.0), 0.0, ok=ok)
        failed += not ok
        too_many = not ok and count >= min_requests and failed >= share * count
        assert health.healthy != too_many
        if too_many:
            return


def test_old_failures_are_forgotten():
    settings = Ejection(consecutive=100, min_requests=10, share=0.5, window_s=10)
    health = ServerHealth(settings, Random(1))
    fail(health, 0.0, 9)
    answer(health, 10.0, 9)
    fail(health, 10.0)

    assert health.healthy


def test_what_was_counted_before_an_ejection_does_not_count_after_the_return():
    settings = Ejection(consecutive=10, min_requests=10, share=0.5, window_s=100)
    health = ejected(settings)
    answer(health, health.ejected_until, settings.passes)
    fail(health, health.ejected_until, 9)

    assert health.healthy


def test_answers_between_failures_break_the_row():
    health = ServerHealth(Ejection(consecutive=3, min_requests=1000), Random(1))
    for _ in range(100):
        fail(health, 0.0, 2)
        answer(health, 0.0)

    assert health.healthy


@given(st.floats(0.01, 1e6), st.floats(1, 1000))
def test_a_rest_is_as_long_as_asked_for_but_capped_and_no_ejection(asked_s: float, cap_s: float):
    health = ServerHealth(Ejection(cap_s=cap_s), Random(1))
    health.rest(asked_s, 0.0)
    rests_s = min(asked_s, cap_s)

    assert health.state(0.0) == "healthy"
    assert not health.available(rests_s * 0.99)
    assert health.available(rests_s)
    health.rest(0.0, 0.0)
    assert not health.available(rests_s * 0.99)


def test_a_rest_holds_for_trials_too():
    health = ejected()
    health.rest(30, health.ejected_until)

    assert not health.available(health.ejected_until)
    assert health.available(health.ejected_until + 30)


@pytest.mark.parametrize(
    ("status", "reason", "expected"),
    [
        (200, None, True),
        (302, None, True),
        (None, "connect", False),
        (None, "connect_timeout", False),
        (None, "headers_timeout", False),
        (200, "first_token_timeout", False),
        (200, "idle_timeout", False),
        (None, "disconnected", False),
        (200, "disconnected", False),
        (None, "protocol", False),
        (200, "no_finish_reason", False),
        (200, "not_json", False),
        (500, "status_5xx", False),
        (503, "status_5xx", False),
        (529, "status_5xx", False),
        (502, None, False),  # passed through in pieces
        (501, "status_5xx", None),  # the request's fault
        (400, "status_4xx", None),
        (404, None, None),
        (429, "status_429", None),
        (200, "error_in_200", None),
        (200, "event_too_large", None),
        (200, "total_timeout", None),
        (None, "total_timeout", None),
        (None, "queue_full", None),
        (None, "cancelled", None),
        (200, "cancelled", None),
        (None, None, None),
    ],
)
def test_what_an_attempt_says_of_its_server(status: int | None, reason: str | None, expected: bool | None):
    assert verdict(status, reason) is expected
