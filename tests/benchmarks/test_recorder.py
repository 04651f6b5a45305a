"""The recorder's benchmark measures what it says: traces of 3 KB with ten finds, or none."""

from __future__ import annotations

import json
import random
import re

import pytest

from benchmarks.recorder import BOUNDS_US, TRACE_BYTES, bodies, personal, run
from gateway.traces.assembling.assemble import assemble
from gateway.traces.redaction.redact import Redactor

REDACTOR = Redactor(b"k" * 32)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("seed", range(20))
def test_a_trace_has_ten_finds_or_none_and_the_size_it_is_said_to_have(seed: int, stream: bool) -> None:
    draw = random.Random(seed)
    for values, count in ((personal(draw), 10), ([], 0)):
        request, pieces = bodies(draw, values, stream=stream)
        answer = assemble(b"".join(pieces)) if stream else json.loads(pieces[0])
        stored = json.dumps(REDACTOR.value([json.loads(request), answer], "s"))
        assert len(re.findall(r"\[[A-Z_]+_[0-9a-f]{6}\]", stored)) == count
        assert stream or 0.8 * TRACE_BYTES < len(request) + len(pieces[0]) < 1.2 * TRACE_BYTES


def test_a_run_has_a_figure_for_every_kind_and_holds_it_to_its_bound() -> None:
    figures = {figure.what: figure for figure in run(rounds=1, traces=5).figures}
    assert set(BOUNDS_US) < set(figures)
    for what, figure in figures.items():
        assert figure.bound_us == BOUNDS_US.get(what)
        assert figure.reached == (None if figure.bound_us is None else figure.us <= figure.bound_us)
