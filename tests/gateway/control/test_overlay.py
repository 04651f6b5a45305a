"""Laws of the overlay: what holds for which configuration, and what an edit of it ends."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import overlay as layer
from gateway.config.load import parse_yaml
from gateway.config.types import Config
from gateway.overlay import Overlay
from gateway.rollouts import Decision, IllegalTransitionError, ShareError
from gateway.table import build_table, configured_variants

AT = Decision(at_us=1, who="test", why="a law")
YAML = """
upstreams:
  - {name: openai, base_url: "http://127.0.0.1:1/v1"}
  - {name: local, base_url: "http://127.0.0.1:2/v1"}
routes:
  - model: bot
    variants: [{name: stable, upstream: openai, model: big}]
  - model: other
    variants: [{name: stable, upstream: openai, model: big}]
"""


def config(text: str = YAML) -> Config:
    return parse_yaml(text, Config, "test")


def started(overlay: Overlay | None = None, number: int = 1) -> Overlay:
    overlay = overlay or Overlay()
    entry = layer.entry_of(overlay, config(), "bot")
    assert entry is not None
    after = layer.start(
        entry,
        AT,
        rollout=f"ro-{number}",
        snapshot=f"bot-{number}",
        upstream="local",
        share=0.1,
        policy={"alpha": 0.05},
    )
    return layer.with_entry(overlay, after)


def acted(overlay: Overlay, action: layer.Action, share: float | None = None) -> Overlay:
    return layer.with_entry(overlay, layer.act(overlay.routes["bot"], action, AT, share=share))


def test_decisions_hold_while_the_variants_in_the_yaml_stand():
    overlay = acted(started(), "weight", 0.25)
    edited = YAML.replace("model: bot", "model: bot\n    sticky_by: subject")
    table = build_table(config(edited), layer.overrides(overlay, config(edited)))
    route = table.routes["bot"]
    assert [(v.name, v.weight) for v in route.variants] == [("stable", 0.75), ("bot-1", 0.25)]
    assert (route.version, route.sticky_by) == (2, "subject")
    assert layer.reconcile(overlay, config(edited), 5) == (overlay, [])


BOT = "bot\n    variants: [{name: stable, upstream: openai"
LOCAL = '  - {name: local, base_url: "http://127.0.0.1:2/v1"}\n'
EDITS = {
    "variants edited": YAML.replace(BOT, BOT.replace("openai", "local")),
    "the candidate's upstream gone": YAML.replace(LOCAL, ""),
    "route gone": YAML.replace("model: bot", "model: renamed"),
}


@pytest.mark.parametrize("edited", EDITS.values(), ids=EDITS.keys())
def test_an_edit_ends_the_rollout_and_drops_the_overlay_with_events(edited: str):
    overlay, events = layer.reconcile(started(), config(edited), 5)
    assert [(e.event, e.version, e.rollout) for e in events] == [
        ("inconclusive", 2, "ro-1"),
        ("overlay_dropped", 3, "ro-1"),
    ]
    again = layer.reconcile(overlay, config(edited), 6)
    assert again == (overlay, [])
    assert overlay.routes["bot"].history == []
    assert overlay.routes["bot"].events == events
    route = config(edited).route("bot")
    if route is not None:
        table = build_table(config(edited), layer.overrides(overlay, config(edited)))
        assert table.routes["bot"].variants == configured_variants(route)
        assert table.routes["bot"].version == 3


def test_a_version_never_goes_back_when_a_route_leaves_and_returns():
    gone, _ = layer.reconcile(started(), config(YAML.replace("model: bot", "model: x")), 5)
    back, events = layer.reconcile(gone, config(), 6)
    entry = layer.entry_of(back, config(), "bot")
    assert entry is not None
    assert (entry.route.version, entry.route.rollout, events) == (3, None, [])


def test_promotions_roll_back_one_after_the_other_to_the_configuration():
    overlay = acted(started(), "promote")
    overlay = acted(started(overlay, 2), "promote")
    assert overlay.routes["bot"].route.stable.name == "bot-2"
    overlay = acted(overlay, "rollback")
    assert overlay.routes["bot"].route.stable.name == "bot-1"
    overlay = acted(overlay, "rollback")
    assert overlay.routes["bot"].route.variants == configured_variants(config().routes[0])
    with pytest.raises(IllegalTransitionError, match="no rollout to go back on"):
        acted(overlay, "rollback")


def test_the_policy_is_frozen_with_the_start_and_leaves_with_the_end():
    entry = started().routes["bot"]
    assert entry.trial is not None
    assert entry.trial.policy == {"alpha": 0.05}
    assert entry.events[0].evidence["policy"] == {"alpha": 0.05}
    assert acted(started(), "conclude").routes["bot"].trial is None


def test_other_routes_are_untouched_by_a_decision():
    before = build_table(config(), {}).routes["other"]
    assert build_table(config(), layer.overrides(started(), config())).routes["other"] == before


@given(st.lists(st.sampled_from(["start", "weight", "pause", "resume", "promote", "rollback", "conclude"])))
def test_an_overlay_survives_its_file_format_after_any_history(actions: list[str]):
    overlay = Overlay()
    for number, action in enumerate(actions):
        try:
            overlay = (
                started(overlay, number)
                if action == "start"
                else acted(overlay, action, 1 / (number + 2) if action == "weight" else None)
                if overlay.routes
                else overlay
            )
        except (IllegalTransitionError, ShareError):
            continue
    assert msgspec.json.decode(msgspec.json.encode(overlay), type=Overlay) == overlay
    table = build_table(config(), layer.overrides(overlay, config()))
    assert sum(v.weight for v in table.routes["bot"].variants) == pytest.approx(1)


def test_no_entry_for_a_route_the_configuration_lacks(tmp_path: Path):
    assert layer.entry_of(Overlay(), config(), "nobody") is None
