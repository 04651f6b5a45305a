"""The demo from start to end. It only starts what a user starts, and only asks what a user can ask."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from urllib.parse import urlsplit

import msgspec

from demo import report as figures
from demo.configuration import FRONTIER, ROUTE, Plan, stand_in_port
from demo.directory import check_ours, fresh, write_file
from demo.frontier import MODEL
from demo.occupants import check_nobody
from demo.processes import call, running, tracetune
from demo.report import Report
from demo.spoil import spoil
from demo.stage import Stage
from demo.view import View
from gateway.config import Config
from gateway.errors import OperationError
from gateway.paths import Paths, paths_of
from gateway.supervisor.run import check_models
from gateway.traces.store import Store
from learner.base_model import check_base_model, prepare_smollm2

MESSAGES = 600  # of the first step, before anything is learnt
IN_FLIGHT = 48  # at the stand-in, which takes its time
IN_FLIGHT_LEARNING = 2  # the app goes on while the model trains
IN_FLIGHT_CANARY = 8  # two cores write about 50 tokens a second in all
FRONTIER_DELAY_S = 6.0
LEARN_WITHIN_S = 1500.0
ROLLOUT_WITHIN_S = 1500.0
ENDED = ("promoted", "rolled_back", "inconclusive")


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What the command line said. `own_model`: prepare the demo's; `stand_in`: start its own upstream."""

    plan: Plan
    own_model: bool
    stand_in: bool
    keep: bool


def run_demo(options: Options, view: View) -> Report:
    """Run all steps and return the closing figures. Raises TracetuneError when one does not come about.

    Whether all of it can run is looked at first, before anything of an earlier demo is removed.
    """
    config = options.plan.config
    paths = paths_of(config)
    check_ours(paths.data)
    check_nobody(paths.data, addresses(config, stand_in=options.stand_in), options.plan.path)
    base_model = config.learner[0].base_model
    if options.own_model and not base_model.exists():
        prepare_smollm2(base_model, say=view.say)
    check_base_model(base_model)
    check_models(config, options.plan.path)
    logs = paths.data / "logs"
    with fresh(paths.data), ExitStack() as processes:
        if options.plan.text is not None:
            write_file(options.plan.path, options.plan.text)
        if options.stand_in:
            port = stand_in_port(config.upstream(FRONTIER))
            argv = [sys.executable, "-m", "demo.frontier", "--port", str(port)]
            argv += ["--delay-s", str(FRONTIER_DELAY_S)]
            url = f"http://127.0.0.1:{port}/v1/models"
            processes.enter_context(
                running("the stand-in upstream", argv, url, logs / "frontier.log", keep=options.keep)
            )
        processes.enter_context(
            running(
                "tracetune up",
                tracetune("up", "--config", str(options.plan.path)),
                f"http://{config.listen.host}:{config.listen.port}/readyz",
                logs / "up.log",
                keep=options.keep,
            )
        )
        with Store.connect(config, wait_s=30) as store:
            return asyncio.run(_steps(Stage(config, store, view), options, paths))


def addresses(config: Config, *, stand_in: bool) -> list[tuple[str, int]]:
    """Where the demo's processes are going to listen."""
    found = [(config.listen.host, config.listen.port)]
    if config.admin_listen is not None:
        found.append((config.admin_listen.host, config.admin_listen.port))
    if stand_in:
        found.append(("127.0.0.1", stand_in_port(config.upstream(FRONTIER))))
    for upstream in config.upstreams:
        if upstream.managed is not None:
            parts = urlsplit(upstream.servers[0])
            found.append((parts.hostname or "127.0.0.1", parts.port or 80))
    return found


async def _steps(stage: Stage, options: Options, paths: Paths) -> Report:
    seconds: dict[str, float] = {}

    async def timed(name: str, step: Callable[[], Awaitable[None]]) -> None:
        started = time.monotonic()
        await step()
        seconds[name] = round(time.monotonic() - started, 1)

    moments: dict[str, int] = {}
    await timed("traffic", lambda: _traffic(stage, options))
    await timed("judges", lambda: _judged(stage))
    moments["since"] = time.time_ns() // 1000
    await timed("learn", lambda: _learn(stage))
    moments["until"] = time.time_ns() // 1000
    await timed("roll out", lambda: _roll_out(stage))
    promoted = (await stage.status()).snapshots[-1].snapshot
    await timed("roll back", lambda: _roll_back(stage, options, paths, promoted))
    return await asyncio.to_thread(_report, stage, promoted, moments, seconds)


async def _traffic(stage: Stage, options: Options) -> None:
    who = (
        f"a stand-in for a frontier model ({MODEL}): it knows the truth, errs in one answer of six, takes "
        "six seconds and bills like the real ones"
        if options.stand_in
        else "the upstream you named"
    )
    stage.view.head(1, "Traffic", f"The app sends {MESSAGES} customer messages; {who} answers.")
    await stage.send(MESSAGES, IN_FLIGHT, "messages")
    totals = stage.totals
    stage.view.say(f"{totals.answered} answers, {totals.streamed} of them streamed, {totals.errors} errors")


