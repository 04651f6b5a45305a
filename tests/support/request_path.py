"""A gateway worker in a thread, on a real socket: the whole request path in front of a scripted upstream."""

from __future__ import annotations

import json
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvloop
import yaml

from gateway.config.load import load_config
from gateway.config.secrets import Secrets
from gateway.state import State
from gateway.traces.segments import Record, SegmentReader
from gateway.traces.types import CapturedTrace
from gateway.worker import Server, create_server, create_state

ROUTE = "bot"
# What every upstream of these tests is configured with; a test's own settings come on top.
UPSTREAM_DEFAULTS: dict[str, Any] = {}


def config_for(base_url: str | list[str], **upstream: Any) -> dict[str, Any]:
    """One route on one upstream."""
    servers = {"base_urls": base_url} if isinstance(base_url, list) else {"base_url": base_url}
    return {
        "upstreams": [{"name": "up", **UPSTREAM_DEFAULTS, **servers, **upstream}],
        "routes": [
            {"model": ROUTE, "variants": [{"name": "stable", "upstream": "up", "model": "served-model"}]}
        ],
    }


class RunningGateway:
    """The worker under test. `traces()` waits for what it has captured."""

    def __init__(self, state: State, server: Server, port: int) -> None:
        self.state = state
        self.server = server
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self.base_url = f"{self.url}/v1"

    def records(self, count: int = 1, within_s: float = 3.0) -> list[Record]:
        """At least *count* captured traces with their bodies, in order."""
        reader = SegmentReader(self.state.paths.segments)
        deadline = time.monotonic() + within_s
        while True:
            batches = [reader.read(path, 0) for path in reader.segments()]
            records = [record for batch in batches if batch for record in batch.records]
            found = [record for record in records if isinstance(record.captured, CapturedTrace)]
            if len(found) >= count:
                return found
            assert time.monotonic() < deadline, f"{len(found)} of {count} traces were captured"
            time.sleep(0.01)

    def traces(self, count: int = 1, within_s: float = 3.0) -> list[CapturedTrace]:
        captured = [record.captured for record in self.records(count, within_s)]
        return [trace for trace in captured if isinstance(trace, CapturedTrace)]

    def trace(self, within_s: float = 3.0) -> CapturedTrace:
        """The only one."""
        found = self.traces(1, within_s)
        assert len(found) == 1, found
        return found[0]

    def wait_idle(self, connections: int = 0) -> None:
        """Until nothing is under way, and so many connections to upstreams are free again.

        An answer is out a moment before its connection is free, and with trailers the request is over before.
        """
        pools = self.state.live.pools.values()

        def idle() -> bool:
            free = sum(len(server.idle) for pool in pools for server in pool.servers)
            return free >= connections and not any(pool.in_flight for pool in pools)

        wait_until(idle)

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=10)


@contextmanager
def running_gateway(
    directory: Path, config: Mapping[str, Any], environ: Mapping[str, str] | None = None
) -> Iterator[RunningGateway]:
    """Serve *config* from a thread of this process until the block ends."""
    path = directory / "tracetune.yaml"
    path.write_text(yaml.safe_dump(dict(config)))
    listener = socket.create_server(("127.0.0.1", 0), backlog=512)
    state = create_state(path, load_config(path), 0, environ or {})
    server = create_server(state)
    thread = threading.Thread(target=lambda: uvloop.run(server.serve(sockets=[listener])), daemon=True)
    thread.start()
    try:
        wait_until(lambda: server.started)
        yield RunningGateway(state, server, listener.getsockname()[1])
    finally:
        server.stop()
        thread.join(15)
        state.close()
        shutil.rmtree(state.paths.segments, ignore_errors=True)


def wait_until(check: Callable[[], bool], within_s: float = 5.0) -> None:
    deadline = time.monotonic() + within_s
    while not check():
        assert time.monotonic() < deadline, "it did not come to pass in time"
        time.sleep(0.005)


def no_secrets() -> Secrets:
    return Secrets(upstreams={}, client_keys={}, admin_key=None, store_password=None)


def chat(**fields: Any) -> dict[str, Any]:
    """A request's body."""
    return {"model": ROUTE, "messages": [{"role": "user", "content": "hi"}], **fields}


def post_bytes(body: bytes, path: str = "/v1/chat/completions", *headers: str) -> bytes:
    """A whole request, to be written to a socket."""
    lines = "".join(f"{header}\r\n" for header in headers)
    head = (
        f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n{lines}"
        f"content-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def post_chat(**fields: Any) -> bytes:
    return post_bytes(json.dumps(chat(**fields)).encode())
