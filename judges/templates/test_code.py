import judges
from my_judges import good


def test_prose_is_not_code():
    assert good(judges.trace_from(answer="You could use a list here.")) is False


def test_a_word_is_not_code():
    assert good(judges.trace_from(answer="yes")) is False


def test_code_that_parses_is_right():
    assert good(judges.trace_from(answer="```python\nprint(1)\n```")) is True


def test_code_that_was_merged_with_other_spacing_is_right():
    assert good(judges.trace_from(answer="```python\nx=1\n```", kept="x = 1")) is True
