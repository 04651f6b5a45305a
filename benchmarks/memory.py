"""Memory of one gateway worker: with many streams at once, and after many requests."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.client import Asked, Target, run_client
from benchmarks.load_closed import ClosedLoop
from benchmarks.place import Running
from benchmarks.process_cpu import most_resident_bytes, resident_bytes
from benchmarks.turns import FIRST_ANSWERS, Bench, settle
from benchmarks.types import BenchmarkError, Memory
from benchmarks.wire import CHUNKS

SLICE_S = 4  # of load between two looks at the memory; the recorder catches up in between
SETTLE_WITHIN_S = 20.0
LOAD_WITHIN_SLICES = 150


def measure_memory(bench: Bench, say: Callable[[str], None]) -> Memory:
    """Both parts, each with a fresh worker. Raises BenchmarkError."""
    asked = bench.parameters
    with bench.running("ours", "first token", asked.most_gap_ms) as running:
        worker = running.workers[0]
        idle = resident_bytes(worker)
        warm_s = CHUNKS * asked.most_gap_ms / 1000 * FIRST_ANSWERS
        target = Target(port=running.port, sessions=asked.sessions)
        wish = Asked(target=target, warm_s=warm_s, measure_s=asked.most_s, streams=asked.most_streams)
        times = run_client("benchmarks.streams", wish, bench.cores.load, lambda: None)
        most = most_resident_bytes(worker)
        say(f"memory: {most / 1e6:.0f} MB at {asked.most_streams} streams, {times.errors} errors")
    with bench.running("ours", "buffered", 0) as running:
        target = Target(port=running.port, sessions=asked.sessions)
        folder = bench.folder / "wrk"
        load = ClosedLoop(target, connections=asked.connections, core=bench.cores.load, folder=folder)
        samples, errors = _many_requests(load, running, bench)
        for answered, resident in (samples[0], samples[-1]):
            say(f"memory: {resident / 1e6:.1f} MB after {answered} requests")
    return Memory(
        streams=asked.most_streams,
        streams_errors=times.errors,
        streams_bytes=most,
        idle_bytes=idle,
        requests=samples,
        request_errors=errors,
    )


def _many_requests(load: ClosedLoop, running: Running, bench: Bench) -> tuple[list[tuple[int, int]], int]:
    """Requests so far and resident bytes, from `requests_first` to `requests_last`; and how many failed."""
    asked = bench.parameters
    samples: list[tuple[int, int]] = []
    answered = errors = 0
    for _ in range(LOAD_WITHIN_SLICES):
        times = load.run(1 if answered < asked.requests_first else SLICE_S)
        answered += times.answers
        errors += times.errors
        if answered >= asked.requests_first:
            samples.append((answered, resident_bytes(running.workers[0])))
        if answered >= asked.requests_last:
            return samples, errors
        settle(running, bench.cores, SETTLE_WITHIN_S)
    raise BenchmarkError(f"{answered} requests took too long, {asked.requests_last} were asked for")
