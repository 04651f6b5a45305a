"""Finds our secrets in what an upstream answers, which may quote what it was told. Pure."""

from __future__ import annotations

import re
import sys
from base64 import b64encode
from collections.abc import Iterable
from typing import NamedTuple, Self

from gateway.config.secrets import UpstreamSecrets
from gateway.config.types import Upstream

MIN_SECRET_BYTES = 8  # of a secret that is looked for; a shorter one is a word like any other


class Masked(NamedTuple):
    """`passed` may go on. `held` is what a secret may begin with: it belongs in front of the next piece."""

    passed: bytes
    held: bytes


class SecretMask:
    """Replaces secrets by as many asterisks. All else stays as it is, and so does every length.

    A secret is found as the bytes it is: not one that a server escapes, or spells out over several events.
    """

    def __init__(self, secrets: Iterable[bytes]) -> None:
        # The longest first: of two that begin alike, the one that is more is meant.
        self._secrets = sorted({s for s in secrets if len(s) >= MIN_SECRET_BYTES}, key=len, reverse=True)
        self._shortest = len(self._secrets[-1]) if self._secrets else sys.maxsize
        self._any = re.compile(b"|".join(map(re.escape, self._secrets)))
        self._before_the_last = frozenset(b"".join(secret[:-1] for secret in self._secrets))

    @classmethod
    def of(cls, upstream: Upstream, secrets: UpstreamSecrets) -> Self:
        """Of what *upstream*, or the proxy on the way to it, is told and nobody else may know."""
        named = {header.name.lower() for header in upstream.headers if header.secret is not None}
        values = [value.encode() for name, value in secrets.headers if name in named]
        if secrets.key is not None:
            values.append(secrets.key.encode())
        if secrets.proxy_auth is not None:
            proxy_auth = secrets.proxy_auth.encode()
            values += [proxy_auth, b64encode(proxy_auth)]
        return cls(values)

    def whole(self, data: bytes) -> bytes:
        """*data* without the secrets in it. One of which it holds a part is not found."""
        for secret in self._secrets:
            if secret in data:
                return self._any.sub(_asterisks, data)
        return data

    def headers(self, headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
        """*headers* without the secrets in their values."""
        if not self._secrets:
            return headers
        for _, value in headers:
            if len(value) >= self._shortest and self.whole(value) is not value:
                return [(name, self.whole(value)) for name, value in headers]
        return headers

    def leaves(self, piece: bytes) -> bool:
        """Whether *piece* passes as it is, nothing held. Quick, and never wrong where it says yes."""
        for secret in self._secrets:
            if piece.find(secret) >= 0:  # quicker than `in`
                return False
        return not piece or piece[-1] not in self._before_the_last

    def piece(self, data: bytes) -> Masked:
        """A piece of an answer that goes on. Whatever the pieces, what passes is `whole` of their sum."""
        passed: list[bytes] = []
        start = 0
        while True:
            held_from = self._held_from(data, start)
            match = self._any.search(data, start) if self._secrets else None
            if match is None or match.start() >= held_from:
                passed.append(data[start:held_from])
                return Masked(b"".join(passed), data[held_from:])
            passed += (data[start : match.start()], _asterisks(match))
            start = match.end()

    def _held_from(self, data: bytes, start: int) -> int:
        """Where in *data*, from *start* on, an end begins that may become a secret; its size if nowhere."""
        earliest = len(data)
        for secret in self._secrets:
            at = data.find(secret[:1], max(start, len(data) - len(secret) + 1), earliest)
            while at >= 0 and not secret.startswith(data[at:]):
                at = data.find(secret[:1], at + 1, earliest)
            if at >= 0:
                earliest = at
        return earliest


def _asterisks(match: re.Match[bytes]) -> bytes:
    return b"*" * len(match.group())
