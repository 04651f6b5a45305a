"""Bodies change where a rule says so, and nowhere else."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.data_plane.body import read_body, upstream_body
from gateway.data_plane.errors import ApiError
from gateway.data_plane.headers import read_own
from gateway.data_plane.json_splice import _find_once, replace_value, top_level_values

keys = st.sampled_from(
    ["model", "mod\\", 'say "model', "stream_options", "messages", "é", "\u0001"]
) | st.text(max_size=5)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.just("model"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3),
    max_leaves=8,
)
objects = st.dictionaries(keys, values, max_size=5)
spaces = st.text(" \t\n\r", max_size=3)
models = st.text(max_size=10)


@st.composite
def texts(draw: st.DrawFn) -> tuple[bytes, str]:
    """An object that has a model, as someone may have written it down, and the model."""
    data = {**draw(objects), "model": draw(models)}
    if draw(st.booleans()):
        data = dict(reversed(data.items()))
    ascii_only, space = draw(st.booleans()), draw(spaces)
    text = json.dumps(
        data, ensure_ascii=ascii_only, separators=(space + "," + space, space + ":" + space)
    ).encode("utf-8", "surrogatepass")
    return draw(spaces).encode() + text + draw(spaces).encode(), data["model"]


@given(texts(), models)
def test_only_the_value_of_the_top_level_model_changes(written: tuple[bytes, str], replacement: str):
    text, model = written
    changed = replace_value(text, "model", json.dumps(replacement).encode())

    (start, end), *rest = top_level_values(text, "model")
    assert not rest
    assert json.loads(text[start:end]) == model
    assert changed == text[:start] + json.dumps(replacement).encode() + text[end:]
    assert json.loads(changed) == {**json.loads(text), "model": replacement}


@given(texts())
def test_the_short_way_finds_what_the_scanner_finds_or_nothing(written: tuple[bytes, str]):
    text, _ = written

    assert _find_once(text, "model") in (None, top_level_values(text, "model"))


@pytest.mark.parametrize(
    "text",
    [
        b'{"m\\u006fdel":"a","metadata":{"model":"b"}}',
        b'{"metadata":{"model":"b"},"model":"a"}',
        b'{"messages":[{"content":"the \\"model\\": \\"b\\""}],"model" : "a"}',
        b'{"messages":["\\"model"],"model":"a"}',
        b'{"tools":[{"model":"b"}],"mo\\u0064el":"a"}',
    ],
)
def test_nested_and_escaped_models_are_told_apart(text: bytes):
    changed = json.loads(replace_value(text, "model", b'"c"'))

    assert changed == {**json.loads(text), "model": "c"}


def test_every_repetition_of_the_model_is_replaced():
    assert replace_value(b'{"model":"a","x":1,"model":"b"}', "model", b'"c"') == (
        b'{"model":"c","x":1,"model":"c"}'
    )


@pytest.mark.parametrize(
    "body",
    [
        b'{"model":"dear","messages":[],"model":"m"}',
        b'{"mod\\u0065l":"dear","messages":["model"],"model":"m"}',
        b'{"model":"dear","x":"\\ud83d","\\ud83d":1,"model":"m"}',
    ],
)
def test_no_reader_finds_another_model_than_we_do(body: bytes):
    sent = upstream_body(body, read_body(body), "m", count_usage=False)

    assert [value for name, value in json.loads(sent, object_pairs_hook=list) if name == "model"] == [
        "m",
        "m",
    ]


@pytest.mark.parametrize(
    "field",
    [
        r'"messages":[{"content":"cut \ud83d"}]',
        r'"metadata":{"session_id":"\ud83d"}',
        r'"user":"\ud83d"',
        r'"prompt":["\ud83d"]',
        r'"\ud83d":1',
        '"x":1e999,"user":7',
        '"max_tokens":' + "9" * 400,
    ],
)
def test_what_other_parsers_read_passes_as_it_is(field: str):
    body = f'{{{field},"model":"m","stream":true}}'.encode()
    view = read_body(body)
    sent = upstream_body(body, view, "other", count_usage=False)

    assert (view.model, view.stream, view.choices) == ("m", True, 1)
    assert sent == body.replace(b'"m"', b'"other"')
    for key in (view.session, view.subject):
        assert key is None or key.encode()


def test_half_an_emoji_is_no_model_that_breaks_anything():
    assert read_body(rb'{"model":"\ud83d"}').model.encode()


def test_a_body_under_its_own_name_stays_as_it_is():
    body = b' {"model" : "m",  "unknown":[1.0e5, {}] }\n'

    assert upstream_body(body, read_body(body), "m", count_usage=False) == body


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("", {"include_usage": True}),
        ('"stream_options":null,', {"include_usage": True}),
        ('"stream_options":{},', {"include_usage": True}),
        ('"stream_options":{"include_usage":false,"x":1},', {"include_usage": True, "x": 1}),
        ('"stream_\\u006fptions":{"x":1},', {"include_usage": True, "x": 1}),
        ('"stream_options":"strange",', "strange"),
    ],
)
def test_usage_is_asked_for_in_the_stream_options_that_are_there(options: str, expected: object):
    body = f'{{{options}"model":"m","stream":true}}'.encode()
    changed = json.loads(upstream_body(body, read_body(body), "other", count_usage=True))

    assert changed == {"model": "other", "stream": True, "stream_options": expected}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (
            '{ "include_usage" : false, "x":1.50e0,\n"y":[1 ,{}] }',
            '{ "include_usage" : true, "x":1.50e0,\n"y":[1 ,{}] }',
        ),
        ('{"x":123456789012345678901234567890}', '{"include_usage":true,"x":123456789012345678901234567890}'),
        (
            '{"x":{"include_usage":0}, "include_usage":null}',
            '{"x":{"include_usage":0}, "include_usage":true}',
        ),
    ],
)
def test_what_else_the_stream_options_hold_stays_byte_for_byte(options: str, expected: str):
    body = '{{"model": "m", "stream": true, "stream_options" : {} , "z": 1.0}}'
    written = body.format(options).encode()

    assert upstream_body(written, read_body(written), "m", count_usage=True) == body.format(expected).encode()


def test_fields_of_strange_types_are_the_upstreams_to_judge():
    view = read_body(
        b'{"model":"m","stream":"yes","user":7,"metadata":[],"n":"2","stream_options":[],"safety_identifier":{}}'
    )

    assert (view.model, view.stream, view.session, view.subject, view.choices) == ("m", False, None, None, 1)


def test_what_decides_the_way_is_read():
    view = read_body(
        b'{"model":"m","stream":true,"stream_options":{"include_usage":true},"n":3,'
        b'"metadata":{"session_id":"s","more":1},"user":"u","safety_identifier":"i"}'
    )

    assert (view.stream, view.asks_usage, view.session, view.subject, view.choices) == (
        True,
        True,
        "s",
        "i",
        3,
    )


@pytest.mark.parametrize(
    ("fields", "answers"),
    [
        ('"messages": []', 1),
        ('"messages": [], "n": 3', 3),
        ('"messages": [], "n": 0', 1),
        ('"prompt": "a"', 1),
        ('"prompt": ["a"]', 1),
        ('"prompt" :\n [ "a", "b,]" ], "n": 2', 4),
        ('"prompt": [[1, 2], [3]]', 2),
        ('"prompt": [1, 2, 3]', 1),
        ('"prompt": []', 1),
        ('"prompt": null', 1),
        ('"prompt": ["a", "b"], "user": 7', 2),
        (r'"prompt": ["a", "\ud83d"], "n": 2', 4),
        (r'"prompt": [1, 2], "user": "\ud83d"', 1),
        (r'"prompt": [[1, 2], [3]], "user": "\ud83d"', 2),
        ('"user": 7', 1),
    ],
)
@pytest.mark.parametrize("stream", ["true", "false"])
def test_n_answers_are_asked_for_of_each_prompt(fields: str, answers: int, stream: str):
    assert read_body(f'{{"model": "m", "stream": {stream}, {fields}}}'.encode()).choices == answers


def test_a_long_session_is_cut_alike_in_header_and_body():
    session = "ü" * 600
    own, _ = read_own([(b"x-tracetune-session", session.encode())])
    body = json.dumps({"model": "m", "metadata": {"session_id": session}}).encode()

    assert read_body(body).session == own.session


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b"", None),
        (b"{", None),
        (b"[]", None),
        (b'"model"', None),
        (b"{}", "model"),
        (b'{"model":7}', "model"),
        (b'{"model":null}', "model"),
        (b"[" * 100_000, None),
        (b'{"model":"\xff"}', None),
        (b'{"model":"m","x":NaN}', None),
        (b'{"model":"m","x":"\x01"}', None),
        ('{"model":"m"}'.encode("utf-16"), None),
    ],
)
def test_what_is_no_request_is_a_400(body: bytes, param: str | None):
    with pytest.raises(ApiError) as caught:
        read_body(body)

    assert (caught.value.status, caught.value.param) == (400, param)
