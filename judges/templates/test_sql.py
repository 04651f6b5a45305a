import judges
from my_judges import good

TABLES = "CREATE TABLE orders (id INTEGER, total REAL, placed_at TEXT);"
REQUEST = {
    "messages": [{"role": "system", "content": TABLES}, {"role": "user", "content": "How many orders?"}]
}


def test_a_query_that_fits_the_tables_is_right():
    answer = "```sql\nSELECT count(*) FROM orders;\n```"
    assert good(judges.trace_from(request=REQUEST, answer=answer)) is True


def test_a_column_that_is_not_there_is_wrong():
    assert good(judges.trace_from(request=REQUEST, answer="SELECT amount FROM orders")) is False


def test_two_statements_are_wrong():
    assert good(judges.trace_from(request=REQUEST, answer="SELECT 1; DROP TABLE orders")) is False


def test_the_query_that_was_kept_decides():
    kept = "select COUNT( * )\nfrom orders"
    assert good(judges.trace_from(answer="SELECT count(*) FROM orders", kept=kept)) is True
    assert good(judges.trace_from(answer="SELECT id FROM orders", kept=kept)) is False


def test_without_tables_or_feedback_it_abstains():
    assert isinstance(good(judges.trace_from(answer="SELECT 1")), judges.Abstain)
