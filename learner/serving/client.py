"""One inference server's adapter calls, as vLLM has them and `tracetune serve` too."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx
import msgspec

from gateway.config.secrets import read_secret
from gateway.config.types import Upstream
from learner.errors import ServingError

CONNECT_S = 2.0
ANSWER_S = 60.0  # a server that computes on a CPU lets a short question wait behind long answers


_T = TypeVar("_T")


class UnreachableServerError(ServingError):
    """Nothing answers there, or it fails; the same call may succeed later."""


class AdapterRefusedError(ServingError):
    """The server answered, and does not do what it was asked."""


class _Card(msgspec.Struct, kw_only=True):
    id: str
    root: str | None = None
    parent: str | None = None


class _Cards(msgspec.Struct):
    data: list[_Card]


class _Answer(msgspec.Struct, kw_only=True):
    model: str
    choices: list[Any]


class ServerClient:
    """Calls to the server at *base_url* (with /v1).

    Every method raises UnreachableServerError or AdapterRefusedError, one line that names the server.
    """

    def __init__(self, base_url: str, *, key: str | None = None) -> None:
        self.base_url = base_url
        self._client = httpx.Client(
            headers={"authorization": f"Bearer {key}"} if key else {},
            timeout=httpx.Timeout(ANSWER_S, connect=CONNECT_S),
            trust_env=False,  # inference servers stand in one's own network, behind no proxy
        )

    def adapters(self) -> dict[str, str | None]:
        """Loaded adapters in the order of loading: name -> path, where the server tells it."""
        cards = self._decoded(self._call("GET", "models"), _Cards).data
        return {card.id: card.root for card in cards if card.parent is not None}

    def load(self, name: str, path: Path) -> None:
        """Serve the adapter in *path*, as the server sees it, as *name*."""
        self._call("POST", "load_lora_adapter", {"lora_name": name, "lora_path": str(path)})

    def unload(self, name: str) -> None:
        """Stop serving *name*."""
        self._call("POST", "unload_lora_adapter", {"lora_name": name})

    def probe(self, name: str) -> None:
        """Have *name* answer a short question."""
        question = {
            "model": name,
            "messages": [{"role": "user", "content": "Say hello."}],
            "max_tokens": 4,
            "temperature": 0,
        }
        answer = self._decoded(self._call("POST", "chat/completions", question), _Answer)
        if answer.model != name or not answer.choices:
            raise AdapterRefusedError(f"{self.base_url}: asked for {name}, {answer.model} answered")

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _call(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> httpx.Response:
        try:
            response = self._client.request(method, f"{self.base_url}/{path}", json=body)
        except httpx.TransportError as error:
            reason = str(error) or type(error).__name__
            raise UnreachableServerError(
                f"inference server {self.base_url} cannot be reached: {reason}"
            ) from error
        if response.status_code >= 500:
            raise UnreachableServerError(
                f"inference server {self.base_url} failed with {response.status_code} at {path}"
            )
        if response.status_code >= 400:
            raise AdapterRefusedError(
                f"inference server {self.base_url} refused {path} with {response.status_code}: "
                f"{_reason(response)}"
            )
        return response

    def _decoded(self, response: httpx.Response, kind: type[_T]) -> _T:
        try:
            return msgspec.json.decode(response.content, type=kind)
        except msgspec.DecodeError as error:
            raise AdapterRefusedError(
                f"{self.base_url} does not speak the OpenAI API as vLLM does: {error}"
            ) from error


def clients(upstream: Upstream) -> list[ServerClient]:
    """A client for each server of *upstream*. Raises ConfigError when its key is missing."""
    key = None
    if upstream.api_key is not None:
        key = read_secret(upstream.api_key, os.environ, f"$.upstreams[{upstream.name}].api_key")
    return [ServerClient(url, key=key) for url in upstream.servers]


def _reason(response: httpx.Response) -> str:
    """The server's own message, else the start of its body."""
    try:
        return str(response.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return response.text[:200].strip() or "no reason given"
