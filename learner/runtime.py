"""What a model process needs of its machine: the device found at run time, quiet libraries, a tidy end."""

from __future__ import annotations

import ctypes
import importlib.util
import logging
import os
import signal
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Literal

import msgspec

from learner.errors import LearnerError

LIBRARIES = ("torch", "transformers", "peft", "trl", "accelerate", "datasets")
# Added to a batch process's niceness: the gateway and the inference server of the same machine go first.
NICENESS = 5
# A script whose starter was killed ends at its next step; the one that goes on in its place waits this long.
ORPHAN_ENDS_WITHIN_S = 120.0
_PR_SET_PDEATHSIG = 1

# Environment of every model process. Spinning OpenMP threads of two torch processes on the same cores starve
# each other; no model hub is ever asked; the tokenizer's own threads would compete with torch's.
MODEL_ENVIRONMENT = {
    "OMP_WAIT_POLICY": "PASSIVE",
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "PYTHONUNBUFFERED": "1",
}


def check_installed(*modules: str) -> None:
    """Raise LearnerError, with the remedy, unless all of *modules* are there: a core install has none."""
    missing = [module for module in modules if importlib.util.find_spec(module) is None]
    if missing:
        raise LearnerError(f"learning needs {', '.join(missing)}; pip install 'tracetune[learner]'")


class Device(msgspec.Struct, frozen=True):
    """Where the model runs. `bf16`: the hardware computes in it; without, fp32 is faster."""

    kind: Literal["cpu", "cuda"]
    bf16: bool


def find_device(threads: int | None = None) -> Device:
    """The device to use: an NVIDIA GPU if there is one, else the CPU with *threads* (default: all cores)."""
    import torch

    if torch.cuda.is_available():
        return Device("cuda", torch.cuda.is_bf16_supported())
    if threads is not None:
        torch.set_num_threads(threads)
    return Device("cpu", bf16=False)


def quiet_libraries() -> None:
    """Keep progress bars and advice of the training libraries out of our logs; errors stay."""
    import warnings

    warnings.simplefilter("ignore")
    import datasets
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    datasets.disable_progress_bars()
    logging.getLogger("trl").setLevel(logging.ERROR)


def library_versions() -> dict[str, str]:
    """Versions of the libraries that decide the weights."""
    found: dict[str, str] = {}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def die_with_parent() -> None:
    """Be nice, and on Linux end this process when the one that started it dies, even by SIGKILL."""
    os.nice(NICENESS)
    if sys.platform == "linux":
        parent = os.getppid()
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died before we asked
            os._exit(1)
