"""What `init` finds: an upstream that answers to a key at hand, memory, a GPU, a base model, a free port."""

from __future__ import annotations

import importlib.util
import os
import socket
from collections.abc import Mapping
from pathlib import Path

import msgspec

from learner.serving.vllm_python import vllm_starts

DEFAULT_PORT = 8080
PORTS_TRIED = 50
NVIDIA = Path("/proc/driver/nvidia/version")


class Provider(msgspec.Struct, frozen=True, kw_only=True):
    """A service that speaks the OpenAI API, the variable its key is found in, and a model to start with."""

    name: str
    key_env: str
    base_url: str
    model: str
    prices: tuple[float, float] | None  # USD per million tokens, input and output; None: unknown


# Base URLs and variables as the providers document them; prices only where we keep them current.
PROVIDERS = (
    Provider(
        name="openai",
        key_env="OPENAI_API_KEY",
        base_url="https://api.openai.com/v1",
        model="gpt-4o-mini",
        prices=(0.15, 0.60),
    ),
    Provider(
        name="openrouter",
        key_env="OPENROUTER_API_KEY",
        base_url="https://openrouter.ai/api/v1",
        model="openai/gpt-4o-mini",
        prices=None,
    ),
    Provider(
        name="mistral",
        key_env="MISTRAL_API_KEY",
        base_url="https://api.mistral.ai/v1",
        model="mistral-small-latest",
        prices=None,
    ),
    Provider(
        name="deepseek",
        key_env="DEEPSEEK_API_KEY",
        base_url="https://api.deepseek.com/v1",
        model="deepseek-chat",
        prices=None,
    ),
    Provider(
        name="groq",
        key_env="GROQ_API_KEY",
        base_url="https://api.groq.com/openai/v1",
        model="llama-3.3-70b-versatile",
        prices=None,
    ),
    Provider(
        name="together",
        key_env="TOGETHER_API_KEY",
        base_url="https://api.together.xyz/v1",
        model="meta-llama/Llama-3.3-70B-Instruct-Turbo",
        prices=None,
    ),
    Provider(
        name="fireworks",
        key_env="FIREWORKS_API_KEY",
        base_url="https://api.fireworks.ai/inference/v1",
        model="accounts/fireworks/models/llama-v3p3-70b-instruct",
        prices=None,
    ),
)


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """What was found. `memory_gb` is physical memory; `base_model` the first usable model directory."""

    provider: Provider | None  # None: no key in the environment
    memory_gb: float
    gpu: bool
    vllm: bool  # whether vLLM starts here, beside a GPU; without one it is not looked for
    torch: bool
    base_model: Path | None
    port: int
    serve_port: int


def look(environ: Mapping[str, str], folder: Path, nvidia: Path = NVIDIA) -> Machine:
    """Look at this machine, whose GPU driver says at *nvidia* that it is there. Asks nothing of the network.

    Where there is a GPU and a vLLM, this takes the seconds that importing vLLM takes.
    """
    gpu = nvidia.exists()
    port = _free_port(DEFAULT_PORT)
    return Machine(
        provider=find_provider(environ),
        memory_gb=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9,
        gpu=gpu,
        vllm=gpu and vllm_starts(environ),
        torch=importlib.util.find_spec("torch") is not None,
        base_model=_find_base_model(folder),
        port=port,
        serve_port=_free_port(port + 1000),
    )


def find_provider(environ: Mapping[str, str]) -> Provider | None:
    """The first provider whose key is set; the OpenAI client's own OPENAI_BASE_URL is honoured."""
    for provider in PROVIDERS:
        if not environ.get(provider.key_env):
            continue
        base_url = environ.get("OPENAI_BASE_URL") if provider.name == "openai" else None
        if base_url:
            return msgspec.structs.replace(provider, name="upstream", base_url=base_url, prices=None)
        return provider
    return None


def _find_base_model(folder: Path) -> Path | None:
    for parent in (folder.resolve() / "models", Path(__file__).resolve().parents[2] / "models"):
        for config in sorted(parent.glob("*/config.json")):
            return config.parent
    return None


def _free_port(first: int) -> int:
    for port in range(first, first + PORTS_TRIED):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    return first
