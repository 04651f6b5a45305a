"""How an upstream is asked: what it is told, what is tried again, what is a reason and what is an error."""

from __future__ import annotations

import json
import subprocess
import sys
from email.utils import formatdate
from pathlib import Path
from time import time
from typing import Any

import msgspec
import pytest

from gateway.config import Price, Secret
from gateway.config.types import FixedHeader, FixedQuery
from judges.definition import definition_of
from judges.errors import JudgeFileError, JudgeUpstreamError
from judges.executor import executor_of
from judges.llm import asking
from judges.llm.asking import MAX_TRIES, retry_after_s
from judges.usable import why_unusable
from tests.support.asking import MODEL, a_config, a_judge, a_task, said, verdicts
from tests.support.proxy import EgressProxy
from tests.support.upstream import ScriptedUpstream, answers, answers_status, never_connecting, sends

ONE = 'task: t\ncriteria: [{name: one, question: "Is it good?"}]\n'
SECRET_TEXT = "the customer's own words"


def judge_one(folder: Path, base_url: str, judge: dict[str, Any] | None = None, **entry: Any) -> Any:
    """The verdict on one trace by a rubric of one criterion."""
    config = a_config(base_url, **entry)
    return verdicts(config, a_judge(folder, rubric_text=ONE, **(judge or {})), a_task(SECRET_TEXT))[0]


def test_each_criterion_is_a_bounded_call_of_the_official_client_at_temperature_0(
    tmp_path: Path, upstream: ScriptedUpstream
) -> None:
    (answer,) = verdicts(a_config(upstream.base_url), a_judge(tmp_path), a_task())

    assert answer.score == 1.0
    assert len(upstream.received) == 2
    for received, name in zip(upstream.received, ("polite", "name the order"), strict=True):
        assert received.target == "/v1/chat/completions"
        assert "AsyncOpenAI" in (received.header("user-agent") or "")
        body = received.json()
        assert (body["model"], body["temperature"]) == (MODEL, 0)
        assert 0 < body["max_tokens"] <= 1000
        assert name in body["messages"][-1]["content"]


