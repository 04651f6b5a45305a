"""Who takes a request: the less loaded, the one that knows its beginning, and none that is ill if it can be."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config import Ejection
from gateway.upstream.balance import LOAD_FACTOR, LOAD_FLOOR, Balancer, load_bound, ranked, server_seed
from gateway.upstream.health import ServerHealth

KEYS = st.integers(0, 2**32 - 1)
NOW = 10.0
# Of a server: what it is at NOW, how many pauses it has had, and its outstanding requests.
SERVERS = st.lists(
    st.tuples(
        st.sampled_from(["healthy", "resting", "ejected", "due", "tried"]),
        st.integers(1, 3),
        st.integers(0, 20),
    ),
    min_size=1,
    max_size=8,
)


class Server:
    def __init__(self, number: int, outstanding: int = 0) -> None:
        self.seed = server_seed(f"http://10.0.0.{number}:8000/v1")
        self.health = ServerHealth(Ejection(consecutive=1, base_s=1, jitter=0), Random(number))
        self.outstanding = outstanding


def server_in(state: str, number: int, pauses: int, outstanding: int) -> Server:
    server = Server(number, outstanding)
    health = server.health
    if state == "resting":
        health.rest(5, NOW)
    if state in {"ejected", "due", "tried"}:
        for _ in range(pauses):
            # A request while it is healthy, then one trial after another, all of which fail now.
            health.leave(health.enter(max(health.ejected_until, NOW)), NOW, ok=False)
        if state != "ejected":
            health.ejected_until = NOW
    if state == "tried":
        health.enter(NOW)
    return server


def servers_of(states: list[tuple[str, int, int]]) -> list[Server]:
    return [
        server_in(state, number, pauses, outstanding)
        for number, (state, pauses, outstanding) in enumerate(states)
    ]


@given(SERVERS, KEYS | st.none(), st.integers(0, 7), st.integers())
def test_none_that_is_unavailable_is_picked_while_another_is_available(
    states: list[tuple[str, int, int]], key: int | None, avoided: int, seed: int
):
    servers = servers_of(states)
    avoid = servers[avoided] if avoided < len(servers) else None
    picked = Balancer(servers, Random(seed)).pick(NOW, key=key, avoid=avoid)
    available = [server for server in servers if server.health.available(NOW)]

    if [server for server in available if server is not avoid]:
        assert picked.health.available(NOW)
        assert picked is not avoid
    elif available:
        assert picked is avoid


@given(SERVERS)
def test_an_upstream_is_down_exactly_when_all_its_servers_are_ejected(states: list[tuple[str, int, int]]):
    balancer = Balancer(servers_of(states), Random(1))

    assert balancer.is_down(NOW) == all(state in {"ejected", "tried"} for state, _, _ in states)


@given(SERVERS, st.integers(0, 7), st.integers())
def test_by_the_panic_rule_a_request_goes_to_a_server_that_least_is_held_against(
    states: list[tuple[str, int, int]], avoided: int, seed: int
):
    states = [state for state in states if state[0] not in {"healthy", "due"}] or [("ejected", 1, 0)]
    servers = servers_of(states)
    avoid = servers[avoided] if avoided < len(servers) else None
    picked = Balancer(servers, Random(seed)).pick(NOW, avoid=avoid)
    others = [server for server in servers if server is not avoid] or servers

    assert picked in others
    pauses = [0.0 if server.health.healthy else server.health.pause_s for server in others]
    assert (0.0 if picked.health.healthy else picked.health.pause_s) == min(pauses)


@given(SERVERS, KEYS | st.none(), st.integers(0, 7), st.integers())
def test_a_second_request_goes_to_another_server_that_is_available_or_nowhere(
    states: list[tuple[str, int, int]], key: int | None, number: int, seed: int
):
    servers = servers_of(states)
    first = servers[number % len(servers)]
    second = Balancer(servers, Random(seed)).second(NOW, first, key=key)
    others = [server for server in servers if server is not first and server.health.available(NOW)]

    assert (second is None) == (not others)
    assert second is None or second in others


def test_panic_spreads_over_those_that_are_equally_bad():
    servers = servers_of([("ejected", 1, 0)] * 4)
    balancer = Balancer(servers, Random(1))

    assert len({id(balancer.pick(NOW)) for _ in range(200)}) == 4


@given(st.lists(st.integers(0, 30), min_size=2, max_size=8), st.integers())
def test_of_several_servers_the_most_loaded_is_never_picked_if_one_has_less(loads: list[int], seed: int):
    servers = [Server(number, outstanding) for number, outstanding in enumerate(loads)]
    picked = Balancer(servers, Random(seed)).pick(NOW)

    # Of two different servers the less loaded is taken, so the last one of all never is.
    assert loads.count(max(loads)) > 1 or picked.outstanding < max(loads)


def test_every_server_gets_its_share_of_even_load():
    servers = [Server(number) for number in range(5)]
    balancer = Balancer(servers, Random(1))
    counts = Counter(id(balancer.pick(NOW)) for _ in range(5000))

    assert all(800 <= counts[id(server)] <= 1200 for server in servers)


@given(st.integers(2, 12), st.lists(KEYS, max_size=50), st.data())
def test_a_server_that_goes_moves_its_own_keys_and_one_that_comes_takes_only_what_is_its(
    count: int, keys: list[int], data: st.DataObject
):
    servers = [Server(number) for number in range(count)]
    gone = data.draw(st.sampled_from(servers))
    rest = [server for server in servers if server is not gone]
    for key in keys:
        before, after = ranked(servers, key), ranked(rest, key)
        assert after == [server for server in before if server is not gone]
        assert (before[0] is after[0]) == (before[0] is not gone)


@pytest.mark.parametrize("count", [2, 3, 5, 8, 16])
def test_each_of_n_servers_has_about_one_nth_of_the_keys(count: int):
    random = Random(3)
    servers = [Server(number) for number in range(count)]
    firsts = Counter(id(ranked(servers, random.getrandbits(32))[0]) for _ in range(1000 * count))

    assert len(firsts) == count
    assert all(850 <= keys <= 1150 for keys in firsts.values())


def test_keys_that_differ_by_a_bit_are_spread_too():
    servers = [Server(number) for number in range(4)]
    firsts = Counter(id(ranked(servers, key)[0]) for key in range(4000))

    assert all(850 <= keys <= 1150 for keys in firsts.values())


@given(
    st.integers(1, 6),
    st.lists(st.tuples(st.integers(0, 3), st.booleans(), st.integers(0, 100)), max_size=150),
    st.integers(),
)
def test_no_server_is_given_more_than_its_bound_whatever_the_keys(
    count: int, steps: list[tuple[int, bool, int]], seed: int
):
    servers = [Server(number) for number in range(count)]
    balancer = Balancer(servers, Random(seed))
    running: list[Server] = []
    for key, ends, which in steps:
        if ends and running:
            running.pop(which % len(running)).outstanding -= 1
            continue
        bound = load_bound(servers)
        picked = balancer.pick(NOW, key=key)
        if count > 1:
            assert picked is next(one for one in ranked(servers, key) if one.outstanding < bound)
        picked.outstanding += 1
        running.append(picked)
        assert count == 1 or picked.outstanding <= max(LOAD_FLOOR, LOAD_FACTOR * len(running) / count + 1)


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=16))
def test_there_is_always_a_server_below_the_bound(loads: list[int]):
    servers = [Server(number, outstanding) for number, outstanding in enumerate(loads)]

    assert min(loads) < load_bound(servers)


def test_one_beginning_that_all_requests_have_is_spread_as_far_as_the_bound():
    servers = [Server(number) for number in range(4)]
    balancer = Balancer(servers, Random(1))
    for _ in range(400):
        picked = balancer.pick(NOW, key=7)
        picked.outstanding += 1

    assert max(server.outstanding for server in servers) == LOAD_FACTOR * 100
    assert min(server.outstanding for server in servers) > 0


def test_a_few_requests_that_begin_alike_stay_together():
    servers = [Server(number) for number in range(4)]
    balancer = Balancer(servers, Random(1))
    for _ in range(LOAD_FLOOR):
        picked = balancer.pick(NOW, key=7)
        assert picked is ranked(servers, 7)[0]
        picked.outstanding += 1


def test_while_a_server_is_ejected_its_keys_go_to_their_second_choice_and_come_back_with_it():
    servers = [Server(number) for number in range(4)]
    balancer = Balancer(servers, Random(1))
    first, second = ranked(servers, 7)[:2]
    first.health.leave(first.health.enter(NOW), NOW, ok=False)
    assert balancer.pick(NOW, key=7) is second

    assert balancer.pick(first.health.ejected_until, key=7) is first


def send(balancer: Balancer[Server], dead: set[int], servers: list[Server], now: float) -> Server:
    """One request, which fails at once at one of the *dead*."""
    server = balancer.pick(now)
    ticket = server.health.enter(now)
    server.health.leave(ticket, now, ok=servers.index(server) not in dead)
    return server


def test_a_dead_server_costs_the_requests_that_show_it_and_one_for_each_pause():
    servers = [Server(number) for number in range(3)]
    balancer = Balancer(servers, Random(1))
    lost = sum(send(balancer, {0}, servers, step * 0.1) is servers[0] for step in range(6000))

    # Pauses of 1, 2, 4, 8, 16 and 32 seconds, then of 60, in ten minutes.
    assert 6 <= lost <= 1 + 6 + 10


def test_after_an_outage_of_all_servers_all_are_back_within_the_longest_pause():
    settings = Ejection(consecutive=1)
    servers = [Server(number) for number in range(3)]
    balancer = Balancer(servers, Random(1))
    for step in range(3000):
        send(balancer, {0, 1, 2}, servers, step * 0.1)
    assert not any(server.health.healthy for server in servers)
    for step in range(int(settings.cap_s * 10) + 10):
        send(balancer, set(), servers, 300 + step * 0.1)

    assert all(server.health.healthy for server in servers)
