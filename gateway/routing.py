"""Which variant answers: a pure function of the table, the caller's unit of stickiness and a secret salt."""

from __future__ import annotations

from hashlib import blake2b

import msgspec

from gateway.table import TableRoute, TableVariant

_BUCKETS = 2**64
_SEPARATOR = "\0"


class Assignment(msgspec.Struct, frozen=True, kw_only=True):
    """The variant that takes a request, and how likely it was to. `propensity` None: pinned."""

    variant: TableVariant
    propensity: float | None
    rollout: str | None


def choose_variant(route: TableRoute, unit: str, salt: bytes) -> Assignment:
    """Assign *unit* (see `unit_of`) to a variant of *route*, in proportion to the weights.

    The same unit gets the same variant while the route's weights and rollout stay. The candidate of a rollout
    takes the bottom of the scale and stable the top, so that raising the candidate's share moves units only
    from stable to the candidate.
    """
    rollout = route.rollout.rollout if route.rollout is not None else None
    chosen = pick(scale(route), Buckets(salt, route.model, rollout).of(unit))
    return Assignment(variant=chosen, propensity=chosen.weight, rollout=rollout)


def pick(variants: list[TableVariant], position: float) -> TableVariant:
    """The variant at *position* in [0, 1) where *variants* (see `scale`) lie side by side by weight."""
    bound = 0.0
    chosen = variants[-1]
    for variant in variants:
        if variant.weight <= 0:
            continue
        chosen = variant  # the last one also takes what rounding leaves above it
        bound += variant.weight
        if position < bound:
            break
    return chosen


def scale(route: TableRoute) -> list[TableVariant]:
    """The variants in the order in which they share [0, 1): candidate, the others, stable."""
    candidate = route.rollout.candidate if route.rollout is not None else None
    return sorted(
        route.variants, key=lambda variant: 2 if variant.stable else 0 if variant.name == candidate else 1
    )


class Buckets:
    """Of each unit a number in [0, 1), uniform over units, that nobody without *salt* can predict.

    Keyed BLAKE2b of route, rollout and unit. What all units of a rollout have in common is hashed once.
    """

    __slots__ = ("_begun",)

    def __init__(self, salt: bytes, route: str, rollout: str | None) -> None:
        common = _SEPARATOR.join((route, rollout or "", "")).encode("utf-8", "surrogatepass")
        self._begun = blake2b(common, digest_size=8, key=salt)

    def of(self, unit: str) -> float:
        """The number of *unit*."""
        digest = self._begun.copy()
        digest.update(unit.encode("utf-8", "surrogatepass"))
        # A division would round the topmost 2**10 values up to 1.0.
        return (int.from_bytes(digest.digest(), "big") >> 11) / (_BUCKETS >> 11)


def unit_of(sticky_by: str, *, client: str, session: str, subject: str | None, trace_id: str) -> str:
    """What stays with one variant: the session, the subject (else the session) or the single request.

    Session and subject belong to the client that sent them: two clients' sessions of one name are two.
    """
    if sticky_by == "request":
        return trace_id
    if sticky_by == "subject" and subject is not None:
        return f"{client}{_SEPARATOR}{subject}"
    return f"{client}{_SEPARATOR}{session}"
