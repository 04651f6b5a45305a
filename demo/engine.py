"""Whether the demo serves its model with vLLM: given an NVIDIA GPU and an interpreter that has it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from learner.serving.vllm_python import vllm_starts

NVIDIA = Path("/proc/driver/nvidia/version")


def serves_with_vllm(environ: Mapping[str, str], *, gpu: bool) -> bool:
    """Whether vLLM can be imported where a managed upstream would run it. Never raises."""
    return gpu and vllm_starts(environ)
