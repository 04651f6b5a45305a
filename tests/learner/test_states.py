from __future__ import annotations

from learner.states import Event, snapshot_states


def after(*events: tuple[str, str]) -> dict[str, str]:
    rows = [
        Event(route="r", version=version, event=event, snapshot=snapshot)  # type: ignore[arg-type]
        for version, (event, snapshot) in enumerate(events, 1)
    ]
    return dict(snapshot_states(["a", "b"], rows))


def test_a_snapshot_that_met_no_traffic_is_a_candidate() -> None:
    assert after() == {"a": "candidate", "b": "candidate"}


def test_a_rollout_makes_a_canary_and_a_promotion_stable() -> None:
    assert after(("started", "a"), ("weight", "a"))["a"] == "canary"
    assert after(("started", "a"), ("promoted", "a"))["a"] == "stable"


def test_a_promotion_retires_the_former_and_its_rollback_restores_it() -> None:
    twice = [("started", "a"), ("promoted", "a"), ("started", "b"), ("promoted", "b")]
    assert after(*twice) == {"a": "retired", "b": "stable"}
    assert after(*twice, ("rolled_back", "b")) == {"a": "stable", "b": "rejected"}


def test_a_rolled_back_canary_is_rejected_and_the_stable_one_stays() -> None:
    events = [("started", "a"), ("promoted", "a"), ("started", "b"), ("rolled_back", "b")]
    assert after(*events) == {"a": "stable", "b": "rejected"}


def test_without_a_verdict_it_stays_a_candidate() -> None:
    assert after(("started", "a"), ("inconclusive", "a"))["a"] == "candidate"


def test_an_edit_of_the_configuration_retires_what_was_promoted() -> None:
    assert after(("started", "a"), ("promoted", "a"), ("overlay_dropped", "a"))["a"] == "retired"
