"""Which processes a configuration asks for, in the order in which they start. Pure.

Judges and learner are named by module, never imported: the gateway runs without them.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Literal

import msgspec

from gateway.config.types import Config, Upstream

STOP_GRACE_S = 2.0  # beyond the time in which a worker lets its requests finish

Ready = Literal["alive", "store", "gateway", "model"]

# Two processes of torch that spin while they wait starve each other and the gateway on a small machine.
_TORCH_ENV = {"OMP_WAIT_POLICY": "PASSIVE", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}


class ProcessPlan(msgspec.Struct, frozen=True, kw_only=True):
    """One process: how to start it, how to tell that it is ready, how long it may take to stop."""

    name: str
    argv: list[str]
    env: dict[str, str] = {}
    ready: Ready = "alive"
    ready_within_s: float = 30.0
    stop_within_s: float = 8.0
    nice: int = 0
    listens: bool = False  # inherits the listening socket
    health_url: str = ""  # of a "model": answers once the model is loaded, which the others do not wait for


def plan_capture(config: Config, config_path: Path) -> list[ProcessPlan]:
    """The way of a trace to the disk, and on to a remote store."""
    recorder = _plain("recorder", "gateway.traces.recorder", config_path)
    shipper = _plain("shipper", "gateway.traces.shipper", config_path)
    return [recorder] if config.store.embedded else [recorder, shipper]


def plan_gateway(config: Config, config_path: Path) -> list[ProcessPlan]:
    """One gateway worker per `listen.workers`, all on one listening socket."""
    return [
        ProcessPlan(
            name=f"gateway-{index}",
            argv=[*_module("gateway.worker", config_path), "--index", str(index)],
            ready="gateway",
            stop_within_s=config.listen.drain_s + STOP_GRACE_S,
            listens=True,
        )
        for index in range(config.listen.workers)
    ]


def plan_up(config: Config, config_path: Path) -> list[ProcessPlan]:
    """Everything, in start order; it stops in the reverse order, so that what is captured is also stored."""
    plans: list[ProcessPlan] = []
    if config.store.embedded:
        plans.append(
            ProcessPlan(
                name="store",
                argv=_module("gateway.traces.embedded", config_path),
                ready="store",
                ready_within_s=60.0,
                stop_within_s=15.0,
            )
        )
    plans.append(_plain("shipper", "gateway.traces.shipper", config_path))
    plans.append(_plain("recorder", "gateway.traces.recorder", config_path))
    plans += [
        ProcessPlan(
            name=inference_name(upstream),
            argv=[*_module("learner.serving.managed", config_path), "--upstream", upstream.name],
            env=_TORCH_ENV,
            ready="model",
            health_url=f"{upstream.servers[0].removesuffix('/v1')}/health",
        )
        for upstream in config.upstreams
        if upstream.managed is not None
    ]
    plans += plan_gateway(config, config_path)
    if config.judges:
        plans.append(_plain("judges", "judges.runner", config_path))
    if config.learner:
        plans.append(
            ProcessPlan(name="learner", argv=_module("learner.process", config_path), env=_TORCH_ENV)
        )
    return plans


def inference_name(upstream: Upstream) -> str:
    """The process that serves a managed *upstream*."""
    return f"inference-{upstream.name}"


def _plain(name: str, module: str, config_path: Path) -> ProcessPlan:
    return ProcessPlan(name=name, argv=_module(module, config_path))


def _module(module: str, config_path: Path) -> list[str]:
    return [sys.executable, "-m", module, "--config", str(config_path)]
