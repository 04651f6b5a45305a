"""Whether the demo serves its model with vLLM: given an NVIDIA GPU and an interpreter that has it."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from learner.serving.vllm_python import VLLM_PYTHON

NVIDIA = Path("/proc/driver/nvidia/version")
IMPORT_WITHIN_S = 120.0  # it loads CUDA's libraries, from a cold disk


def serves_with_vllm(environ: Mapping[str, str], *, gpu: bool) -> bool:
    """Whether vLLM can be imported where a managed upstream would run it. Never raises.

    Asked of the interpreter itself, since an installation for another CUDA is there and yet of no use.
    """
    python = environ.get(VLLM_PYTHON) or sys.executable
    if not gpu or (python == sys.executable and importlib.util.find_spec("vllm") is None):
        return False
    try:
        done = subprocess.run(
            [python, "-c", "import vllm"], capture_output=True, timeout=IMPORT_WITHIN_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0
