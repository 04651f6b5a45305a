"""Which server of an upstream takes a request: load, prefixes and health weighed. Pure, given the randomness.

**Load.** Of two random servers that are available, the one with fewer outstanding requests.

**Prefixes.** A request with a key (`gateway.upstream.prefix`) goes to the server that rendezvous hashing
ranks first for it: every worker finds the same one without asking, and when a server comes or goes only its
own keys move. One with LOAD_FACTOR times the mean of outstanding requests passes it on to the next in rank,
so that one popular prefix cannot drown a server.

**Health.** A server that is ejected or at rest is not asked. When no server is available, a request that may
move on to a fallback does so at once if all are ejected; a server at rest is well, and its rest may concern
one model only. Every other request is sent all the same, by the panic rule: to the least bad server, since
one that may fail is worth more than a refusal that is certain. That is a resting one before an ejected one,
and of the ejected ones one of those with the shortest pause, so that a server that died an hour ago does not
get its share of what the others dropped a second ago.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from math import ceil
from random import Random
from typing import Generic, Protocol, TypeVar

from gateway.upstream.health import ServerHealth

LOAD_FACTOR = 1.25  # of the mean, which a server may have before it passes requests on
LOAD_FLOOR = 4  # requests that it may always have: so few of them slow none of the others
_64_BITS = (1 << 64) - 1


class Candidate(Protocol):
    """A server to choose. `seed` is `server_seed` of its URL."""

    outstanding: int
    health: ServerHealth
    seed: int


S = TypeVar("S", bound=Candidate)


def server_seed(url: str) -> int:
    """What stands for a server in the ranking: the same in every worker and after every restart."""
    return int.from_bytes(blake2b(url.encode(), digest_size=8).digest(), "big")


class Balancer(Generic[S]):
    """Chooses among *servers*, of which there is at least one."""

    def __init__(self, servers: Sequence[S], random: Random) -> None:
        self._servers = servers
        self._random = random

    def is_down(self, now: float) -> bool:
        """Whether all servers are ejected and none is due for a trial."""
        return not any(server.health.healthy or server.health.available(now) for server in self._servers)

    def pick(self, now: float, *, key: int | None = None, avoid: S | None = None) -> S:
        """The server for a request: not *avoid* if another is available, one that is ejected if it must be.

        A request that may move on asks `is_down` first.
        """
        able = [server for server in self._servers if server.health.available(now) and server is not avoid]
        if able:
            return self._choose(able, key)
        if avoid is not None and avoid.health.available(now):
            return avoid
        return self._least_bad(avoid)

    def second(self, now: float, first: S, *, key: int | None = None) -> S | None:
        """Another server for a request that *first* has already; None: none is available."""
        able = [server for server in self._servers if server.health.available(now) and server is not first]
        return self._choose(able, key) if able else None

    def _choose(self, able: Sequence[S], key: int | None) -> S:
        if len(able) == 1:
            return able[0]
        return self._less_loaded(able) if key is None else _nearest(able, key)

    def _less_loaded(self, servers: Sequence[S]) -> S:
        count = len(servers)
        first = int(self._random.random() * count)
        second = int(self._random.random() * (count - 1))
        one, other = servers[first], servers[second + (second >= first)]
        return one if one.outstanding <= other.outstanding else other

    def _least_bad(self, avoid: S | None) -> S:
        """The panic rule."""
        servers = [server for server in self._servers if server is not avoid] or self._servers
        least_s = min(_held_against(server) for server in servers)
        least_bad = [server for server in servers if _held_against(server) == least_s]
        return least_bad[0] if len(least_bad) == 1 else self._less_loaded(least_bad)


def load_bound(servers: Sequence[Candidate]) -> int:
    """How many requests one of *servers* may have once another one has been added."""
    total = sum(server.outstanding for server in servers) + 1
    return max(LOAD_FLOOR, ceil(LOAD_FACTOR * total / len(servers)))


def ranked(servers: Sequence[S], key: int) -> list[S]:
    """*servers* from the first choice of *key* to its last: any two in the same order in any company."""
    return sorted(servers, key=lambda server: _weight(server.seed, key), reverse=True)


def _nearest(servers: Sequence[S], key: int) -> S:
    most = load_bound(servers)
    return next(server for server in ranked(servers, key) if server.outstanding < most)


def _held_against(server: Candidate) -> float:
    return 0.0 if server.health.healthy else server.health.pause_s


def _weight(seed: int, key: int) -> int:
    """A number that looks random, from both: multiplied and folded twice, as in SplitMix64."""
    mixed = (seed ^ key) * 0xBF58476D1CE4E5B9 & _64_BITS
    mixed = (mixed ^ mixed >> 32) * 0x94D049BB133111EB & _64_BITS
    return mixed ^ mixed >> 31