async def _judged(stage: Stage) -> None:
    stage.view.head(2, "Judges", "config/judges/ticket.py: `valid` and `kept`, ten lines each.")
    needed = stage.config.learner[0].dataset.min_traces

    async def enough() -> bool:
        return (await stage.status()).judged >= needed

    await stage.wait("judging", enough, within_s=120)
    rows = await stage.ask(
        "SELECT judge, countIf(score IS NOT NULL) AS judged, countIf(score IS NULL) AS abstained, "
        "avg(score) AS mean "
        "FROM judgments FINAL GROUP BY judge ORDER BY judge"
    )
    for row in rows:
        stage.view.say(
            f"{row['judge']}: {row['judged']} judged, {row['abstained']} abstained, mean {row['mean']:.3f}"
        )


async def _learn(stage: Stage) -> None:
    stage.view.head(
        3, "Learn", "`up` has begun by itself: dataset, LoRA training, evaluation, snapshot. The app goes on."
    )
    with stage.view.note() as note:

        async def on_trial() -> bool:
            status = await stage.status()
            note(status.line)
            if status.run is not None and status.run.stage == "failed":
                raise OperationError(f"learning failed: {status.run.error}")
            return any(snapshot.state in {"canary", "stable", "rejected"} for snapshot in status.snapshots)

        async with stage.traffic(IN_FLIGHT_LEARNING):
            await stage.wait("learning", on_trial, LEARN_WITHIN_S)
    snapshot = (await stage.status()).snapshots[-1].snapshot
    stage.view.say(f"snapshot {snapshot}")
    for gain in await asyncio.to_thread(figures.gains, stage.store, snapshot):
        stage.view.say(
            f"{gain.slice}: {gain.base:.1%} (base with examples) → {gain.candidate:.1%}, "
            f"gain {gain.gain:+.1%} ({gain.low:+.1%} to {gain.high:+.1%}, n = {gain.n})"
        )


async def _roll_out(stage: Stage) -> None:
    stage.view.head(4, "Roll out", "The snapshot takes a share of live traffic until the evidence is there.")
    snapshot = (await stage.status()).snapshots[-1].snapshot
    ended, why = await _until_ended(stage, snapshot)
    if ended != "promoted":
        raise OperationError(f"the snapshot was expected to be promoted, and ended {ended}: {why}")
    stage.view.say(f"promoted: {why}")


async def _roll_back(stage: Stage, options: Options, paths: Paths, promoted: str) -> None:
    spoilt = (await asyncio.to_thread(spoil, paths.snapshots, promoted, stage.store)).snapshot
    stage.view.head(5, "Roll back", f"{spoilt}: the same adapter with its weights shuffled, on purpose.")
    arguments = (
        "rollout",
        "start",
        "--config",
        str(options.plan.path),
        "--route",
        ROUTE,
        "--snapshot",
        spoilt,
    )
    await asyncio.to_thread(call, *arguments, "--why", "to show a rollback")
    ended, why = await _until_ended(stage, spoilt)
    if ended != "rolled_back":
        raise OperationError(f"the spoilt snapshot was expected to be rolled back, and ended {ended}: {why}")
    stage.view.say(f"rolled back: {why}")


async def _until_ended(stage: Stage, snapshot: str) -> tuple[str, str]:
    """Traffic until the rollout of *snapshot* has ended; how, and why."""
    found: list[dict[str, str]] = []
    with stage.view.note() as note:

        async def over() -> bool:
            events = await stage.ask(
                "SELECT event, why FROM rollouts FINAL WHERE snapshot = {s:String} ORDER BY version",
                {"s": snapshot},
            )
            found[:] = [event for event in events if event["event"] in ENDED]
            if events:
                note(f"{events[-1]['event']}: {events[-1]['why']}")
            return bool(found)

        async with stage.traffic(IN_FLIGHT_CANARY):
            await stage.wait(f"a decision on {snapshot}", over, ROLLOUT_WITHIN_S)
    return found[-1]["event"], found[-1]["why"]


def _report(stage: Stage, promoted: str, moments: dict[str, int], seconds: dict[str, float]) -> Report:
    config: Config = stage.config
    judge = config.learner[0].judge
    variants = figures.variant_figures(stage.store, ROUTE, judge)
    by_name = {entry.variant: entry.cost_per_thousand_usd for entry in variants}
    first, own = variants[0].cost_per_thousand_usd, by_name.get(promoted)
    return Report(
        route=ROUTE,
        variants=variants,
        gains=figures.gains(stage.store, promoted),
        lineage=figures.lineage(stage.store, promoted),
        requests=stage.totals.sent,
        app_errors=stage.totals.errors,
        gateway_added_p95_ms_in_training=figures.gateway_added_p95_ms(
            stage.store, ROUTE, moments["since"], moments["until"]
        ),
        seconds=seconds,
        cost_ratio=first / own if first and own else None,
    )
