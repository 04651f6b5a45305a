"""Judges on a Ray cluster (the extra `ray`): each process of a judge is an actor that hosts a Sandbox.

A seat here speaks for one actor there. `judges.pool` keeps the order and the bounds, as it does for processes
of this machine; the Sandbox keeps time and memory, on the machine where the actor is.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import islice, takewhile
from typing import Any

import msgspec

from gateway.config import Config, JudgeConfig
from gateway.errors import ConfigError
from judges.errors import JudgeFileError, JudgeWorkerError
from judges.load import JudgeSource
from judges.pool import Pool
from judges.sandbox import IMPORT_WITHIN_S, IN_FLIGHT, Sandbox
from judges.wire import Answer, Ready, Refused, Task

ROOM_WITHIN_S = 120.0  # for the cluster to have a CPU free for the first actor of a judge
BATCH_S = 1.0  # an actor is given as much at a time as it judges in about this
_STOP_CHECK_S = 0.2
_connecting = threading.Lock()


def ray_pool(config: Config, judge: JudgeConfig, definition: JudgeSource) -> Pool:
    """What runs *judge* on the cluster of *config*, not started yet. Raises ConfigError, JudgeWorkerError."""
    ray = _connected(config.judging.ray_address)
    bounds = {"timeout_s": judge.within_s, "memory_mb": judge.memory_mb}
    return Pool([RaySeat(ray, definition, bounds) for _ in range(judge.limits.concurrent)])


class Host:
    """What lives in an actor: a Sandbox. Bytes in and out are msgpack, as over the pipes of a worker."""

    def __init__(self, source: JudgeSource, bounds: dict[str, Any]) -> None:
        self._sandbox = Sandbox(source, **bounds)

    def ready(self) -> bool:
        """Answers as soon as the actor has been placed."""
        return True

    def start(self, within_s: float) -> bytes:
        """Ready, or Refused where the judge's file is at fault."""
        try:
            self._sandbox.start(within_s)
        except JudgeFileError as error:
            return msgspec.msgpack.encode(Refused(message=str(error)))
        return msgspec.msgpack.encode(Ready(parameters=self._sandbox.parameters))

    def judge(self, tasks: bytes) -> bytes:
        """The answers to *tasks*, in order."""
        return msgspec.msgpack.encode(
            list(self._sandbox.judge(msgspec.msgpack.decode(tasks, type=list[Task])))
        )


class RaySeat:
    """One actor. Not thread-safe: one thread at a time owns it. `close` ends the actor and all it started."""

    def __init__(self, ray: Any, source: JudgeSource, bounds: dict[str, Any]) -> None:
        self._ray = ray
        self._source = source
        self._bounds = bounds
        self._actor: Any = None  # Any: Ray's handles have no types
        self._parameters: tuple[str, ...] = ()

    @property
    def parameters(self) -> tuple[str, ...]:
        """What the judge takes; known once it is started."""
        return self._parameters

    def start(self, within_s: float = IMPORT_WITHIN_S, stop: Callable[[], bool] = lambda: False) -> None:
        """Import the judge in an actor. Raises JudgeFileError, JudgeWorkerError. Not where *stop* says so."""
        if self._parameters:
            return
        if self._actor is None:
            kind = self._ray.remote(Host).options(num_cpus=1, scheduling_strategy="SPREAD", max_restarts=0)
            self._actor = kind.remote(self._source, self._bounds)
        if self._wait(self._actor.ready.remote(), stop, ROOM_WITHIN_S) is None:
            return
        reply = self._wait(self._actor.start.remote(within_s), stop, within_s + ROOM_WITHIN_S)
        if reply is None:
            return
        told = msgspec.msgpack.decode(reply, type=Ready | Refused)
        if isinstance(told, Refused):
            self.close()
            raise JudgeFileError(told.message)
        self._parameters = told.parameters

    def judge(
        self, tasks: Iterable[Task | None], stop: Callable[[], bool] = lambda: False
    ) -> Iterator[Answer]:
        """As Sandbox.judge. Raises JudgeFileError, JudgeWorkerError."""
        source = iter(tasks)
        most = 1
        while not stop():
            batch = list(islice(takewhile(lambda task: task is not None, source), most))
            if not batch:
                return
            self.start(stop=stop)
            if not self._parameters:
                return  # told to stop meanwhile
            reply = self._wait(self._actor.judge.remote(msgspec.msgpack.encode(batch)), stop)
            if reply is None:
                self.close()  # it is still at a batch that nobody waits for
                return
            answers = msgspec.msgpack.decode(reply, type=list[Answer])
            slowest = max(answer.seconds for answer in answers)
            most = max(1, min(IN_FLIGHT, int(BATCH_S / max(slowest, 0.001))))
            yield from answers

    def close(self) -> None:
        """End the actor, and with it everything that the judge started."""
        if self._actor is not None:
            self._ray.kill(self._actor)
            self._actor, self._parameters = None, ()

    def _wait(self, reference: Any, stop: Callable[[], bool], within_s: float = float("inf")) -> Any:
        """What *reference* becomes; None where *stop* says so first. Raises JudgeWorkerError."""
        until = time.monotonic() + within_s
        while not stop():
            done, _ = self._ray.wait([reference], timeout=_STOP_CHECK_S)
            try:
                if done:
                    return self._ray.get(reference)
            except self._ray.exceptions.RayError as error:
                self.close()
                raise JudgeWorkerError(f"the Ray actor of a judge is gone: {type(error).__name__}") from error
            if time.monotonic() > until:
                self.close()
                raise JudgeWorkerError(
                    f"the Ray cluster has no CPU free for a judge after {within_s:g} s; "
                    "add machines, or lower limits.concurrent of the judges"
                )
        return None


def _connected(address: str | None) -> Any:
    """Ray, connected to the cluster at *address*; without one a cluster of this machine is started, once."""
    try:
        import ray
    except ImportError as error:
        raise ConfigError(
            "judging.executor is ray, which is not installed: pip install 'tracetune[ray]'"
        ) from error
    with _connecting:
        if ray.is_initialized():
            return ray
        failed: list[Exception] = []
        connected = threading.Event()

        def connect() -> None:
            try:
                ray.init(address=address, include_dashboard=False, log_to_driver=False, logging_level="error")
            except Exception as error:  # noqa: BLE001 -- Ray raises what it likes; told in the caller's thread
                failed.append(error)
            connected.set()
            threading.Event().wait()

        # The cluster's processes end with the thread that started them, so that thread never does.
        threading.Thread(target=connect, name="ray", daemon=True).start()
        connected.wait()
        if failed:
            place = address or "on this machine"
            raise JudgeWorkerError(f"no Ray cluster {place}: {failed[0]}; correct judging.ray_address")
    return ray
