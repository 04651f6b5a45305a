"""A gateway worker with the control API alone, on an inherited socket: no request path, no upstreams."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

import uvicorn

from gateway.config.load import load_config
from gateway.control.app import create_control_app
from gateway.metrics import WorkerMetrics, metrics_directory
from gateway.paths import paths_of
from gateway.salt import load_salt
from gateway.state import State
from gateway.traces.segments import SegmentWriter, writer_name
from gateway.watch import load_table


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--config", type=Path)
    parser.add_argument("--fd", type=int)
    parser.add_argument("--index", type=int, default=0)
    given = parser.parse_args()
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(levelname)s %(message)s")
    config = load_config(given.config)
    paths, name = paths_of(config), writer_name(given.index)
    state = State(
        config_path=given.config,
        config=config,
        table=load_table(config),
        salt=load_salt(paths.state),
        writer=SegmentWriter(
            paths.segments, name, max_bytes=config.capture.memory_bytes, at_bound=config.capture.at_bound
        ),
        metrics=WorkerMetrics(metrics_directory(paths), name),
        index=given.index,
    )
    for outcome in ("ok", "upstream_error"):
        state.metrics.request_started()
        state.metrics.request_finished(
            "bot", "stable", outcome, upstream_s=0.3, overhead_s=0.0003, ttft_s=0.1
        )
    uvicorn.Server(
        uvicorn.Config(create_control_app(state), fd=given.fd, lifespan="on", log_config=None)
    ).run()
    state.close()


if __name__ == "__main__":
    main()
