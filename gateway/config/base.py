"""What every settings type is built from."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

Fraction = Annotated[float, Meta(ge=0, le=1)]
Seconds = Annotated[float, Meta(gt=0)]
Usd = Annotated[float, Meta(ge=0, le=1_000_000)]
Name = Annotated[str, Meta(min_length=1, max_length=200)]


class Strict(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of everything a person writes: an unknown field is an error that names the field and the place."""
