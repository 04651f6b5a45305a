"""Talks to a running gateway's control API, for the command line and the learner.

UnreachableError   no gateway answers at the configured address
OperationError     it answers and cannot or will not: a missing key, a rollout it does not know
RefusedError       the version is stale, or the route's state forbids the decision
"""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

import httpx
import msgspec

from gateway.config.types import Config
from gateway.errors import ConfigError, OperationError, RefusedError, UsageError
from gateway.listening import local_url

TIMEOUT_S = 10.0  # a decision waits for the overlay's lock at most half as long


class UnreachableError(OperationError):
    """No gateway answers where the configuration says that one listens."""


class _Error(msgspec.Struct):
    message: str


class _Failure(msgspec.Struct):
    error: _Error


class ControlClient:
    """The control API of the gateway that *config* describes, with the key in TRACETUNE_ADMIN_KEY.

    Every call opens a connection of its own, so that a worker's restart in between is not noticed. All raise
    UnreachableError, OperationError, RefusedError (409) and UsageError (422), each in one line.
    """

    def __init__(self, config: Config, environ: Mapping[str, str]) -> None:
        self.url = control_url(config)
        key = environ.get("TRACETUNE_ADMIN_KEY")
        if key and not sendable(key):
            raise ConfigError("TRACETUNE_ADMIN_KEY has characters that no header can carry; set it again")
        self._client = httpx.Client(
            base_url=self.url,
            headers={"authorization": f"Bearer {key}"} if key else {},
            timeout=TIMEOUT_S,
            limits=httpx.Limits(max_keepalive_connections=0),
            trust_env=False,  # a proxy in the environment is for the world, not for loopback
        )

    def routes(self) -> dict[str, Any]:
        """`GET /api/routes`."""
        return self._call("GET", "/api/routes")

    def rollouts(self, route: str | None = None) -> dict[str, Any]:
        """`GET /api/rollouts`, of one route or of all."""
        return self._call("GET", "/api/rollouts", params={"route": route} if route is not None else None)

    def start_rollout(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """`POST /api/rollouts`; the body is `gateway.control.bodies.StartBody`."""
        return self._call("POST", "/api/rollouts", body=body)

    def act(self, rollout: str, action: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """`POST /api/rollouts/{rollout}/{action}`; the body is `gateway.control.bodies.ActBody`."""
        return self._call("POST", f"/api/rollouts/{rollout}/{action}", body=body)

    def roll_back(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """`POST /api/rollback`; the body is `gateway.control.bodies.RollbackBody`."""
        return self._call("POST", "/api/rollback", body=body)

    def explain(
        self, model: str, session: str | None = None, subject: str | None = None, client: str = ""
    ) -> dict[str, Any]:
        """`GET /api/explain`."""
        given = {"model": model, "session": session, "subject": subject, "client": client}
        return self._call(
            "GET", "/api/explain", params={name: value for name, value in given.items() if value is not None}
        )

    def ready(self) -> dict[str, Any]:
        """`GET /readyz`, whether it says ready or not."""
        return self._call("GET", "/readyz", accept=frozenset({200, 503}))

    def close(self) -> None:
        self._client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _call(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
        accept: frozenset[int] = frozenset({200, 201}),
    ) -> dict[str, Any]:
        content = msgspec.json.encode(body, enc_hook=str) if body is not None else None
        headers = {"content-type": "application/json"} if content is not None else {}
        try:
            response = self._client.request(method, path, params=params, content=content, headers=headers)
        except httpx.ConnectError as error:
            raise UnreachableError(
                f"no gateway answers at {self.url}; `tracetune up` or `tracetune gateway` starts it"
            ) from error
        except httpx.HTTPError as error:
            raise UnreachableError(
                f"the gateway at {self.url} did not answer: {error or 'no reason'}"
            ) from error
        if response.status_code in accept:
            return self._decoded(response)
        raise self._failed(response)

    def _decoded(self, response: httpx.Response) -> dict[str, Any]:
        try:
            return msgspec.json.decode(response.content, type=dict[str, Any])
        except msgspec.DecodeError as error:
            raise self._stranger() from error

    def _failed(self, response: httpx.Response) -> Exception:
        try:
            message = msgspec.json.decode(response.content, type=_Failure).error.message
        except msgspec.DecodeError:
            return self._stranger()
        if response.status_code in {401, 403}:
            return OperationError(f"the gateway at {self.url} refuses: {message} Set TRACETUNE_ADMIN_KEY.")
        if response.status_code == 409:
            return RefusedError(f"refused: {message}")
        if response.status_code == 422:
            return UsageError(message)
        return OperationError(message)

    def _stranger(self) -> OperationError:
        return OperationError(f"what answers at {self.url} is not this gateway; look at listen.port")


def sendable(key: str) -> bool:
    """Whether a header can carry *key*; what fails later would name it in its message."""
    return key.isascii() and key.isprintable() and key == key.strip()


def control_url(config: Config) -> str:
    """Where the control API of *config*'s gateway is reached from this machine."""
    listen = config.admin_listen or config.listen
    return local_url(listen.host, listen.port)
