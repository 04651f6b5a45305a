"""Buffered requests in a closed loop, by `wrk`: it costs the load's core least of all.

wrk runs twice, to warm up and to measure. A Lua script sends our requests and prints what wrk counted.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import msgspec

from benchmarks.client import Target
from benchmarks.install import executable
from benchmarks.processes import prepared
from benchmarks.types import BenchmarkError, Times
from benchmarks.wire import requests

MARGIN_S = 30.0  # beyond the time that wrk was given
TIMEOUT_S = 30  # of one request

_SCRIPT = """
local number = 0
local requests = {{ {requests} }}
request = function()
  number = number % #requests + 1
  return requests[number]
end
done = function(summary, latency, rates)
  local e = summary.errors
  io.write(string.format(
    '\\n{{"answers":%d,"not_200":%d,"broken":%d,"us":%d,"p50_us":%d,"p99_us":%d}}\\n', summary.requests,
    e.status, e.connect + e.read + e.write + e.timeout, summary.duration, latency:percentile(50),
    latency:percentile(99)))
end
"""


class Counted(msgspec.Struct, frozen=True):
    """What the script prints. Answers with another status than 200 are among `answers`."""

    answers: int
    not_200: int
    broken: int
    us: int
    p50_us: int
    p99_us: int


def script(whole_requests: list[bytes]) -> str:
    """The Lua script that takes turns in *whole_requests*."""
    return _SCRIPT.format(requests=", ".join(lua_string(request) for request in whole_requests))


def lua_string(data: bytes) -> str:
    """*data* as a literal of Lua, whatever bytes it holds."""
    plain = {*range(0x20, 0x7F)} - {ord('"'), ord("\\")}
    return '"' + "".join(chr(byte) if byte in plain else f"\\{byte:03d}" for byte in data) + '"'


def counted(output: str) -> Times:
    """What wrk printed. Raises BenchmarkError where nothing was answered as it should be."""
    for line in output.splitlines():
        if line.startswith("{"):
            found = msgspec.json.decode(line, type=Counted)
            break
    else:
        raise BenchmarkError(f"wrk printed no figures: {output[-200:]!r}")
    good = found.answers - found.not_200
    errors = found.not_200 + found.broken
    if good <= 0:
        raise BenchmarkError(f"wrk got no answer with status 200, {errors} errors")
    return Times(
        answers=good,
        errors=errors,
        seconds=found.us / 1e6,
        p50_ms=found.p50_us / 1000,
        p99_ms=found.p99_us / 1000,
    )


class ClosedLoop:
    """wrk with one thread and *connections* connections on *core*, against one target."""

    def __init__(self, target: Target, *, connections: int, core: int, folder: Path) -> None:
        wrk = executable("wrk")
        if wrk is None:
            raise BenchmarkError("wrk is not on this machine")
        whole = requests(stream=False, sessions=target.sessions, more=target.headers)
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "load.lua"
        path.write_text(script(whole))
        self._core = core
        self._command = [str(wrk), "-t1", f"-c{connections}", "-s", str(path)]
        self._command += ["--timeout", f"{TIMEOUT_S}s", f"http://127.0.0.1:{target.port}"]

    def run(self, seconds: float) -> Times:
        """Load for *seconds*, a whole number of them. Raises BenchmarkError."""
        duration_s = max(1, round(seconds))
        try:
            done = subprocess.run(
                [*self._command, f"-d{duration_s}s"],
                capture_output=True,
                text=True,
                errors="replace",
                timeout=duration_s + MARGIN_S,
                check=False,
                preexec_fn=prepared(self._core, is_load=True),
            )
        except subprocess.TimeoutExpired as error:
            raise BenchmarkError(f"wrk did not end within {error.timeout:.0f} s") from error
        if done.returncode != 0:
            raise BenchmarkError(f"wrk: {done.stderr.strip()[-200:]}")
        return counted(done.stdout)

    def measured(self, warm_s: float, seconds: float, between: Callable[[], None]) -> Times:
        """Warm up, then load; *between* is called before and after what counts. Raises BenchmarkError."""
        warm_answers = self.run(warm_s).answers
        between()
        times = self.run(seconds)
        between()
        return msgspec.structs.replace(times, warm_answers=warm_answers)
