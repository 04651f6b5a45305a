"""Which judges cannot be used, and why: each is imported as the runner imports it, and its process ended.

`python -m judges.usable --config FILE` prints the answer as JSON; that is how `tracetune check` asks, which
may import nothing of ours but the gateway.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec

from gateway.config import load_config
from gateway.errors import TracetuneError
from judges.errors import JudgeError
from judges.load import read_source
from judges.passes import sandbox_of
from judges.sandbox import IMPORT_WITHIN_S, JudgeSettings
from judges.slow_import import told_when_slow

LOOK_WITHIN_S = 15.0  # for a command that people wait for: a judge that takes longer is named, not waited for
MAX_AT_ONCE = 4  # each is a process that may import much


def why_unusable(judges: Sequence[JudgeSettings], *, within_s: float = LOOK_WITHIN_S) -> dict[str, str]:
    """Name of each judge that cannot be used -> one line with file, reason and remedy. Runs users' code.

    A file has *within_s* to be imported in. Never raises for what is wrong with a judge.
    """
    with ThreadPoolExecutor(MAX_AT_ONCE) as pool:
        found = pool.map(lambda judge: _why(judge, within_s), judges)
        return {judge.name: why for judge, why in zip(judges, found, strict=True) if why is not None}


def _why(judge: JudgeSettings, within_s: float) -> str | None:
    try:
        source = read_source(judge.file, judge.function)
        with told_when_slow(source, within_s), sandbox_of(judge, source) as sandbox:
            sandbox.start(within_s)
    except JudgeError as error:
        return str(error)
    return None


def _run_as_module() -> int:
    parser = argparse.ArgumentParser(prog="python -m judges.usable")
    parser.add_argument("--config", type=Path, required=True)
    config = load_config(parser.parse_args().config)
    found = why_unusable(config.judges, within_s=IMPORT_WITHIN_S)
    sys.stdout.write(msgspec.json.encode(found).decode())
    return 0


if __name__ == "__main__":
    try:
        sys.exit(_run_as_module())
    except TracetuneError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(error.exit_code)
