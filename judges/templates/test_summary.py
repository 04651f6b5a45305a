import judges
from my_judges import good

TEXT = (
    "On Monday the warehouse in Leeds shipped 120 parcels, after two days without electricity. "
    "Maria Lopez, who runs the warehouse, said that the customers were told by e-mail on Sunday evening."
)


def verdict(summary):
    request = {"messages": [{"role": "user", "content": TEXT}]}
    return good(judges.trace_from(request=request, answer=summary))


def test_a_short_summary_in_the_words_of_the_text_is_right():
    assert verdict("The warehouse in Leeds shipped 120 parcels on Monday.") is True


def test_a_number_that_is_not_in_the_text_is_wrong():
    assert verdict("The warehouse in Leeds shipped 200 parcels on Monday.") is False


def test_a_name_that_is_not_in_the_text_is_wrong():
    assert verdict("The warehouse in Derby shipped 120 parcels on Monday.") is False


def test_the_text_itself_is_no_summary():
    assert verdict(TEXT) is False


def test_without_a_text_it_abstains():
    assert isinstance(good(judges.trace_from(answer="A short summary.")), judges.Abstain)
