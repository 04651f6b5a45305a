"""Judgments of models in the store: sealed, shown, counted against their route; and the judge that waits."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gateway.config import Config, JudgeConfig, Price, Route, Upstream, Variant, load_config
from gateway.traces.bodies.reads import Reader
from gateway.traces.encryption.key_source import KeySource
from gateway.traces.encryption.keyring import open_keyring
from gateway.traces.markers import ERASED
from gateway.traces.migrate import migrate
from gateway.traces.show import show_trace
from gateway.traces.store import Store
from gateway.traces.types import Trace
from judges.definition import definition_of
from judges.errors import JudgeUpstreamError
from judges.evaluate import evaluate_answers
from judges.executor import executor_of
from judges.follow import JudgeFollower
from judges.passes import Tally, judge_traces, version_of
from judges.pending import Due
from judges.runner import judging
from judges.trace import judged_trace
from tests.support.asking import MODEL, a_judge, better, said
from tests.support.judging import add, judged, wait_for
from tests.support.store import a_trace, started_store, write_config
from tests.support.upstream import ScriptedUpstream, answers, answers_status

READER = Reader("somebody", "here")
PLANTED = "seven lavender ferrets"
KEY = base64.b64encode(b"m" * 32).decode()


def asking(config: Config, upstream: ScriptedUpstream) -> Config:
    """*config* with the scripted upstream, whose tokens cost a dollar each."""
    prices = [Price(model=MODEL, input=1e6, output=1e6)]
    judging = Upstream(name="judging", base_url=upstream.base_url, prices=prices)
    variants = [
        Variant(name="stable", upstream="judging", model="m", weight=1),
        Variant(name="canary", upstream="judging", model="n", weight=0),
    ]
    routes = [Route(model="support-bot", variants=variants)]
    return msgspec.structs.replace(config, upstreams=[judging], routes=routes)


def asked(prompt: str, text: str, **changes: Any) -> Trace:
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    return a_trace(
        request=json.dumps({"messages": [{"role": "user", "content": prompt}]}),
        response=json.dumps({"choices": [choice]}),
        **changes,
    )


def judge_them(store: Store, config: Config, judge: JudgeConfig, *traces: Trace) -> Tally:
    definition = definition_of(judge)
    found = [Due(trace.trace_id, trace.started_at, said=True) for trace in traces]
    with executor_of(config, judge, definition) as executor:
        return judge_traces(store, executor, version_of(judge, definition), found, stop=lambda: False)


def test_what_judging_cost_is_in_the_judgment_and_in_the_minutes_of_its_route(
    clean_store: Store, embedded_config: Config, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    config, judge = asking(embedded_config, upstream), a_judge(tmp_path)
    traces = [asked("Where?", "Here.", route="support-bot"), asked("Where?", "There.", route="support-bot")]
    add(clean_store, *traces)
    upstream.then(answers("off the menu"))
    tally = judge_them(clean_store, config, judge, *traces)

    assert (tally.judged, tally.abstained) == (1, 1)
    rows = clean_store.query("SELECT cost_usd, tokens_in, tokens_out, seconds, detail FROM judgments")
    assert [(row["cost_usd"], row["tokens_in"], row["tokens_out"]) for row in rows] == [(26, 22, 4)] * 2
    assert all(row["seconds"] > 0 and json.loads(row["detail"])["criteria"] for row in rows)
    (summed,) = clean_store.query(
        "SELECT route, sum(priced) AS n, sum(j.cost_usd) AS usd FROM judgments_by_minute AS j GROUP BY route"
    )
    assert summed == {"route": "support-bot", "n": 2, "usd": 52.0}


@pytest.fixture
def encrypted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Config]:
    monkeypatch.setenv("MASTER", KEY)
    path = write_config(tmp_path, "privacy: {encrypt: per_subject, master_key: {env: MASTER}}\n")
    with started_store(path):
        yield load_config(path)


def test_what_a_model_quoted_is_under_the_key_of_the_body_and_goes_with_it(
    encrypted: Config, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    upstream.default = answers(said("yes", PLANTED))
    config, judge = asking(encrypted, upstream), a_judge(tmp_path)
    trace = asked("Who?", PLANTED, route="support-bot", subject="ann")
    with Store.connect(config, wait_s=20) as store:
        migrate(store)
        add(store, trace)
        judge_them(store, config, judge, trace)
        (row,) = store.query("SELECT detail, score FROM judgments")
        assert row["score"] == 1.0
        assert "ferrets" not in row["detail"]
        (shown,) = show_trace(store, trace.trace_id, READER).judgments
        assert [criterion["quote"] for criterion in json.loads(shown["detail"])["criteria"]] == [PLANTED] * 2
        assert shown["tokens_in"] == 22

        keys = open_keyring(KeySource.of(config), {"MASTER": KEY})
        assert keys is not None
        keys.destroy(trace.client, "ann")
    with Store.connect(config, wait_s=20) as store:
        (shown,) = show_trace(store, trace.trace_id, READER).judgments
        assert shown["detail"] == ERASED


def test_a_refused_key_stores_no_abstention_and_keeps_what_was_paid_for(
    clean_store: Store, embedded_config: Config, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    config, judge = asking(embedded_config, upstream), a_judge(tmp_path)
    traces = [asked("Where?", f"Here {number}.", route="support-bot") for number in range(4)]
    add(clean_store, *traces)
    upstream.then(answers(said("yes")), answers(said("yes")))
    upstream.default = answers_status(401)

    with pytest.raises(JudgeUpstreamError, match="'judging' refused our key"):
        judge_them(clean_store, config, judge, *traces)

    assert list(judged(clean_store, "asks").values()) == [1.0]


def test_a_judge_whose_key_is_refused_waits_and_judges_once_it_is_not(
    clean_store: Store,
    embedded_config: Config,
    upstream: ScriptedUpstream,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    config, judge = asking(embedded_config, upstream), a_judge(tmp_path)
    add(clean_store, asked("Where?", "Here.", route="support-bot"))
    upstream.default = answers_status(401)
    stop = threading.Event()
    follower = JudgeFollower(config, judge, lambda: Store.connect(config), stop)
    thread = threading.Thread(target=follower.run)
    thread.start()
    try:
        wait_for(lambda: len(upstream.received) >= 2)
        assert judged(clean_store, "asks") == {}
        assert sum("refused our key" in record.getMessage() for record in caplog.records) == 1
        upstream.default = answers(said("yes"))
        wait_for(lambda: list(judged(clean_store, "asks").values()) == [1.0])
    finally:
        stop.set()
        thread.join(10)
    assert not thread.is_alive()


def test_an_edited_rubric_is_picked_up_as_a_new_version(
    clean_store: Store, embedded_config: Config, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    config, judge = asking(embedded_config, upstream), a_judge(tmp_path)
    add(clean_store, asked("Where?", "Here.", route="support-bot"))
    stop = threading.Event()
    thread = threading.Thread(target=JudgeFollower(config, judge, lambda: Store.connect(config), stop).run)

    def versions() -> set[str]:
        return {row["version"] for row in clean_store.query("SELECT version FROM judgments")}

    thread.start()
    try:
        wait_for(lambda: len(versions()) == 1)
        rubric = judge.rubric
        assert rubric is not None
        rubric.write_text(rubric.read_text().replace("polite?", "kind?"))
        wait_for(lambda: len(versions()) == 2)
    finally:
        stop.set()
        thread.join(10)


def test_a_route_that_becomes_private_while_judging_runs_is_obeyed(
    clean_store: Store, embedded_config: Config, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    config, judge = asking(embedded_config, upstream), a_judge(tmp_path)
    (route,) = config.routes
    private = msgspec.structs.replace(config, routes=[msgspec.structs.replace(route, private=True)])
    with_judge, now_private = (msgspec.structs.replace(each, judges=[judge]) for each in (config, private))

    assert judging(with_judge) != judging(now_private)
    assert judging(config) == judging(private), "judges of Python are not restarted for it"

    trace = asked("Where?", "Here.", route="support-bot")
    add(clean_store, trace)
    judge_them(clean_store, now_private, judge, trace)
    (reason,) = judged(clean_store, "asks").values()
    assert "'support-bot' is private" in str(reason)
    assert upstream.received == []


NOW = datetime.now(UTC)


def test_an_answer_is_compared_with_the_stable_variants_to_the_same_prompt(
    clean_store: Store, embedded_config: Config, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    config = asking(embedded_config, upstream)
    judge = a_judge(tmp_path, kind="pairwise", against="stable")
    mine = {"route": "support-bot", "variant": "canary"}
    stable = {"route": "support-bot", "variant": "stable"}
    answered = asked("Where is it?", "Mine.", **mine)
    alone = asked("When?", "Soon.", **mine)
    add(
        clean_store,
        answered,
        alone,
        asked("Where is it?", "An old one.", started_at=NOW - timedelta(hours=1), **stable),
        asked("Where is it?", "The stable one.", **stable),
        asked("Where is it?", "Of another route.", route="other", variant="stable"),
        asked("Where is it?", "Of another canary.", **mine),
        asked("When?", "It failed.", outcome="upstream_error", **stable),
    )
    upstream.then(answers(better("first")), answers(better("second")))
    judge_them(clean_store, config, judge, answered, alone)

    found = judged(clean_store, "asks")
    assert found == {
        answered.trace_id: 1.0,
        alone.trace_id: "the stable variant has no answer to the same prompt",
    }
    shown = upstream.received[0].json()["messages"][-1]["content"]
    assert "The stable one." in shown
    assert not any(text in shown for text in ("An old one.", "Of another route.", "Of another canary."))


def test_a_snapshots_answer_is_compared_with_what_stable_answered_to_that_prompt(
    clean_store: Store, embedded_config: Config, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    upstream.default = answers(better("first"))
    upstream.then(answers(better("first")), answers(better("second")))
    config = asking(embedded_config, upstream)
    judge = a_judge(tmp_path, kind="pairwise", against="stable")
    stable = asked("Where?", "Here.", route="support-bot", variant="stable")
    add(clean_store, stable)
    logged = judged_trace(stable)

    found = evaluate_answers(config, judge, [logged.with_answer("There, at once."), logged])

    assert [judgment.score for judgment in found] == [1.0, 0.5], "stable is as good as itself"
    assert judge_them(clean_store, config, judge, stable).abstained == 1, "in traffic that says nothing"
