from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import UsageError
from gateway.traces.reading import only_reading
from gateway.traces.sqltext import InsertHead, insert_head, split_format, tokens_and_comments

TABLE_FUNCTIONS = (
    "file",
    "url",
    "s3",
    "executable",
    "remote",
    "numbers",
    "format",
    "eval",
    "python",
    "input",
)
ALLOWED = [
    "SELECT 1",
    "select count() from traces where url = 1",
    "(SELECT 1)",
    "WITH x AS (SELECT 1 AS a) SELECT * FROM x",
    "FROM traces SELECT trace_id",
    "SHOW TABLES",
    "DESCRIBE traces",
    "EXPLAIN SELECT 1",
    "EXISTS TABLE traces",
    "SELECT format('{}', 'a'), tags['url'] FROM numbers(3)",
    "SELECT 'file(''/etc/passwd'')' -- file('/etc/passwd')",
    "SELECT tokens_in AS input, 'é; \\' ; INTO OUTFILE' AS \"ü ; \"",
    "SELECT /* a comment; with 'quotes */ 1",
]
REFUSED = [
    ("", "there is no statement"),
    (" -- nothing", "there is no statement"),
    ("INSERT INTO traces VALUES (1)", "INSERT"),
    ("ALTER TABLE traces DELETE WHERE 1", "ALTER"),
    ("DROP TABLE traces", "DROP"),
    ("SET readonly = 0", "SET"),
    ("KILL QUERY WHERE 1", "KILL"),
    ("SYSTEM FLUSH LOGS", "SYSTEM"),
    ("SELECT 1; DROP TABLE traces", "second statement"),
    ("SELECT 1 FORMAT CSV", "FORMAT CSV"),
    ("SELECT 1 INTO OUTFILE '/tmp/x'", "INTO OUTFILE"),
    ("SELECT 1 into/**/outfile '/tmp/x'", "INTO OUTFILE"),
    ("SELECT file('/etc/passwd')", "file"),
    ("SELECT FILE ('/etc/passwd')", "FILE"),
    ("SELECT `file`('/etc/passwd')", "file"),
    ("SELECT `fi\\x6ce`('/etc/passwd')", "quoted name"),
    ("SELECT arrayMap(file, ['/etc/passwd'])", "file"),
    ("SELECT * APPLY(file) FROM (SELECT '/etc/passwd')", "file"),
    ("EXPLAIN SELECT file('/etc/passwd')", "file"),
    ("SELECT * FROM url/* */('http://localhost')", "url"),
    ("SELECT * FROM s3('http://localhost/a/b')", "s3"),
    ("SELECT * FROM executable('x', 'TSV', 'a String')", "executable"),
    ("DESCRIBE TABLE url('http://localhost')", "url"),
    # A place that one lexer sees as a string and the other as code.
    ("SELECT a$$, file('/etc/passwd'), $$", r"\$"),
    ("SELECT $ $ ' $ $, file('/etc/passwd'), $ $ ' $ $", r"\$"),
    ("SELECT /* /* */ ' */ file('/etc/passwd') -- '", "comment"),
    ("SELECT 1 # '\n, file('/etc/passwd') -- '", "comment"),
    ("SELECT \u2018', file('/etc/passwd') --'", "letters"),
    ("SELECT 'never closed", "close quotes"),
    ("SELECT 1\x00", "letters"),
]


@pytest.mark.parametrize("sql", ALLOWED)
def test_what_only_reads_is_allowed_as_it_stands(sql: str) -> None:
    assert only_reading(sql, TABLE_FUNCTIONS) == sql


@pytest.mark.parametrize(("sql", "why"), REFUSED)
def test_what_may_do_more_than_read_the_store_is_refused(sql: str, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        only_reading(sql, TABLE_FUNCTIONS)


def test_semicolons_at_the_end_are_dropped() -> None:
    assert only_reading("SELECT 1 ; ;", ()) == "SELECT 1 "


@given(st.text("SELECT'\"`$/*-#\\ ;()file\nÿ", max_size=60))
def test_tokens_cover_the_text_without_overlap(sql: str) -> None:
    end = 0
    for token in tokens_and_comments(sql):
        assert sql[end : token.start].strip() == ""
        assert sql[token.start : token.end] == token.text
        end = token.end
    assert sql[end:].strip() == ""


@given(st.text(max_size=40))
def test_a_quoted_string_is_one_token_whatever_is_in_it(text: str) -> None:
    quoted = "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"

    assert [token.kind for token in tokens_and_comments(f"SELECT {quoted} x")] == ["word", "string", "word"]


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("SELECT 1", ("SELECT 1", None)),
        ("SELECT 1 FORMAT Native", ("SELECT 1 ", "Native")),
        ("SELECT 1 FORMAT JSON ;", ("SELECT 1  ", "JSON")),
        ("SELECT 1 FORMAT TSV SETTINGS max_threads = 1", ("SELECT 1  SETTINGS max_threads = 1", "TSV")),
        ("SELECT 'FORMAT TSV'", ("SELECT 'FORMAT TSV'", None)),
        ("SELECT 1 -- FORMAT TSV", ("SELECT 1 -- FORMAT TSV", None)),
    ],
)
def test_the_format_clause_is_taken_off_the_end(sql: str, expected: tuple[str, str | None]) -> None:
    assert split_format(sql) == expected


@given(st.binary(max_size=50), st.integers(1, 200))
def test_the_head_of_an_insert_is_found_wherever_the_body_is_cut(data: bytes, cut: int) -> None:
    sql = "INSERT INTO `t` (a, b) SETTINGS x = 'FORMAT y' "
    body = f"{sql}FORMAT Native\n" + "x" + data.decode("latin-1")
    head = insert_head(body[:cut], complete=False)

    whole = insert_head(body, complete=True)

    assert whole == InsertHead(sql, "Native", len(f"{sql}FORMAT Native\n"))
    assert head in ("more", whole)


@pytest.mark.parametrize(
    "sql", ["SELECT 1", "INSERT INTO t VALUES (1)", "INSERT INTO t SELECT 'FORMAT x'", ""]
)
def test_what_is_no_insert_with_data_is_plain(sql: str) -> None:
    assert insert_head(sql, complete=True) == "plain"
