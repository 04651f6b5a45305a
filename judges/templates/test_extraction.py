import judges
from my_judges import good


def test_an_answer_that_is_not_json_is_wrong():
    assert good(judges.trace_from(answer="Sure! Here is the JSON.")) is False


def test_an_answer_that_was_kept_as_it_is_is_right():
    assert good(judges.trace_from(answer='{"a": 1}', kept='{ "a": 1 }')) is True


def test_an_answer_that_was_corrected_is_wrong():
    assert good(judges.trace_from(answer='{"a": 1}', kept='{"a": 2}')) is False
