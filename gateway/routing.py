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
    chosen = pick(scale(route), bucket(salt, route.model, rollout, unit))
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


def bucket(salt: bytes, route: str, rollout: str | None, unit: str) -> float:
    """A number in [0, 1), uniform over units, that nobody without *salt* can predict: keyed BLAKE2b."""
    message = _SEPARATOR.join((route, rollout or "", unit)).encode("utf-8", "surrogatepass")
    digest = blake2b(message, digest_size=8, key=salt).digest()
    # A division would round the topmost 2**10 values up to 1.0.
    return (int.from_bytes(digest, "big") >> 11) / (_BUCKETS >> 11)


def unit_of(sticky_by: str, *, client: str, session: str, subject: str | None, trace_id: str) -> str:
    """What stays with one variant: the session, the subject (else the session) or the single request.

    Session and subject belong to the client that sent them: two clients' sessions of one name are two.
    """
    if sticky_by == "request":
        return trace_id
    if sticky_by == "subject" and subject is not None:
        return f"{client}{_SEPARATOR}{subject}"
    return f"{client}{_SEPARATOR}{session}"
