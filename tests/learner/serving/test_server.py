"""The server over real sockets: OpenAI's calls with the official client, vLLM's calls for adapters."""

from __future__ import annotations

import concurrent.futures
import json
import shutil
import socket
import subprocess
import time

import httpx
import openai
import pytest
from transformers import AutoTokenizer

from tests.support.serving import serve_command, serving

PROMPTS = ["hello", "the order is late " * 3, "swap the item", "where is it? " * 6, "ü 🎉", "thanks"]


@pytest.fixture(scope="module")
def server(tiny_base, tmp_path_factory):
    with serving(tiny_base, tmp_path_factory.mktemp("serve"), "--max-rows", "4", "--queue", "8") as running:
        yield running


@pytest.fixture(scope="module")
def client(server):
    with openai.OpenAI(base_url=server.base_url, api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def models(server, tiny_adapters):
    """The base model's name, and those of two adapters that have been loaded."""
    for path in tiny_adapters:
        assert load(server, path.name, path).status_code == 200
    return ["tiny", *(path.name for path in tiny_adapters)]


def load(server, name, path):
    body = {"lora_name": name, "lora_path": str(path)}
    return httpx.post(f"{server.base_url}/load_lora_adapter", json=body, timeout=30)


def chat(client, model, prompt, **options):
    return client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": prompt}],
        **{"temperature": 0, "max_tokens": 24, **options},
    )


def metric(server, name):
    lines = httpx.get(f"{server.url}/metrics").text.splitlines()
    return next(int(line.split()[-1]) for line in lines if line.startswith(f"tracetune_serve_{name}"))


def eventually(check, within_s=10):
    deadline = time.monotonic() + within_s
    while not check():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_answers_in_a_mixed_batch_equal_answers_alone(client, models):
    wanted = [(model, prompt) for model in models for prompt in PROMPTS]
    alone = [chat(client, model, prompt).choices[0].message.content for model, prompt in wanted]
    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        mixed = list(pool.map(lambda entry: chat(client, *entry).choices[0].message.content, wanted))
    assert alone == mixed
    assert len(set(alone)) > len(wanted) // 2, (
        "the adapters must answer differently for this to mean anything"
    )


def test_a_streamed_answer_is_the_buffered_one_with_the_same_usage_and_finish_reason(client, models):
    for model in models:
        whole = chat(client, model, PROMPTS[1], max_tokens=60)
        chunks = list(
            chat(
                client, model, PROMPTS[1], max_tokens=60, stream=True, stream_options={"include_usage": True}
            )
        )
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
        assert text == whole.choices[0].message.content
        assert chunks[0].choices[0].delta.role == "assistant"
        finishes = [c.choices[0].finish_reason for c in chunks if c.choices and c.choices[0].finish_reason]
        assert finishes == [whole.choices[0].finish_reason]
        assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
        assert chunks[-1].usage.prompt_tokens == whole.usage.prompt_tokens
        assert chunks[-1].model == model


def test_a_stream_without_include_usage_carries_none_and_ends_with_done(server):
    body = {"model": "tiny", "messages": [{"role": "user", "content": "x"}], "stream": True, "max_tokens": 3}
    events = httpx.post(f"{server.base_url}/chat/completions", json=body).text.strip().split("\n\n")
    assert events[-1] == "data: [DONE]"
    assert all("usage" not in json.loads(event.removeprefix("data: ")) for event in events[:-1])


def test_max_tokens_ends_with_length_and_counts_exactly(client):
    for options in ({"max_tokens": 5}, {"max_tokens": openai.omit, "max_completion_tokens": 5}):
        answer = chat(client, "tiny", "count", **options)
        assert (answer.choices[0].finish_reason, answer.usage.completion_tokens) == ("length", 5)


