"""Which traces are held out: pure, repeatable, and nothing on both sides.

Traces of one session, and near-duplicates of one prompt, form a group; a group is on one side as a whole. The
side is decided by a hash of the group's smallest key, so that it does not depend on order or on randomness.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

import msgspec

NEAR_DUPLICATE = 0.8  # Jaccard similarity of the sets of SHINGLE_CHARS-grams from which two prompts are one
SHINGLE_CHARS = 5
MINHASH_PERMUTATIONS = 64
# The hashing only proposes pairs and may miss some: it looks lower, and every proposal is compared exactly.
_PROPOSE_FROM = 0.5
# A prompt that everybody sends would fill the holdout with itself: larger groups than this part of it train.
MAX_GROUP_SHARE = 0.25


class Unit(msgspec.Struct, frozen=True, kw_only=True):
    """One trace as the split sees it. `text` is its prompt without the parts that are constant."""

    trace_id: str
    session: str
    text: str
    tagged: bool  # carries a holdout tag: never trained on


class Split(msgspec.Struct, frozen=True, kw_only=True):
    """Trace ids of both sides, and the number of groups they form."""

    train: frozenset[str]
    holdout: frozenset[str]
    groups: int


def split(units: Sequence[Unit], *, holdout: float, similar: Iterable[tuple[int, int]]) -> Split:
    """Divide *units*; about *holdout* of the untagged ones are held out, and every group with a tagged one.

    *similar* are pairs of indices of near-duplicates (`near_duplicates`).
    """
    groups = _groups(units, similar)
    largest = MAX_GROUP_SHARE * holdout * len(units)
    train: set[str] = set()
    held: set[str] = set()
    for members in groups:
        ids = {units[index].trace_id for index in members}
        tagged = any(units[index].tagged for index in members)
        drawn = _fraction(min(units[index].session for index in members)) < holdout
        small = len(members) <= max(1.0, largest)
        (held if tagged or (drawn and small) else train).update(ids)
    return Split(train=frozenset(train), holdout=frozenset(held), groups=len(groups))


def near_duplicates(texts: Sequence[str]) -> list[tuple[int, int]]:
    """Pairs of indices whose texts are near-duplicates, enough of them to connect all that are.

    MinHash proposes, the exact Jaccard similarity of character n-grams decides; equal texts always pair.
    """
    from datasketch import MinHash, MinHashLSH

    first: dict[str, int] = {}
    pairs: list[tuple[int, int]] = []
    index_of_shingles: dict[int, frozenset[str]] = {}
    lsh = MinHashLSH(threshold=_PROPOSE_FROM, num_perm=MINHASH_PERMUTATIONS)
    for index, text in enumerate(texts):
        if text in first:
            pairs.append((first[text], index))
            continue
        first[text] = index
        grams = shingles(text)
        sketch = MinHash(num_perm=MINHASH_PERMUTATIONS)
        sketch.update_batch([gram.encode() for gram in grams])
        pairs.extend(
            (other, index)
            for other in lsh.query(sketch)
            if jaccard(index_of_shingles[other], grams) >= NEAR_DUPLICATE
        )
        lsh.insert(index, sketch)
        index_of_shingles[index] = grams
    return pairs


def shingles(text: str) -> frozenset[str]:
    """The character n-grams of *text*, case and spacing aside; a shorter text is its own only one."""
    plain = " ".join(text.lower().split())
    return frozenset(
        plain[start : start + SHINGLE_CHARS] for start in range(max(1, len(plain) - SHINGLE_CHARS + 1))
    )


def jaccard(one: frozenset[str], other: frozenset[str]) -> float:
    """Size of the intersection over size of the union."""
    common = len(one & other)
    return common / (len(one) + len(other) - common)


def slice_of(tags: Mapping[str, str], holdout_tags: Mapping[str, str]) -> str:
    """The holdout slice of a trace with *tags*: "TAG=VALUE" of the first tag that matches, else "rest"."""
    for name, value in holdout_tags.items():
        if tags.get(name) == value:
            return f"{name}={value}"
    return "rest"


def _groups(units: Sequence[Unit], similar: Iterable[tuple[int, int]]) -> list[list[int]]:
    """Connected components over equal sessions and similar prompts."""
    parent = list(range(len(units)))

    def root(index: int) -> int:
        while parent[index] != index:
            parent[index] = parent[parent[index]]
            index = parent[index]
        return index

    first_of_session: dict[str, int] = {}
    for index, unit in enumerate(units):
        parent[root(index)] = root(first_of_session.setdefault(unit.session, index))
    for one, other in similar:
        parent[root(one)] = root(other)
    members: dict[int, list[int]] = defaultdict(list)
    for index in range(len(units)):
        members[root(index)].append(index)
    return list(members.values())


def _fraction(key: str) -> float:
    """A number in [0, 1) that looks random but is the same for the same *key*."""
    return int.from_bytes(hashlib.sha256(f"holdout\0{key}".encode()).digest()[:8]) / 2**64
