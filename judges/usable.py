"""Which judges cannot be used, and why: each is imported as the runner imports it, and its process ended.

`python -m judges.usable --config FILE` prints the answer as JSON; that is how `tracetune check` asks, which
may import nothing of ours but the gateway.
"""

from __future__ import annotations

import argparse
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec

from gateway.config import Config, JudgeConfig, load_config
from gateway.errors import TracetuneError
from judges.definition import definition_of
from judges.errors import JudgeError
from judges.executor import executor_of
from judges.sandbox import IMPORT_WITHIN_S
from judges.slow_import import told_when_slow

LOOK_WITHIN_S = 15.0  # for a command that people wait for: a judge that takes longer is named, not waited for
MAX_AT_ONCE = 4  # each is a process that may import much


def why_unusable(config: Config, *, within_s: float = LOOK_WITHIN_S) -> dict[str, str]:
    """Name of each judge that cannot be used -> one line with file, reason and remedy. Runs users' code.

    A file has *within_s* to be imported in. Never raises for what is wrong with a judge.
    """
    with ThreadPoolExecutor(MAX_AT_ONCE) as pool:
        found = pool.map(lambda judge: _why(config, judge, within_s), config.judges)
        return {judge.name: why for judge, why in zip(config.judges, found, strict=True) if why is not None}


def _why(config: Config, judge: JudgeConfig, within_s: float) -> str | None:
    try:
        definition = definition_of(judge)
        with told_when_slow(definition, within_s), executor_of(config, judge, definition) as executor:
            executor.start(within_s)
    except JudgeError as error:
        return str(error)
    return None


def _run_as_module() -> int:
    parser = argparse.ArgumentParser(prog="python -m judges.usable")
    parser.add_argument("--config", type=Path, required=True)
    config = load_config(parser.parse_args().config)
    found = why_unusable(config, within_s=IMPORT_WITHIN_S)
    sys.stdout.write(msgspec.json.encode(found).decode())
    return 0


if __name__ == "__main__":
    try:
        sys.exit(_run_as_module())
    except TracetuneError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(error.exit_code)
