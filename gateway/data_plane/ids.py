"""UUIDv7: a trace's id, minted at the gateway."""

from __future__ import annotations

import os

_VARIANT = "89ab"  # the first digit of the fourth group, by RFC 9562


_RANDOM_BYTES = 8  # of one id
_DRAWN = 128  # ids for which randomness is drawn at a time: a system call for each is dear


class TraceIds:
    """Mints ids from the system's randomness."""

    def __init__(self) -> None:
        self._random = b""
        self._at = 0

    def mint(self, unix_ns: int) -> str:
        """A new id of the time *unix_ns*."""
        at = self._at
        if at == len(self._random):
            self._random, at = os.urandom(_RANDOM_BYTES * _DRAWN), 0
        self._at = at + _RANDOM_BYTES
        return uuid7(unix_ns, self._random[at : self._at])


def uuid7(unix_ns: int, random: bytes) -> str:
    """The UUIDv7 of *unix_ns* and eight random bytes. They sort by time, to below a microsecond."""
    milliseconds, rest_ns = divmod(unix_ns, 1_000_000)
    time = f"{milliseconds:012x}"
    rest = random.hex()
    return (
        f"{time[:8]}-{time[8:]}-7{rest_ns * 4096 // 1_000_000:03x}"
        f"-{_VARIANT[random[0] & 3]}{rest[1:4]}-{rest[4:]}"
    )
