"""How each contender is started: in front of one upstream, on the contender's core, ready for the load."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path

from benchmarks import ours
from benchmarks.install import CONTENDERS, NODE_PACKAGES, PYTHON_PACKAGES, executable, missing_reasons
from benchmarks.nginx import proxy_configuration, started_nginx
from benchmarks.place import Place, Running
from benchmarks.processes import free_port, started, wait_answering
from benchmarks.types import BenchmarkError

READY_WITHIN_S = 90.0  # LiteLLM imports for a quarter of a minute

Start = Callable[[Place], AbstractContextManager[Running]]


@contextlib.contextmanager
def _direct(place: Place) -> Iterator[Running]:
    yield Running(port=place.upstream)


@contextlib.contextmanager
def _nginx(place: Place) -> Iterator[Running]:
    port = free_port()
    configuration = proxy_configuration(place.folder, port, place.upstream)
    with started_nginx(configuration, place.folder, port, place.cores.workers[0]) as process:
        yield Running(port=port, workers=[process.pid])


@contextlib.contextmanager
def _vllm_router(place: Place) -> Iterator[Running]:
    port = free_port()
    command = [str(_installed("vllm-router", "bin/vllm-router")), "--host", "127.0.0.1", "--port", str(port)]
    command += ["--worker-urls", f"http://127.0.0.1:{place.upstream}", "--policy", "round_robin"]
    command += ["--prometheus-port", str(free_port()), "--log-level", "error"]
    with _serving(place, command, port) as running:
        yield running


@contextlib.contextmanager
def _portkey(place: Place) -> Iterator[Running]:
    port = free_port()
    node = executable("node")
    if node is None:
        raise BenchmarkError("node is not on this machine")
    server = _installed("portkey", "node_modules/@portkey-ai/gateway/build/start-server.js")
    headers = {
        "x-portkey-provider": "openai",
        "x-portkey-custom-host": f"http://127.0.0.1:{place.upstream}/v1",
    }
    with _serving(place, [str(node), str(server), f"--port={port}", "--headless"], port, headers) as running:
        yield running


@contextlib.contextmanager
def _litellm(place: Place) -> Iterator[Running]:
    port = free_port()
    parameters = {
        "model": "openai/served",
        "api_base": f"http://127.0.0.1:{place.upstream}/v1",
        "api_key": "sk-upstream",
    }
    configuration = place.folder / "litellm.yaml"
    configuration.write_text(
        json.dumps({"model_list": [{"model_name": "bot", "litellm_params": parameters}]})
    )
    command = [str(_installed("litellm", "bin/litellm")), "--config", str(configuration)]
    command += ["--host", "127.0.0.1", "--port", str(port), "--num_workers", "1", "--telemetry", "False"]
    # Otherwise it asks the network for its table of prices while it starts.
    env = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR"}
    with _serving(place, command, port, env=env) as running:
        yield running


@contextlib.contextmanager
def _serving(
    place: Place, command: list[str], port: int, headers: Mapping[str, str] = {}, env: Mapping[str, str] = {}
) -> Iterator[Running]:
    log = place.folder / "log"
    with started(command, core=place.cores.workers[0], log=log, env=env, cwd=place.folder) as process:
        wait_answering(process, port, headers, log, READY_WITHIN_S)
        yield Running(port=port, headers=dict(headers), workers=[process.pid])


def _installed(name: str, path: str) -> Path:
    found = CONTENDERS / name / path
    if not found.exists():
        pin = {**PYTHON_PACKAGES, **NODE_PACKAGES}[name]
        reason = missing_reasons().get(name, "run `python -m benchmarks.install`")
        raise BenchmarkError(f"{pin} is not installed: {reason}")
    return found


# In the order of a round: what is compared most closely stands side by side.
STARTS: dict[str, Start] = {
    "direct": _direct,
    "nginx": _nginx,
    "vllm-router": _vllm_router,
    "ours": ours.everything_on,
    "ours, capture none": ours.capture_none,
    "ours, two workers": ours.two_workers,
    "portkey": _portkey,
    "litellm": _litellm,
}
