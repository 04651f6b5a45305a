"""Where an export goes: lines of JSON, or a Parquet file."""

from __future__ import annotations

import types
from datetime import datetime
from typing import Any, BinaryIO, Literal, Protocol, Self, Union, get_args, get_origin, get_type_hints

import msgspec

from gateway.errors import OperationError
from gateway.traces.exporting.chat import chat_of
from gateway.traces.exporting.examples import Build
from gateway.traces.types import Trace

SCORE = "score"  # the column beside those of `traces`: of the judge that was asked for, else NULL


class Sink(Protocol):
    """Takes traces one after the other, in batches of bounded size."""

    def add(self, trace: Trace, score: float | None) -> str | None:
        """Take *trace*; the reason where it cannot be one of this format."""
        ...

    def flush(self) -> None:
        """Write what was taken. Raises OSError."""
        ...

    def close(self) -> dict[str, int]:
        """Write what ends the file; of those taken, how many are not in it after all, by reason.

        Raises OSError.
        """
        ...


class Lines:
    """One example a line."""

    def __init__(self, out: BinaryIO, build: Build) -> None:
        self._out = out
        self._build = build
        self._encode = msgspec.json.Encoder().encode

    def add(self, trace: Trace, score: float | None) -> str | None:
        chat = chat_of(trace)
        example = chat if isinstance(chat, str) else self._build(chat, score)
        if isinstance(example, str):
            return example
        self._out.write(self._encode(example) + b"\n")
        return None

    def flush(self) -> None:
        self._out.flush()

    def close(self) -> dict[str, int]:
        self._out.flush()
        return {}


class Parquet:
    """The rows of `traces` as they are, bodies as JSON text, with a column for the score."""

    def __init__(self, out: BinaryIO) -> None:
        try:
            import pyarrow as pa
            import pyarrow.parquet as pq
        except ModuleNotFoundError as error:
            raise OperationError("writing Parquet needs pyarrow; pip install pyarrow") from error
        self._pa = pa
        self._schema = pa.schema(_fields(pa))
        self._writer = pq.ParquetWriter(_Counted(out), self._schema, compression="zstd")
        self._rows: list[dict[str, Any]] = []

    def add(self, trace: Trace, score: float | None) -> str | None:
        self._rows.append({**msgspec.structs.asdict(trace), SCORE: score})
        return None

    def flush(self) -> None:
        if self._rows:
            self._writer.write_table(self._pa.Table.from_pylist(self._rows, self._schema))
            self._rows = []

    def close(self) -> dict[str, int]:
        self.flush()
        self._writer.close()
        return {}


def _fields(pa: Any) -> list[tuple[str, Any]]:
    """The columns of `traces`, as the types of `Trace` say, and the score."""
    kinds = {
        str: pa.string(),
        bool: pa.bool_(),
        int: pa.int64(),
        float: pa.float64(),
        datetime: pa.timestamp("us", tz="UTC"),
        dict: pa.map_(pa.string(), pa.string()),
    }
    hints = get_type_hints(Trace)
    columns = [(name, kinds[_plain(hints[name])]) for name in Trace.__struct_fields__]
    return [*columns, (SCORE, pa.float64())]


def _plain(hint: Any) -> type:
    """The type under a hint: `str` of `str | None` and of a Literal of strings, `dict` of a `dict[…]`."""
    if get_origin(hint) in (Union, types.UnionType):
        (hint,) = [inner for inner in get_args(hint) if inner is not types.NoneType]
    if get_origin(hint) is Literal:
        return type(get_args(hint)[0])
    plain: type = get_origin(hint) or hint
    return plain


class _Counted:
    """Standard output has no position to tell, and a Parquet file is written by its own."""

    def __init__(self, out: BinaryIO) -> None:
        self._out = out
        self._at = 0
        self.closed = False

    def write(self, data: Any) -> int:
        self._out.write(data)
        self._at += len(memoryview(data).cast("B"))
        return len(data)

    def tell(self) -> int:
        return self._at

    def flush(self) -> None:
        self._out.flush()

    def close(self) -> None:
        self.closed = True  # ours to close is nothing: the file is the caller's

    def readable(self) -> bool:
        return False

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