def test_an_answer_ends_before_its_stop_string_streamed_or_not(client):
    whole = chat(client, "tiny", "hello", max_tokens=40).choices[0].message.content
    stop = whole[5:8]
    expected = whole[: whole.index(stop)]
    buffered = chat(client, "tiny", "hello", max_tokens=40, stop=[stop, "never in there"])
    streamed = "".join(
        chunk.choices[0].delta.content or ""
        for chunk in chat(client, "tiny", "hello", max_tokens=40, stop=stop, stream=True)
    )
    assert buffered.choices[0].message.content == streamed == expected
    assert buffered.choices[0].finish_reason == "stop"


def test_a_seed_repeats_a_sampled_answer_and_another_one_changes_it(client):
    def sampled(seed):
        return (
            chat(client, "tiny", "hello", temperature=1.5, top_p=0.95, seed=seed).choices[0].message.content
        )

    assert sampled(1) == sampled(1)
    assert len({sampled(seed) for seed in range(5)}) > 1


def test_a_second_turn_takes_over_the_first_one_and_says_so_in_its_usage(client):
    first = "a long first message that is read only once, whatever follows it"
    chat(client, "tiny", first)
    again = chat(client, "tiny", first)
    assert again.usage.prompt_tokens_details.cached_tokens == again.usage.prompt_tokens - 1


def test_text_completions_take_a_string_and_its_tokens_alike(client, tiny_base):
    tokens = AutoTokenizer.from_pretrained(tiny_base)("the order")["input_ids"]
    texts = {
        client.completions.create(model="tiny", prompt=prompt, temperature=0, max_tokens=8).choices[0].text
        for prompt in ("the order", ["the order"], tokens)
    }
    assert len(texts) == 1


def test_adapters_are_listed_with_their_path_and_parent(server, models, tiny_adapters):
    cards = httpx.get(f"{server.base_url}/models").json()["data"]
    assert [card["id"] for card in cards] == models
    assert [card["root"] for card in cards[1:]] == [str(path) for path in tiny_adapters]
    assert {card["parent"] for card in cards[1:]} == {"tiny"}


def test_loading_a_name_twice_is_a_400_and_unloading_frees_it(server, models, tiny_adapters):
    name, path = models[1], tiny_adapters[0]
    again = load(server, name, path)
    assert (again.status_code, "already" in again.json()["error"]["message"]) == (400, True)
    unload = {"lora_name": name}
    assert httpx.post(f"{server.base_url}/unload_lora_adapter", json=unload).status_code == 200
    assert httpx.post(f"{server.base_url}/unload_lora_adapter", json=unload).status_code == 404
    assert load(server, name, path).status_code == 200


def test_adapter_calls_that_do_not_say_json_are_refused(server, tiny_adapters):
    body = json.dumps({"lora_name": "sneaky", "lora_path": str(tiny_adapters[0])})
    answer = httpx.post(
        f"{server.base_url}/load_lora_adapter", content=body, headers={"content-type": "text/plain"}
    )
    assert answer.status_code == 400
    assert "application/json" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("change", "status", "says"),
    [
        ({"model": "nobody"}, 404, "`nobody` does not exist"),
        ({"messages": []}, 400, "must not be empty"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, 400, "messages[0].content"),
        ({"messages": [{"content": "x"}]}, 400, "chat template refuses"),
        ({"messages": "x"}, 400, "$.messages"),
        ({"temperature": 3}, 400, "temperature"),
        ({"top_p": 0}, 400, "top_p"),
        ({"max_tokens": 0}, 400, "max_tokens"),
        ({"max_tokens": 5000}, 400, "maximum context length is 1024"),
        ({"n": 2}, 400, "n is not offered"),
        ({"logprobs": True}, 400, "logprobs is not offered"),
        ({"messages": [{"role": "user", "content": "too long " * 2000}]}, 400, "maximum context length"),
    ],
)
def test_a_request_at_fault_gets_one_line_in_openais_shape(server, change, status, says):
    body = {"model": "tiny", "messages": [{"role": "user", "content": "x"}], "max_tokens": 4, **change}
    answer = httpx.post(f"{server.base_url}/chat/completions", json=body)
    assert answer.status_code == status
    error = answer.json()["error"]
    assert says in error["message"] or says in (error["param"] or "")
    assert error["code"] == status


