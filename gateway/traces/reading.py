"""Which SQL only reads the store: decided on the text, before anything runs.

The store is asked to run such a statement with `readonly = 1` besides; that alone would still let chDB read
files. Where this lexer and ClickHouse's could take the text differently, the statement is refused: a place
that one sees as a string and the other as code is how a check like this is got around.
"""

from __future__ import annotations

from collections.abc import Collection

from gateway.errors import UsageError
from gateway.traces.sqltext import Token, split_format, tokens_and_comments

_BEGINNINGS = ("SELECT", "WITH", "FROM", "SHOW", "DESCRIBE", "DESC", "EXISTS", "EXPLAIN")
# Table functions that read nothing but the store, or nothing at all.
_INSIDE = frozenset(
    {
        *("numbers", "numbers_mt", "zeros", "zeros_mt", "primes", "generate_series", "generateseries"),
        *("generaterandom", "values", "null", "view", "viewifpermitted", "viewexplain", "merge", "format"),
        *("mergetreeindex", "mergetreeprojection"),
    }
)
# Functions that reach files or the network; as an argument (`arrayMap(file, …)`) a name alone is enough.
_OUTSIDE = frozenset(
    {
        *("file", "catboostevaluate", "airedact", "aisimilarity", "aifilter", "aiclassify", "aiembed"),
        *("aiextract", "aigenerate", "aitranslate"),
    }
)


def only_reading(sql: str, table_functions: Collection[str]) -> str:
    """*sql* without semicolons at its end, if it is one statement that reads nothing but the store.

    *table_functions* are the names that the server knows. Raises UsageError saying what is not allowed.
    """
    found = []
    for token in tokens_and_comments(sql):
        _check_spelling(token)
        if token.kind != "comment":
            found.append(token)
    statement, fmt = split_format(sql)
    if fmt is not None:
        raise _refused(f"FORMAT {fmt}", "rows are always printed as lines of JSON; leave it out")
    while found and found[-1].text == ";":
        found.pop()
    if not found:
        raise UsageError('there is no statement; write tracetune sql "SELECT …"')
    beginning = next(token for token in found if token.text != "(" or token is found[-1])
    if not beginning.is_word(*_BEGINNINGS):
        raise _refused(beginning.text, f"a statement may begin with {', '.join(_BEGINNINGS)}")
    outside = {name.lower() for name in table_functions} - _INSIDE
    for token, following in zip(found, [*found[1:], found[-1]], strict=True):
        _check_reach(token, following, outside)
    return statement


def _check_spelling(token: Token) -> None:
    if token.kind == "comment" and (token.text.startswith("#") or "/*" in token.text[2:]):
        raise _refused("a comment with # or within another", "write -- or leave it out")
    if (token.kind == "word" and "$" in token.text) or token.text.startswith("$"):
        raise _refused("$", "quote strings with '")
    if token.kind == "quoted" and "\\" in token.text:
        raise _refused("\\ in a quoted name", "write the name itself")
    if token.kind == "mark" and (
        token.text in "'`\"" or not token.text.isascii() or not token.text.isprintable()
    ):
        raise _refused(
            repr(token.text), "close quotes, and put names and strings with other letters into them"
        )


def _check_reach(token: Token, following: Token, outside: Collection[str]) -> None:
    if token.text == ";":
        raise _refused("a second statement", "run one at a time")
    if token.is_word("INTO") and following.is_word("OUTFILE"):
        raise _refused("INTO OUTFILE", "redirect standard output")
    if token.kind not in {"word", "quoted", "number"}:
        return
    name = token.text.strip('`"').lower()
    if token.kind != "number" and name in _OUTSIDE:
        raise _refused(token.text, "it reaches outside of the store")
    if following.text == "(" and (name in outside or token.kind == "number"):
        raise _refused(f"{token.text}(…)", "it reaches outside of the store")


def _refused(what: str, why: str) -> UsageError:
    return UsageError(f"refused: {what}: {why}")
