"""`state/limits.json`: what keys have used, for the next start. Whole files only; a bad one is set aside."""

from __future__ import annotations

import logging
import time
from datetime import datetime
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from gateway.config.types import Name, Period
from gateway.errors import OperationError
from gateway.overlay_file import replace_durably
from gateway.quotas.windows import PERIODS, numbers_at, starts_at

log = logging.getLogger(__name__)

MAX_SAVED_BYTES = 16 << 20  # 2,048 keys with long names are some 3 MB; more than this is not a file of ours
Amount = Annotated[int, Meta(ge=0, le=1 << 62)]
Moment = Annotated[datetime, Meta(tz=True)]


class SavedWindow(msgspec.Struct, frozen=True, kw_only=True):
    """What was used in the window of *per* that starts at *starts_at* (UTC)."""

    per: Period
    starts_at: Moment
    requests: Amount
    tokens: Amount
    nano_usd: Amount

    @property
    def period(self) -> int:
        return PERIODS.index(self.per)

    @property
    def number(self) -> int:
        return numbers_at(self.starts_at.timestamp())[self.period]


class SavedKey(msgspec.Struct, frozen=True, kw_only=True):
    """A key by its name, and its windows that are not long over."""

    name: Name
    windows: list[SavedWindow]


class Saved(msgspec.Struct, frozen=True, kw_only=True):
    """The whole file."""

    saved_at: Moment
    keys: list[SavedKey]


def saved_window(period: int, number: int, used: tuple[int, int, int]) -> SavedWindow:
    """Window *number* of PERIODS[*period*] with the amounts *used* in it."""
    requests, tokens, nano_usd = used
    return SavedWindow(
        per=PERIODS[period],
        starts_at=starts_at(period, number),
        requests=requests,
        tokens=tokens,
        nano_usd=nano_usd,
    )


def load_saved(path: Path) -> list[SavedKey]:
    """The keys in the file at *path*, none where there is no file. Sets one that cannot be read aside.

    Raises OperationError where the directory refuses.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_SAVED_BYTES + 1)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise OperationError(f"{path} cannot be read: {error.strerror}; check its permissions") from error
    try:
        return _decode(content)
    except msgspec.DecodeError as error:
        aside = path.with_name(f"{path.name}.bad-{time.time_ns()}")
        try:
            path.rename(aside)
        except OSError as refused:
            raise OperationError(f"{path} cannot be set aside: {refused.strerror}") from refused
        log.error(  # noqa: TRY400 -- the traceback of a bad file says nothing
            "%s cannot be read (%s); kept as %s, keys with limits start with nothing used",
            path,
            error,
            aside.name,
        )
        return []


def write_saved(path: Path, saved: Saved) -> None:
    """Replace the file at *path*, alone among all processes. Raises OperationError where the disk refuses."""
    content = msgspec.json.format(msgspec.json.encode(saved), indent=1)
    try:
        replace_durably(path, path.with_name(f"{path.name}.tmp"), content)
    except OSError as error:
        raise OperationError(
            f"{path}: what keys have used cannot be saved: {error.strerror}; check the disk"
        ) from error


def _decode(content: bytes) -> list[SavedKey]:
    if len(content) > MAX_SAVED_BYTES:
        raise msgspec.DecodeError(f"larger than {MAX_SAVED_BYTES} bytes")
    return msgspec.json.decode(content, type=Saved).keys