def test_fields_at_their_neutral_values_are_taken(client):
    answer = chat(client, "tiny", "x", n=1, presence_penalty=0, frequency_penalty=0.0, logprobs=False)
    assert answer.choices[0].finish_reason


def test_a_client_that_leaves_frees_its_row(server):
    body = {"model": "tiny", "messages": [{"role": "user", "content": "go on"}], "max_tokens": 900}
    body["ignore_eos"] = True
    ended = 'requests_total{finish="cancelled"}'
    before = metric(server, ended)
    with httpx.stream("POST", f"{server.base_url}/chat/completions", json={**body, "stream": True}) as answer:
        assert next(answer.iter_lines()).startswith("data: ")
    eventually(lambda: metric(server, ended) == before + 1)
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{server.base_url}/chat/completions", json=body, timeout=0.3)
    eventually(lambda: metric(server, ended) == before + 2)
    assert metric(server, "requests_running") == 0


def test_above_the_bound_requests_get_503_with_retry_after_and_the_rest_is_answered(server):
    body = {
        "model": "tiny",
        "messages": [{"role": "user", "content": "q"}],
        "max_tokens": 200,
        "temperature": 0,
    }
    with concurrent.futures.ThreadPoolExecutor(30) as pool:
        answers = list(
            pool.map(
                lambda _: httpx.post(f"{server.base_url}/chat/completions", json=body, timeout=60), range(30)
            )
        )
    refused = [answer for answer in answers if answer.status_code == 503]
    served = [answer for answer in answers if answer.status_code == 200]
    assert len(served) + len(refused) == 30
    assert len(served) >= 12  # four rows and a queue of eight
    assert refused
    assert all(answer.headers["retry-after"] == "1" for answer in refused)
    assert "--queue" in refused[0].json()["error"]["message"]


def test_health_is_200_and_unknown_paths_are_404_in_openais_shape(server):
    assert httpx.get(f"{server.url}/health").status_code == 200
    assert httpx.get(f"{server.url}/v1/nothing").json()["error"]["code"] == 404


def test_adapters_of_a_folder_are_loaded_at_the_start_and_sigterm_ends_it_with_0(
    tiny_base, tiny_adapters, tmp_path
):
    folder = tiny_adapters[0].parent
    with serving(tiny_base, tmp_path, "--adapters", str(folder), "--name", "base") as running:
        cards = httpx.get(f"{running.base_url}/models").json()["data"]
        assert [card["id"] for card in cards] == ["base", *(path.name for path in tiny_adapters)]
        assert running.stop() == 0
        assert "Traceback" not in running.log.read_text()


def test_sigterm_during_an_answer_ends_the_server_within_six_seconds_with_0(tiny_base, tmp_path):
    body = {"model": "long", "messages": [{"role": "user", "content": "go on"}], "max_tokens": 20_000}
    body |= {"ignore_eos": True, "stream": True}
    config = json.loads((tiny_base / "config.json").read_text())
    long = tmp_path / "long"
    shutil.copytree(tiny_base, long)
    (long / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 30_000}))
    with serving(long, tmp_path, "--max-model-len", "30000") as running:
        with httpx.stream("POST", f"{running.base_url}/chat/completions", json=body, timeout=30) as answer:
            assert next(answer.iter_lines()).startswith("data: ")
            started = time.monotonic()
            assert running.stop() == 0
            assert time.monotonic() - started < 6
        assert "Traceback" not in running.log.read_text()


def test_a_busy_port_and_a_directory_without_a_model_are_one_line_and_exit_1(tiny_base, tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        busy = run(tiny_base, "--port", port)
    empty = run(tmp_path)
    assert (busy.returncode, empty.returncode) == (1, 1)
    assert f"127.0.0.1:{port} cannot be listened on" in busy.stderr
    assert "not a base model" in empty.stderr
    assert len(busy.stderr.strip().splitlines()) == len(empty.stderr.strip().splitlines()) == 1


def run(model, *options):
    return subprocess.run(
        serve_command(model, *options), capture_output=True, text=True, timeout=60, check=False
    )
