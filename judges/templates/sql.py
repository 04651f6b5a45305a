"""Judges SQL: one statement that fits the tables of the request, and the query that was kept.

SQLite reads it and runs nothing. Where your database has words of its own, the query that was kept decides.
"""

import re
import sqlite3
from contextlib import closing

import judges

BLOCK = re.compile(r"```(?:sql)?\n(.*?)```", re.DOTALL)
TABLE = re.compile(r"create\s+table[^;]*?\([^;]*\)", re.IGNORECASE)  # as the request shows them, each with ;
UNREADABLE = (sqlite3.Error, sqlite3.Warning, ValueError)


def query_of(text):
    block = BLOCK.search(text)
    return (block.group(1) if block else text).strip().rstrip(";").strip()


def plain(query):
    return " ".join(re.findall(r"'[^']*'|\w+|[^\w\s]", query.lower()))


def good(trace):
    query = query_of(trace.answer)
    if not query.lower().startswith(("select", "with")):
        return False
    if trace.kept is not None:
        return plain(query) == plain(query_of(trace.kept))
    messages = (trace.request or {}).get("messages") or []
    tables = TABLE.findall("\n;".join(str(message.get("content")) for message in messages))
    if not tables:
        return judges.abstain("no CREATE TABLE in the request, and nobody said which query was kept")
    with closing(sqlite3.connect(":memory:")) as database:
        try:
            for table in tables:
                database.execute(table)
        except UNREADABLE:
            return judges.abstain("SQLite cannot read the tables, and nobody said which query was kept")
        try:
            database.execute("EXPLAIN " + query)
        except UNREADABLE:
            return False
    return True  # it fits the tables; report the query that was kept and the verdict gets strong
