"""SQL text cut into tokens: enough of ClickHouse's lexer to see what a statement is without running it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Literal, NamedTuple

Kind = Literal["comment", "word", "quoted", "string", "number", "mark"]

_TOKEN = re.compile(
    r"""
    (?P<skip>\s+)
  | (?P<comment>--[^\n]*|\#[!\ ][^\n]*|/\*.*?\*/)
  | (?P<string>'(?:[^'\\]|\\.|'')*+'|\$(?P<tag>\w*)\$.*?\$(?P=tag)\$)
  | (?P<quoted>`(?:[^`\\]|\\.|``)*+`|"(?:[^"\\]|\\.|"")*+")
  | (?P<word>[A-Za-z_$][A-Za-z0-9_$]*)
  | (?P<number>[0-9][A-Za-z0-9_.]*)
  | (?P<mark>.)
    """,
    re.VERBOSE | re.DOTALL | re.ASCII,
)
_KINDS: tuple[Kind, ...] = ("comment", "word", "quoted", "string", "number", "mark")
_QUOTES = frozenset("'`\"$")


class Token(NamedTuple):
    """A piece of SQL that is not space. A mark is one character, an unclosed quote too."""

    kind: Kind
    text: str
    start: int
    end: int

    def is_word(self, *words: str) -> bool:
        return self.kind == "word" and self.text.upper() in words


class InsertHead(NamedTuple):
    """An INSERT whose data follows in `fmt`, starting at `data_start`; `sql` is the part before FORMAT."""

    sql: str
    fmt: str
    data_start: int


def tokens(sql: str) -> Iterator[Token]:
    """The tokens of *sql* but for comments, lazily: what follows the last one asked for is not looked at."""
    return (token for token in tokens_and_comments(sql) if token.kind != "comment")


def tokens_and_comments(sql: str) -> Iterator[Token]:
    """The same, with comments."""
    for match in _TOKEN.finditer(sql):
        for kind in _KINDS:
            text = match.group(kind)
            if text is not None:
                yield Token(kind, text, match.start(), match.end())


def split_format(sql: str) -> tuple[str, str | None]:
    """*sql* without its FORMAT clause and semicolons at the end, and the name in that clause."""
    found = list(tokens(sql))
    while found and found[-1].text == ";":
        sql = sql[: found[-1].start]
        found.pop()
    for index in range(len(found) - 2, 0, -1):
        name = found[index + 1]
        # At the end of the statement, or before a SETTINGS clause at its end.
        last = index + 2 == len(found) or found[index + 2].is_word("SETTINGS")
        if found[index].is_word("FORMAT") and name.kind == "word" and last:
            return sql[: found[index].start] + sql[name.end :], name.text
    return sql, None


def insert_head(text: str, *, complete: bool) -> InsertHead | Literal["more", "plain"]:
    """What the beginning of a body is: an INSERT followed by data, a plain statement, or too little to say.

    *complete* says that nothing follows *text*.
    """
    previous: Token | None = None
    for index, token in enumerate(tokens(text)):
        cut_off = not complete and (token.end == len(text) or token.text in _QUOTES)
        if cut_off:
            return "more"
        if index == 0 and not token.is_word("INSERT"):
            return "plain"
        if token.is_word("VALUES", "SELECT", "WITH"):
            return "plain"
        if previous is not None and previous.is_word("FORMAT") and token.kind == "word":
            rest = text[token.end :]
            gap = len(rest) - len(rest.lstrip(" \t\r"))
            if gap == len(rest) and not complete:
                return "more"
            newline = 1 if rest[gap : gap + 1] == "\n" else 0
            return InsertHead(text[: previous.start], token.text, token.end + gap + newline)
        previous = token
    return "plain" if complete else "more"


def settings_start(sql: str) -> int:
    """Where the SETTINGS clause at the end of an INSERT begins; its length where there is none."""
    found = list(tokens(sql))
    for word, name, equals in zip(found, found[1:], found[2:], strict=False):
        if word.is_word("SETTINGS") and name.kind in {"word", "quoted"} and equals.text == "=":
            return word.start
    return len(sql)
