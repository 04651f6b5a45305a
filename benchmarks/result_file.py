"""Where what a run found goes: to standard output and, by its name, among the results that are kept."""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec

RESULTS = Path(__file__).parent / "results"


def tell(result: msgspec.Struct, name: str | None) -> None:
    """Write *result* as JSON to standard output, and to results/*name*.json where a name is given."""
    content = msgspec.json.format(msgspec.json.encode(result), indent=1) + b"\n"
    sys.stdout.buffer.write(content)
    if name:
        (RESULTS / f"{name}.json").write_bytes(content)
