"""What makes a directory a model, as far as files tell without loading any."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

INDEX = "model.safetensors.index.json"
_OTHER_WEIGHTS = {".gguf", ".bin"}  # what vLLM takes, too; not looked into
MAX_HEADER_BYTES = 100_000_000  # the format's own bound


def model_fault(directory: Path) -> str | None:
    """Why *directory* can be served by nobody, naming the file; None where nothing is wrong with it."""
    if not directory.is_dir():
        return f"{directory} is not there"
    try:
        described = msgspec.json.decode((directory / "config.json").read_bytes(), type=dict[str, Any])
    except (OSError, msgspec.DecodeError):
        return f"{directory / 'config.json'} is not there or no JSON object"
    if not described.get("model_type"):
        return f"{directory / 'config.json'} names no model_type"
    return weights_fault(directory)


def weights_fault(directory: Path) -> str | None:
    """Why the weights in *directory* are none, or not whole; None where they are. Only headers are read."""
    index = directory / INDEX
    if index.is_file():
        try:
            shards = set(msgspec.json.decode(index.read_bytes(), type=_Index).weight_map.values())
        except (OSError, msgspec.DecodeError):
            return f"{index} is damaged"
        missing = sorted(name for name in shards if not (directory / name).is_file())
        if missing:
            return f"{directory / missing[0]} is not there, and {INDEX} names it"
    files = sorted(directory.glob("*.safetensors"))
    if not files and not any(path.suffix in _OTHER_WEIGHTS for path in directory.iterdir()):
        return f"{directory} holds no weights (*.safetensors)"
    return next((fault for file in files if (fault := _file_fault(file)) is not None), None)


class _Index(msgspec.Struct):
    weight_map: dict[str, str]


class _Tensor(msgspec.Struct):
    data_offsets: tuple[int, int]


def _file_fault(path: Path) -> str | None:
    """A safetensors file is the header's length in 8 bytes, the header, and the tensors that it places."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = file.read(length) if length <= min(size, MAX_HEADER_BYTES) else b""
        named = msgspec.json.decode(header, type=dict[str, msgspec.Raw])
        tensors = [
            msgspec.json.decode(raw, type=_Tensor) for key, raw in named.items() if key != "__metadata__"
        ]
    except OSError as error:
        return f"{path} cannot be read: {error.strerror}"
    except msgspec.DecodeError:
        return f"{path} is damaged: it has no readable header"
    whole = 8 + length + max((tensor.data_offsets[1] for tensor in tensors), default=0)
    return f"{path} is damaged: it has {size} bytes of {whole}" if size != whole else None
