"""`python -m learner.run_process --config FILE --route R`: one run; SIGTERM ends it at a checkpoint."""

from __future__ import annotations

import argparse
import logging
import signal
import sys
import threading
from pathlib import Path

from gateway.config import load_config
from gateway.errors import TracetuneError
from learner.learn import run_learning
from learner.runtime import die_with_parent


def main(config_path: Path, route: str) -> int:
    """Run to the end; the exit code of the error otherwise, whose one line is the last that is written."""
    # A learner killed by SIGKILL must not leave a run behind that the next learner knows nothing of.
    die_with_parent()
    stopped = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopped.set())
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        snapshot = run_learning(load_config(config_path), route, stop=stopped.is_set)
    except TracetuneError as error:
        sys.stderr.write(f"{' '.join(str(error).split())}\n")
        return error.exit_code
    sys.stderr.write(f"registered {snapshot.snapshot}\n")
    return 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--route", required=True)
    arguments = parser.parse_args()
    sys.exit(main(arguments.config, arguments.route))
