from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import msgspec

from demo.messages import SEED, messages
from gateway.traces.store import Store
from learner.read import count_winners, read_judged
from tests.learner.traffic import a_config, add, judgment_on, kept_on, trace_of


def test_what_was_kept_of_a_session_is_known_of_its_trace(tmp_path: Path, clean_store: Store) -> None:
    """The demo's app names the session, not the trace: evaluation has to judge by it all the same."""
    config = a_config(tmp_path)
    stream = messages(SEED)
    named, by_session, silent = (trace_of(next(stream), number) for number in range(3))
    of_session = msgspec.structs.replace(
        kept_on(by_session, "kept"),
        trace_id=None,
        session=by_session.session,
        created_at=by_session.started_at + timedelta(seconds=1),
    )
    add(clean_store, named, by_session, silent, kept_on(named, "named"), of_session)

    read = read_judged(config, config.learner[0], clean_store)

    assert {trace.trace_id: trace.kept for trace in read.traces} == {
        named.trace_id: "named",
        by_session.trace_id: "kept",
        silent.trace_id: None,
    }


def test_an_imported_winner_counts_and_a_pinned_one_does_not(tmp_path: Path, clean_store: Store) -> None:
    config = a_config(tmp_path)
    stream = messages(SEED)
    drawn = trace_of(next(stream), 0)
    imported = trace_of(next(stream), 1, propensity=None, imported=True)
    pinned = trace_of(next(stream), 2, propensity=None)
    traces = (drawn, imported, pinned)
    add(clean_store, *traces, *(judgment_on(trace, config, 1.0) for trace in traces))

    assert count_winners(config, config.learner[0], clean_store) == 2
