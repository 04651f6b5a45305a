import judges
from my_judges import good

TOOLS = [{"type": "function", "function": {"name": "track", "parameters": {"required": ["order"]}}}]


def call(tool, arguments):
    return [{"id": "1", "type": "function", "function": {"name": tool, "arguments": arguments}}]


def test_a_call_with_its_required_argument_is_right():
    calls = call("track", '{"order": "C1"}')
    assert good(judges.trace_from(request={"tools": TOOLS}, tool_calls=calls)) is True


def test_a_call_without_its_required_argument_is_wrong():
    assert good(judges.trace_from(request={"tools": TOOLS}, tool_calls=call("track", "{}"))) is False


def test_a_tool_that_was_not_offered_is_wrong():
    assert good(judges.trace_from(request={"tools": TOOLS}, tool_calls=call("refund", "{}"))) is False


def test_an_answer_in_words_is_not_judged():
    answered = good(judges.trace_from(request={"tools": TOOLS}, answer="Which order do you mean?"))
    assert isinstance(answered, judges.Abstain)
