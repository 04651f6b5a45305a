"""Runs the inference server of a managed upstream.

`python -m learner.serving.managed --config FILE --upstream NAME` becomes the server (exec), so that signals
and exit codes are the server's own.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn
from urllib.parse import urlsplit

import msgspec

from gateway.config import Config, Upstream, load_config
from gateway.errors import ConfigError, TracetuneError
from learner.errors import ServingError
from learner.registry import SERVABLE_RANKS
from learner.runtime import MODEL_ENVIRONMENT
from learner.serving.vllm_python import VLLM_SERVER, vllm_python
from learner.settings import lora_rank

MAX_LORAS = 4  # adapters in one batch: stable and candidate of two routes
DEFAULT_RANK = 16  # vLLM computes every adapter at the largest rank it was started for
_GPU = Path("/proc/driver/nvidia/version")
_VLLM_ENVIRONMENT = {
    "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB; these two are read by its CPU build alone
    "VLLM_CPU_NUM_OF_RESERVED_CPU": "0",
}
# Without bf16 instructions bf16 is two to four times slower than fp32; memory is shared with everything else.
_ON_CPU = ("--dtype", "float32", "--max-model-len", "2048", "--max-num-seqs", "16")


class ManagedServer(msgspec.Struct, frozen=True, kw_only=True):
    """How to start a server, and where it says that it is ready (200)."""

    argv: list[str]
    env: dict[str, str]  # in addition to the process's own
    health_url: str


def managed_server(
    config: Config, upstream: Upstream, environ: Mapping[str, str] = os.environ
) -> ManagedServer:
    """The server of a managed *upstream*, listening where its base_url says; `managed.args` come last.

    Raises ConfigError when the base_url cannot be listened on, ServingError when vLLM is asked for and
    not there.
    """
    managed = upstream.managed
    assert managed is not None, f"upstream {upstream.name!r} is not managed"
    host, port = _address(upstream)
    if managed.engine == "peft":
        argv = [sys.executable, "-m", "gateway.cli.root", "serve", "--model", str(managed.model)]
        env = MODEL_ENVIRONMENT
    else:
        argv = _vllm_argv(managed.model, environ, _rank(config, upstream))
        env = MODEL_ENVIRONMENT | _VLLM_ENVIRONMENT
    return ManagedServer(
        argv=[*argv, "--host", host, "--port", str(port), *managed.args],
        env=env,
        health_url=f"http://{host}:{port}/health",
    )


def _address(upstream: Upstream) -> tuple[str, int]:
    if len(upstream.servers) != 1:
        raise ConfigError(f"upstream {upstream.name!r} is managed and so has one base_url, not base_urls")
    parts = urlsplit(upstream.servers[0])
    if parts.scheme != "http" or parts.path != "/v1" or parts.hostname is None:
        raise ConfigError(
            f"upstream {upstream.name!r} is managed: its base_url must be http://HOST:PORT/v1, "
            f"not {upstream.servers[0]}"
        )
    return parts.hostname, parts.port or 80


def _rank(config: Config, upstream: Upstream) -> int:
    """The smallest rank that vLLM offers and every learner serving on *upstream* stays within."""
    ranks = [lora_rank(entry) for entry in config.learner if entry.serve_on == upstream.name]
    return next(rank for rank in SERVABLE_RANKS if rank >= max(ranks, default=DEFAULT_RANK))


def _vllm_argv(model: Path, environ: Mapping[str, str], rank: int) -> list[str]:
    argv = [vllm_python(environ), "-m", VLLM_SERVER]
    argv += ["--model", str(model), "--served-model-name", model.resolve().name]
    argv += ["--enable-lora", "--max-loras", str(MAX_LORAS), "--max-lora-rank", str(rank)]
    return argv if _GPU.exists() else [*argv, *_ON_CPU]


def _become(server: ManagedServer) -> NoReturn:
    try:
        os.execve(server.argv[0], server.argv, {**os.environ, **server.env})  # noqa: S606 -- our own interpreter
    except OSError as error:
        raise ServingError(f"{server.argv[0]} cannot be started: {error.strerror}") from error


def main(arguments: list[str]) -> int:
    """Become the server of the named upstream. Returns only when it cannot be started: the exit code."""
    parser = argparse.ArgumentParser(prog="python -m learner.serving.managed", description=__doc__)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--upstream", required=True)
    options = parser.parse_args(arguments)
    try:
        config = load_config(options.config)
        upstream = next((entry for entry in config.upstreams if entry.name == options.upstream), None)
        if upstream is None or upstream.managed is None:
            raise ConfigError(f"{options.config}: no managed upstream is named {options.upstream!r}")
        server = managed_server(config, upstream)
        _become(server)
    except TracetuneError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