def test_the_key_and_headers_are_those_of_the_configuration_and_none_of_the_environment(
    tmp_path: Path, upstream: ScriptedUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JUDGE_KEY", "sk-configured")
    monkeypatch.setenv("TENANT", "tenant-7")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    for name in ("OPENAI_API_KEY", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID", "OPENAI_ADMIN_KEY"):
        monkeypatch.setenv(name, "ambient")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    headers = [
        FixedHeader(name="x-team", value="search"),
        FixedHeader(name="x-tenant-key", secret=Secret(env="TENANT")),
    ]

    judge_one(tmp_path, upstream.base_url, api_key=Secret(env="JUDGE_KEY"), headers=headers)
    judge_one(tmp_path, upstream.base_url)

    told, bare = upstream.received
    assert told.header("authorization") == "Bearer sk-configured"
    assert (told.header("x-team"), told.header("x-tenant-key")) == ("search", "tenant-7")
    assert bare.header("authorization") is None
    assert "ambient" not in str([received.headers for received in upstream.received])


def test_path_query_and_the_header_of_the_key_are_the_upstreams(
    tmp_path: Path, upstream: ScriptedUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JUDGE_KEY", "sk-azure")
    judge_one(
        tmp_path,
        upstream.base_url,
        {"model": "gpt/4o"},
        path="/deployments/{model}{path}",
        auth_header="api-key",
        api_key=Secret(env="JUDGE_KEY"),
        query=[FixedQuery(name="api-version", value="2026-01")],
    )

    (received,) = upstream.received
    assert received.target == "/v1/deployments/gpt%2F4o/chat/completions?api-version=2026-01"
    assert received.header("api-key") == "sk-azure"
    assert received.header("authorization") is None


def test_an_egress_proxy_is_the_one_of_the_configuration_with_its_credentials(
    tmp_path: Path, upstream: ScriptedUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROXY_AUTH", "team:p@ss/word")
    with EgressProxy(auth="team:p@ss/word") as proxy:
        answer = judge_one(
            tmp_path,
            upstream.base_url,
            transport="httpx",
            proxy=proxy.url,
            proxy_auth=Secret(env="PROXY_AUTH"),
        )

    assert answer.score == 1.0
    assert len(proxy.asked) == 1


def test_a_redirect_takes_neither_text_nor_key_elsewhere(tmp_path: Path, upstream: ScriptedUpstream) -> None:
    with ScriptedUpstream() as elsewhere:
        upstream.default = answers_status(307, None, ("location", f"{elsewhere.base_url}/chat/completions"))
        answer = judge_one(tmp_path, upstream.base_url)

    assert answer.score is None
    assert elsewhere.received == []


def test_the_client_is_imported_only_where_a_judge_asks(tmp_path: Path) -> None:
    judge = a_judge(tmp_path)
    program = (
        "import sys; from pathlib import Path; import judges, judges.runner, judges.usable, judges.cli\n"
        "from gateway.config import JudgeConfig\n"
        f"judges.definition_of(JudgeConfig(name='a', kind='llm', rubric=Path({str(judge.rubric)!r}), upstream='u', model='m'))\n"
        "assert 'openai' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=Path(__file__).parents[3])


def test_what_keeps_a_judge_from_asking_is_said_by_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("JUDGE_KEY", raising=False)
    config = a_config("http://127.0.0.1:9/v1", api_key=Secret(env="JUDGE_KEY"))
    judge = a_judge(tmp_path)
    found = why_unusable(msgspec.structs.replace(config, judges=[judge]))
    fine = why_unusable(msgspec.structs.replace(a_config("http://127.0.0.1:9/v1"), judges=[judge]))

    assert found == {
        "asks": "judge 'asks' cannot ask upstream 'judging': environment variable JUDGE_KEY is not set; "
        "export it - at `$.upstreams[0].api_key`"
    }
    assert fine == {}


def test_an_upstream_that_cannot_be_asked_is_named_before_anything_is_judged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("JUDGE_KEY", raising=False)
    judge = a_judge(tmp_path)
    for entry, why in (
        ({"api_key": Secret(env="JUDGE_KEY")}, "environment variable JUDGE_KEY is not set; export it"),
        ({"path": "{path}/x"}, "goes on after {path}"),
    ):
        executor = executor_of(a_config("http://127.0.0.1:9/v1", **entry), judge, definition_of(judge))
        with pytest.raises(JudgeFileError, match="'judging'") as refused:
            executor.start()
        executor.close()
        assert why in str(refused.value)


@pytest.mark.parametrize("status", [408, 409, 429, 500, 502, 503, 529])
def test_what_may_pass_is_tried_again(tmp_path: Path, upstream: ScriptedUpstream, status: int) -> None:
    upstream.then(answers_status(status), answers_status(status))

    assert judge_one(tmp_path, upstream.base_url).score == 1.0
    assert len(upstream.received) == 3


def test_what_does_not_pass_is_an_abstention_after_a_bounded_number_of_tries(
    tmp_path: Path, upstream: ScriptedUpstream
) -> None:
    upstream.default = answers_status(503, {"error": {"message": SECRET_TEXT}})
    answer = judge_one(tmp_path, upstream.base_url)

    assert answer.score is None
    assert answer.reason == f"{MODEL} of judging refused the question with status 503"
    assert len(upstream.received) == MAX_TRIES


def test_what_the_upstream_says_of_waiting_is_done(
    tmp_path: Path, upstream: ScriptedUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[float] = []
    wait = asking._wait
    monkeypatch.setattr(asking, "_wait", lambda state: waited.append(wait(state)) or wait(state))
    upstream.then(answers_status(429, retry_after="0.05"), answers_status(429))

    assert judge_one(tmp_path, upstream.base_url).score == 1.0
    assert waited == [0.05, 0.0]


def test_retry_after_is_a_number_or_a_date() -> None:
    assert retry_after_s("7") == 7
    assert retry_after_s(formatdate(time() + 60, usegmt=True)) == pytest.approx(60, abs=3)
    assert retry_after_s("-3") == 0
    assert [retry_after_s(value) for value in (None, "soon", "nan")] == [None, None, None]


def test_a_wait_beyond_the_bound_of_the_trace_ends_with_it(
    tmp_path: Path, upstream: ScriptedUpstream
) -> None:
    upstream.default = answers_status(429, retry_after="3600")
    answer = judge_one(tmp_path, upstream.base_url, {"timeout_s": 0.3})

    assert answer.score is None
    assert answer.reason == "took longer than 0.3 s; timeout_s raises the bound"
    assert len(upstream.received) == 1


def test_a_server_that_is_gone_leaves_the_question_to_the_next(
    tmp_path: Path, upstream: ScriptedUpstream
) -> None:
    config = a_config(None, base_urls=["http://127.0.0.1:9/v1", upstream.base_url])
    judge = a_judge(tmp_path, rubric_text=ONE)

    assert [answer.score for answer in verdicts(config, judge, *[a_task() for _ in range(4)])] == [1.0] * 4


def test_nobody_there_is_an_abstention_with_that_reason(tmp_path: Path) -> None:
    answer = judge_one(tmp_path, "http://127.0.0.1:9/v1")

    assert answer.score is None
    assert answer.reason == f"upstream judging could not be reached or broke off, {MAX_TRIES} times"
    with never_connecting() as base_url:
        slow = judge_one(tmp_path, base_url, {"timeout_s": 0.3})
    assert slow.reason == "took longer than 0.3 s; timeout_s raises the bound"


@pytest.mark.parametrize(
    "script",
    [
        sends(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n<html"),
        sends(b"garbage\r\n\r\n"),
        answers_status(400),
    ],
    ids=["no json", "no http", "refused"],
)
def test_a_failure_is_a_reason_on_one_line_without_text_of_the_trace_or_the_key(
    tmp_path: Path, upstream: ScriptedUpstream, script: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JUDGE_KEY", "sk-configured")
    upstream.default = script
    answer = judge_one(tmp_path, upstream.base_url, api_key=Secret(env="JUDGE_KEY"))

    assert answer.score is None
    assert answer.reason
    assert not {"\n", SECRET_TEXT, "sk-configured"} & {answer.reason}
    assert SECRET_TEXT not in answer.reason


@pytest.mark.parametrize(
    ("status", "remedy"),
    [(401, "correct api_key"), (403, "correct api_key"), (404, "correct the judge's model")],
)
def test_what_would_fail_for_every_trace_is_no_abstention_but_an_error_that_names_the_upstream(
    tmp_path: Path, upstream: ScriptedUpstream, status: int, remedy: str
) -> None:
    upstream.default = answers_status(status, {"error": {"message": SECRET_TEXT}})

    with pytest.raises(JudgeUpstreamError) as refused:
        judge_one(tmp_path, upstream.base_url)

    assert "'judging'" in str(refused.value)
    assert MODEL in str(refused.value)
    assert remedy in str(refused.value)
    assert SECRET_TEXT not in str(refused.value)
    assert len(upstream.received) == 1


def test_a_model_that_thinks_first_is_asked_as_it_wants(tmp_path: Path, upstream: ScriptedUpstream) -> None:
    error = {"error": {"message": "use max_completion_tokens", "param": "max_tokens", "type": "invalid"}}
    upstream.then(answers_status(400, error))
    config, judge = a_config(upstream.base_url), a_judge(tmp_path, rubric_text=ONE)

    assert [answer.score for answer in verdicts(config, judge, a_task(), a_task())] == [1.0, 1.0]
    asked = [received.json() for received in upstream.received]
    assert ["max_tokens" in body for body in asked] == [True, False, False]
    assert all("temperature" not in body and body["max_completion_tokens"] for body in asked[1:])


def test_cost_and_tokens_are_summed_over_the_calls_at_the_upstreams_prices(
    tmp_path: Path, upstream: ScriptedUpstream
) -> None:
    usage = {"prompt_tokens": 1000, "completion_tokens": 10, "total_tokens": 1010}
    upstream.default = answers(said("yes"), usage=usage)
    prices = [Price(model=MODEL, input=2.0, output=10.0)]
    (answer,) = verdicts(a_config(upstream.base_url, prices=prices), a_judge(tmp_path), a_task())

    assert (answer.tokens_in, answer.tokens_out) == (2000, 20)
    assert answer.cost_usd == pytest.approx(2 * (1000 * 2 + 10 * 10) / 1e6)


def test_what_is_off_the_menu_has_been_paid_for_too(tmp_path: Path, upstream: ScriptedUpstream) -> None:
    upstream.default = answers("I would say yes")
    prices = [Price(model=MODEL, input=2.0, output=10.0)]
    answer = judge_one(tmp_path, upstream.base_url, prices=prices)

    assert answer.score is None
    assert answer.cost_usd == pytest.approx((11 * 2 + 2 * 10) / 1e6)


def test_an_unknown_cost_is_unknown_and_never_zero(tmp_path: Path, upstream: ScriptedUpstream) -> None:
    assert judge_one(tmp_path, upstream.base_url).cost_usd is None
    hourly = judge_one(tmp_path, upstream.base_url, price_per_hour=1.0)
    assert (hourly.cost_usd, hourly.tokens_in) == (None, 11)
    upstream.default = answers(said("yes"), usage=None)
    prices = [Price(model=MODEL, input=2.0, output=10.0)]
    unsaid = judge_one(tmp_path, upstream.base_url, prices=prices)
    assert (unsaid.score, unsaid.cost_usd, unsaid.tokens_in) == (1.0, None, None)


def test_detail_has_each_criterion_with_its_answer_and_quote(
    tmp_path: Path, upstream: ScriptedUpstream
) -> None:
    upstream.then(answers(said("yes", "Order 7 is on")), answers(said("no", "made up", "b" * 9000)))
    (answer,) = verdicts(a_config(upstream.base_url), a_judge(tmp_path), a_task())

    first, second = json.loads(answer.detail)["criteria"]
    assert answer.score == 0.25
    assert first == {
        "name": "polite",
        "answer": "yes",
        "met": True,
        "quote": "Order 7 is on",
        "quoted": True,
        "why": "It says so.",
    }
    assert (second["met"], second["quoted"]) == (False, False)
    assert len(second["why"]) <= 300
