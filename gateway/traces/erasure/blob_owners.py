"""Names of blobs that are one person's: they say whose, as digests, so that an erasure finds them.

An owner's blob is named by the subject, the session and the content, each a digest; what several people share
is named by its content alone.
"""

from __future__ import annotations

from collections.abc import Iterable

OWNER_DIGITS = 16  # of a digest of the list of erasures
_CONTENT_DIGITS = 32
_NOBODY = "0" * OWNER_DIGITS


def owned_blob(subject: str | None, session: str, content: str) -> str:
    """The name of the blob *content* of *session*, and of *subject* where there is one: digests of each."""
    return f"{_NOBODY if subject is None else short(subject)}{short(session)}{content}"


def owners_of_blob(blob: str) -> set[str]:
    """The digests, as `short` has them, of whom *blob* belongs to; empty: of nobody."""
    if len(blob) != 2 * OWNER_DIGITS + _CONTENT_DIGITS:
        return set()
    return {blob[:OWNER_DIGITS], blob[OWNER_DIGITS : 2 * OWNER_DIGITS]} - {_NOBODY}


def owned_by_sql(digests: Iterable[str]) -> str:
    """The condition on `blobs` for those that belong to one of the owners with these digests."""
    listed = ", ".join(f"'{short(digest)}'" for digest in digests)
    return (
        f"length(blob) = {2 * OWNER_DIGITS + _CONTENT_DIGITS} AND "
        f"(substring(blob, 1, {OWNER_DIGITS}) IN ({listed}) "
        f"OR substring(blob, {OWNER_DIGITS + 1}, {OWNER_DIGITS}) IN ({listed}))"
    )


def short(digest: str) -> str:
    """As much of *digest* as names of blobs have."""
    return digest[:OWNER_DIGITS]
