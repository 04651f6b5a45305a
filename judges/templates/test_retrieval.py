import judges
from my_judges import good

DOCUMENTS = (
    "[1] Parcels up to 30 kg travel by road and arrive within 4 days. [2] Refunds take 10 days after receipt."
)
REQUEST = {"messages": [{"role": "system", "content": DOCUMENTS}, {"role": "user", "content": "How heavy?"}]}


def verdict(answer):
    return good(judges.trace_from(request=REQUEST, answer=answer))


def test_a_number_that_stands_in_the_documents_is_right():
    assert verdict("Up to 30 kg [1].") is True


def test_a_number_from_nowhere_is_wrong():
    assert verdict("Up to 35 kg [1].") is False


def test_a_citation_of_nothing_is_wrong():
    assert verdict("Up to 30 kg [3].") is False


def test_a_quotation_stands_in_the_documents():
    assert verdict('It says "refunds take 10 days".') is True
    assert verdict('It says "refunds take two weeks".') is False


def test_with_nothing_to_look_up_it_abstains():
    assert isinstance(verdict("That depends."), judges.Abstain)
