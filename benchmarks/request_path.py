"""What one gateway worker costs: CPU per buffered request and per streamed answer of 64 chunks.

    python benchmarks/request_path.py [--seconds 5] [--concurrency 32] > result.json

Three processes: this one makes the load, a fixed upstream answers, and the worker stands between them, all
switched on (routing, capture to shared memory, metrics). CPU is user + system time of the worker alone, from
/proc, so other load on the machine disturbs it little. `direct` is the same load without the gateway.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import multiprocessing
import os
import platform
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import uvloop
import yaml

REPOSITORY = Path(__file__).parents[1]
sys.path.insert(0, str(REPOSITORY))

from gateway.config.load import load_config  # noqa: E402
from gateway.paths import paths_of  # noqa: E402

CHUNKS = 64
CHUNK_GAP_S = 0.002
PROMPT_BYTES = 1000
WARM_UP_S = 1.0
_TICKS = os.sysconf("SC_CLK_TCK")

_CHOICE = {"index": 0, "message": {"role": "assistant", "content": "word " * 130}, "finish_reason": "stop"}
_USAGE = {"prompt_tokens": 250, "completion_tokens": 130, "total_tokens": 380}
ANSWER = json.dumps(
    {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "m",
        "choices": [_CHOICE],
        "usage": _USAGE,
    }
).encode()


def _chunk(delta: dict[str, Any], finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
    data = {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "m",
        "choices": [choice],
    }
    event = b"data: " + json.dumps(data).encode() + b"\n\n"
    return b"%x\r\n%s\r\n" % (len(event), event)


OPENING = _chunk({"role": "assistant", "content": ""})
TOKEN = _chunk({"content": "word "})
CLOSING = _chunk({}, "stop") + b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n"
JSON_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(ANSWER)
STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


class _Upstream(asyncio.Protocol):
    """Answers every request the same way, as cheaply as it can."""

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._received = b""
        self._left = 0

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, found, body = self._received.partition(b"\r\n\r\n")
        if not found:
            return
        length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
        if len(body) < length:
            return
        self._received = b""
        if b'"stream":true' not in body[:length]:
            self._transport.write(JSON_HEAD + ANSWER)
            return
        self._left = CHUNKS
        self._transport.write(STREAM_HEAD + OPENING)
        self._send_next()

    def _send_next(self) -> None:
        if self._transport.is_closing():
            return
        if self._left == 0:
            self._transport.write(CLOSING)
            return
        self._left -= 1
        self._transport.write(TOKEN)
        asyncio.get_running_loop().call_later(CHUNK_GAP_S, self._send_next)


def serve_upstream(listener: socket.socket) -> None:
    """The upstream's process."""

    async def serve() -> None:
        server = await asyncio.get_running_loop().create_server(_Upstream, sock=listener)
        await server.serve_forever()

    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    uvloop.run(serve())


async def _load(port: int, *, stream: bool, concurrency: int, seconds: float) -> list[float]:
    """Keep *concurrency* requests going for *seconds*; the latency of each, in seconds."""
    body = json.dumps(
        {"model": "bot", "messages": [{"role": "user", "content": "x" * PROMPT_BYTES}], "stream": stream},
        separators=(",", ":"),
    ).encode()
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
        "authorization: Bearer none\r\nuser-agent: benchmark\r\naccept: application/json\r\n"
        f"content-length: {len(body)}\r\n\r\n"
    )
    request = head.encode() + body
    end = b"0\r\n\r\n" if stream else ANSWER[-20:]
    until = time.monotonic() + seconds
    latencies: list[float] = []

    async def one() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 20)
        while time.monotonic() < until:
            started = time.perf_counter()
            writer.write(request)
            await reader.readuntil(end)
            latencies.append(time.perf_counter() - started)
        writer.close()

    await asyncio.gather(*(one() for _ in range(concurrency)))
    return latencies


def cpu_s(pid: int) -> float:
    """User + system time of *pid* so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def _percentiles_ms(latencies: list[float]) -> dict[str, float]:
    ordered = sorted(latencies)
    return {
        f"p{percent}_ms": round(ordered[min(len(ordered) - 1, len(ordered) * percent // 100)] * 1000, 3)
        for percent in (50, 95, 99)
    }


def measure(port: int, pid: int | None, *, stream: bool, concurrency: int, seconds: float) -> dict[str, Any]:
    """One contender under one load."""
    uvloop.run(_load(port, stream=stream, concurrency=concurrency, seconds=WARM_UP_S))
    before = cpu_s(pid) if pid is not None else 0.0
    started = time.monotonic()
    latencies = uvloop.run(_load(port, stream=stream, concurrency=concurrency, seconds=seconds))
    elapsed = time.monotonic() - started
    result: dict[str, Any] = {
        "answers": len(latencies),
        "per_second": round(len(latencies) / elapsed),
        **_percentiles_ms(latencies),
    }
    if pid is not None:
        result["cpu_us_per_answer"] = round((cpu_s(pid) - before) / len(latencies) * 1e6, 1)
    return result


@contextlib.contextmanager
def worker(directory: Path, upstream_port: int, capture: str) -> Any:
    """A worker process in front of the upstream; yields its port and process id."""
    config = {
        "upstreams": [{"name": "up", "base_url": f"http://127.0.0.1:{upstream_port}/v1"}],
        "routes": [
            {
                "model": "bot",
                "capture": capture,
                "variants": [
                    {"name": "stable", "upstream": "up", "model": "served", "weight": 0.9},
                    {"name": "canary", "upstream": "up", "model": "served-too", "weight": 0.1},
                ],
            }
        ],
        "capture": {"memory_bytes": 64_000_000},
    }
    path = directory / f"{capture}.yaml"
    path.write_text(yaml.safe_dump(config))
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listener:
        command = [sys.executable, "-m", "gateway.worker", "--config", str(path)]
        process = subprocess.Popen(
            [*command, "--fd", str(listener.fileno())], cwd=REPOSITORY, pass_fds=[listener.fileno()]
        )
        try:
            yield listener.getsockname()[1], process.pid
        finally:
            process.terminate()
            process.wait(20)
            shutil.rmtree(paths_of(load_config(path)).segments, ignore_errors=True)


def _commit() -> str:
    done = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or "unknown"


def main() -> None:
    """Measure and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--concurrency", type=int, default=32)
    options = parser.parse_args()
    load = {"concurrency": options.concurrency, "seconds": options.seconds}
    results: dict[str, Any] = {}
    with (
        tempfile.TemporaryDirectory() as folder,
        socket.create_server(("127.0.0.1", 0), backlog=1024) as listener,
    ):
        upstream = multiprocessing.get_context("fork").Process(target=serve_upstream, args=(listener,))
        upstream.start()
        port = listener.getsockname()[1]
        try:
            for stream in (False, True):
                name = "streamed" if stream else "buffered"
                results[f"direct, {name}"] = measure(port, None, stream=stream, **load)
                for capture in ("full", "none"):
                    with worker(Path(folder), port, capture) as (gateway_port, pid):
                        results[f"gateway, capture {capture}, {name}"] = measure(
                            gateway_port, pid, stream=stream, **load
                        )
        finally:
            upstream.terminate()
            upstream.join()
    machine = {
        "cpu": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
    }
    print(
        json.dumps(
            {"commit": _commit(), "machine": machine, **load, "chunks": CHUNKS, "results": results}, indent=1
        )
    )


if __name__ == "__main__":
    main()
