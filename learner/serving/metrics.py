"""What the server shows under /metrics, in Prometheus' text format."""

from __future__ import annotations

from learner.serving.engine import Engine


def exposition(engine: Engine, adapters: int) -> bytes:
    """All metrics of *engine*."""
    counters = engine.counters
    lines = [
        *_metric("requests_running", "gauge", "requests that have a row", engine.running),
        *_metric("requests_waiting", "gauge", "requests that wait for a row", engine.waiting),
        *_metric("adapters_loaded", "gauge", "adapters that can be asked for", adapters),
        *_metric("prompt_tokens_total", "counter", "tokens of prompts", counters.tokens_in),
        *_metric("cached_tokens_total", "counter", "prompt tokens taken over", counters.tokens_cached),
        *_metric("generated_tokens_total", "counter", "tokens written", counters.tokens_out),
        *_metric("passes_total", "counter", "forward passes", counters.passes),
        "# HELP tracetune_serve_requests_total finished requests by how they ended",
        "# TYPE tracetune_serve_requests_total counter",
        *(
            f'tracetune_serve_requests_total{{finish="{how}"}} {count}'
            for how, count in counters.finished.items()
        ),
    ]
    return "\n".join([*lines, ""]).encode()


def _metric(name: str, kind: str, about: str, value: int) -> list[str]:
    full = f"tracetune_serve_{name}"
    return [f"# HELP {full} {about}", f"# TYPE {full} {kind}", f"{full} {value}"]
