"""An explanation is true: what it says of a request is what the data plane does with it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.cli.explanation import lines
from gateway.config.types import (
    Auth,
    ClientKey,
    Config,
    Fallback,
    KeyLimit,
    Price,
    Route,
    RouteTimeouts,
    Secret,
    Timeouts,
    Upstream,
    Variant,
)
from gateway.data_plane.auth import ANYONE, Client
from gateway.data_plane.errors import ApiError
from gateway.data_plane.plan import Planner
from gateway.errors import OperationError
from gateway.explain import UnknownKeyError, explain
from gateway.explanation import Explanation, Now
from gateway.quotas import KeyReport, Standing, WindowReport
from gateway.sightings import ServerView, UpstreamView
from gateway.table import build_table

SALT = b"s" * 32
WEB = Client(name="web", scopes=ANYONE.scopes)
AUTH = Auth(
    keys=[ClientKey(name="web", key=Secret(env="A"), scopes=["infer", "pin"])],
)
LIMITED = Auth(
    keys=[ClientKey(name="web", key=Secret(env="A"), limits=[KeyLimit(per="minute", requests=10)])]
)
UPSTREAMS = [
    Upstream(name="near", base_url="http://near/v1", price_per_hour=1.5, timeouts=Timeouts(idle_s=11)),
    Upstream(
        name="far",
        base_urls=["http://far-1/v1", "http://far-2/v1"],
        default=True,
        timeouts=Timeouts(idle_s=22, first_token_s=33),
        prices=[
            Price(model="big", input=1, output=2, cached_input=0.5),
            Price(model="vast", input=3, output=4, reasoning=5),
        ],
    ),
]
FALLBACKS = [
    Fallback(upstream="far", model="big"),  # of one variant its own place, and not asked twice
    Fallback(upstream="far", model="vast", larger_context=True),
    Fallback(upstream="near", snapshot="snap-1"),
]


def config_of(sticky_by: str = "session", auth: Auth | None = None, **changes: Any) -> Config:
    variants = [
        Variant(name="a", upstream="near", model="small", weight=0.5),
        Variant(name="b", upstream="far", model="big", weight=0.3),
        Variant(name="c", upstream="near", snapshot="snap-2", weight=0.2),
    ]
    values = {"model": "bot", "variants": variants, "fallbacks": FALLBACKS, "sticky_by": sticky_by}
    sole = Route(model="sole", variants=[Variant(name="only", upstream="far", model="vast")])
    routes = [Route(**{**values, **changes}), sole]
    return Config(upstreams=UPSTREAMS, routes=routes, auth=auth)


def explained(config: Config, model: str = "bot", salt: bytes | None = SALT, **asked: Any) -> Explanation:
    values = {"session": None, "subject": None, "client": "", **asked}
    return explain(config, build_table(config, {}), salt, model=model, **values)


@given(
    st.just("bot") | st.sampled_from(["sole", "bot@b", "bot@c", "sole@only", "gpt-9", "gpt@9"]),
    st.sampled_from(["session", "subject"]),
    st.text(min_size=1),
    st.none() | st.text(min_size=1),
    st.booleans(),
    st.sampled_from([RouteTimeouts(), RouteTimeouts(idle_s=7, total_s=99)]),
)
def test_a_request_goes_where_the_explanation_says(
    model: str, sticky_by: str, session: str, subject: str | None, keyed: bool, timeouts: RouteTimeouts
):
    config = config_of(sticky_by, AUTH if keyed else None, timeouts=timeouts)
    table = build_table(config, {})
    client = WEB if keyed else ANYONE

    def told() -> Explanation:
        return explained(config, model, session=session, subject=subject, client=client.name)

    try:
        plan = Planner(table, SALT, config).plan(
            model, pinned=None, client=client, session=session, subject=subject, trace_id="t"
        )
    except ApiError:
        with pytest.raises(OperationError):
            told()
        return
    found = told()
    assert (found.route, found.variant or "", found.snapshot) == (plan.route, plan.variant, plan.snapshot)
    assert found.propensity == plan.propensity
    first, *rest = plan.targets
    assert (found.upstream, found.upstream_model, found.deadlines) == (
        first.upstream,
        first.model,
        first.timeouts,
    )
    assert [(step.upstream, step.model, step.deadlines, step.larger_context) for step in found.fallbacks] == [
        (target.upstream, target.model, target.timeouts, target.larger_context) for target in rest
    ]
    assert found.servers == config.upstream(first.upstream).servers
    assert [bound.name for bound in found.bounds.upstreams] == list(
        dict.fromkeys(target.upstream for target in plan.targets)
    )
    assert found.table_hash == table.hash


@pytest.mark.parametrize("model", ["bot@a@b", "bot@", "bot@x", "@", "@a"])
def test_a_name_with_an_at_is_read_as_routing_reads_it(model: str):
    config = config_of()
    planner = Planner(build_table(config, {}), SALT, config)
    asked = {"client": ANYONE, "session": "s", "subject": None, "trace_id": "t"}
    try:
        plan = planner.plan(model, pinned=None, **asked)
    except ApiError:
        with pytest.raises(OperationError):
            explained(config, model)
    else:
        assert explained(config, model).route == plan.route


@given(st.text(min_size=1))
def test_why_says_the_place_of_the_session_and_the_shares_hold_it(session: str):
    found = explained(config_of(), session=session)
    share = next(part for part in found.scale if part.variant == found.variant)
    assert found.bucket is not None
    assert share.start <= found.bucket < share.end
    assert found.why == f"the session falls on {found.bucket:.4f}, in the part of {found.variant}"
    assert [(part.start, part.end) for part in found.scale] == [
        pytest.approx(pair) for pair in ((0, 0.3), (0.3, 0.5), (0.5, 1))
    ]


@pytest.mark.parametrize(
    ("sticky_by", "asked", "why"),
    [
        ("session", {}, "no session was given: each request without one is drawn anew"),
        ("subject", {}, "no subject was given: each request without one is drawn anew"),
        ("request", {"session": "s"}, "sticky_by is request: each request is drawn anew"),
        ("session", {"session": "s", "salt": None}, "no gateway has run here yet, so no session has a place"),
        (
            "session",
            {"session": "s", "auth": AUTH},
            "no key was named, and a session's place depends on whose it is",
        ),
        ("subject", {"subject": "u", "session": "s"}, "the subject falls on "),
        ("session", {"model": "sole"}, "only has all of the traffic"),
        ("session", {"model": "bot@a"}, "the variant is pinned by its name"),
        ("session", {"model": "gpt-9"}, "no route serves gpt-9; upstream far takes such names"),
    ],
)
def test_why_says_what_decides_or_what_is_missing(sticky_by: str, asked: dict[str, Any], why: str):
    asked = dict(asked)
    config = config_of(sticky_by, asked.pop("auth", None))
    found = explained(config, **asked)
    assert found.why.startswith(why)
    missing = why.startswith(("no session", "no subject", "sticky_by", "no gateway", "no key"))
    assert (found.variant is None) == (missing or found.route == "")
    if missing:
        assert found.upstream is None
        assert [(step.upstream, step.model) for step in found.fallbacks] == [
            ("far", "big"),
            ("far", "vast"),
            ("near", "snap-1"),
        ]


def test_the_price_is_what_each_part_costs_there_and_unknown_is_not_zero():
    near, far, unpriced = (explained(config_of(), f"bot@{name}") for name in ("a", "b", "c"))
    assert near.price is not None
    assert (near.price.per_hour, near.price.input) == (1.5, None)
    assert far.price is not None
    assert (far.price.input, far.price.cached_input, far.price.output, far.price.reasoning) == (1, 0.5, 2, 2)
    assert far.price.per_hour is None
    assert unpriced.price is not None, "the machine is paid whatever it serves"
    vast = near.fallbacks[1].price
    assert vast is not None
    assert (vast.input, vast.output, vast.reasoning) == (3, 4, 5)
    assert explained(config_of(), "gpt-9").price is None


def test_a_key_that_nobody_has_is_an_error_that_names_those_there_are():
    with pytest.raises(UnknownKeyError, match=r"no key is named 'wbe'; keys \(auth.keys\): web"):
        explained(config_of(auth=AUTH), client="wbe")
    with pytest.raises(UnknownKeyError, match="none"):
        explained(config_of(), client="web")


def test_every_part_of_the_plan_has_its_line():
    shown = lines("here", explained(config_of(), "bot@b"))
    assert shown == [
        ("from", "here"),
        ("route", "bot"),
        ("variant", "b"),
        ("why", "the variant is pinned by its name"),
        ("shares", "b [0, 0.3), c [0.3, 0.5), a [0.5, 1)"),
        ("upstream", "far"),
        ("model", "big"),
        ("servers", "http://far-1/v1, http://far-2/v1"),
        ("health", "unknown (no gateway runs)"),
        ("limits", "far: 1000 at a time, 1000 waiting; now unknown (no gateway runs)"),
        ("", "near: 1000 at a time, 1000 waiting; now unknown (no gateway runs)"),
        ("", "all requests: 10000 at a time (listen.concurrent); now unknown (no gateway runs)"),
        ("deadlines", "connect 5 s, headers 300 s, first_token 33 s, idle 22 s, total 600 s"),
        ("price", "input 1, cached 0.5, output 2 USD per million tokens"),
        (
            "fallbacks",
            (
                "far/vast, also for what is too long: connect 5 s, headers 300 s, first_token 33 s, idle 22 s, "
                "total 600 s; price input 3, output 4, reasoning 5 USD per million tokens"
            ),
        ),
        (
            "",
            (
                "near/snap-1: connect 5 s, headers 300 s, first_token 60 s, idle 11 s, total 600 s; "
                "price 1.5 USD per machine-hour"
            ),
        ),
        ("table", build_table(config_of(), {}).hash),
    ]
    depends = dict(lines("here", explained(config_of())))
    assert depends["variant"] == "depends"
    assert "price" not in depends
    assert dict(lines("here", explained(config_of(), "gpt-9")))["price"] == "unknown"


def test_what_applies_now_has_its_line():
    server = ServerView(
        url="http://near/v1",
        state="ejected",
        outstanding=4,
        ejected_by=1,
        ejected_for_s=12.34,
        rests_for_s=5.0,
        why="status_503",
    )
    view = UpstreamView(
        name="near", workers=2, in_flight=3, concurrent=10, waiting=1, queue=5, servers=[server]
    )
    held = Standing(limit=10, used=3, reserved=1, left=6)
    ends = datetime(2026, 5, 28, 20, 28, tzinfo=UTC)
    window = WindowReport(per="minute", starts_at=ends, ends_at=ends, requests=held, tokens=None, usd=None)
    now = Now(
        workers=2,
        in_flight=7,
        concurrent=99,
        upstreams=[view],
        key=KeyReport(name="web", windows=[window]),
    )
    config = config_of(auth=LIMITED)
    found = msgspec.structs.replace(
        explained(config, "bot@c", client="web"), rollout="ro-1", refused="it is closed", now=now
    )
    assert [
        line for line in lines("here", found) if line[0] in {"refused", "rollout", "snapshot", "key"}
    ] == [
        ("refused", "it is closed"),
        ("rollout", "ro-1"),
        ("snapshot", "snap-2"),
        ("key", "web: 6 of 10 requests left (1 held) until 2026-05-28 20:28 UTC"),
    ]
    said = [value for _, value in lines("here", found)]
    told = "ejected by 1 of 2 workers, tried again in 12.3 s, for status_503, asked for a rest of 5.0 s more"
    assert f"near http://near/v1: {told}, 4 outstanding" in said
    assert "near: 3 of 10 at a time, 1 of 5 waiting" in said
    assert "all requests: 7 of 99 at a time (listen.concurrent)" in said
    unlimited = msgspec.structs.replace(explained(config_of(auth=AUTH), "sole", client="web"), now=now)
    assert ("key", "web: no limits") in lines("here", unlimited)
