"""The form in which a migration's statements are run: for one server or a cluster, by month or by day.

Files are written for one server. On a cluster a file's table `x` becomes `x_local`, Replicated, which has a
shard's rows, and `x`, Distributed, which everyone asks; views fill `x_local` on the shard where rows arrive.
Rows that replace one another must meet on one shard, so a table is sharded by its trace where its sorting key
has one, else by the beginning of its sorting key.
"""

from __future__ import annotations

from itertools import pairwise

import msgspec

from gateway.config.types import Store
from gateway.errors import StoreError
from gateway.traces.sqltext import Token, tokens, tokens_and_comments

# Up to this many days are kept in partitions of a day, and go within a day of being due; more than that in
# partitions of a month, and within a month. As many partitions as this are no burden to a server.
MAX_DAYS_BY_DAY = 120
# Otherwise a server forgets a token after an hour, and a batch may be sent again after a longer outage.
TOKEN_KEPT_S = 7 * 24 * 3600
_SKIPPED = "-- Not on a cluster"
_MONTH, _DAY = "toYYYYMM", "toYYYYMMDD"
# A Replicated table cannot be replaced in place: what a later file partitions is so from the beginning.
_PARTITIONED = {"judgments": "judged_at", "feedback": "created_at"}
_COLUMN_COMMANDS = ("ADD", "DROP", "MODIFY", "RENAME", "COMMENT")


class Layout(msgspec.Struct, frozen=True, kw_only=True):
    """`cluster` None: one server. `by_day`: partitions are days, not months."""

    cluster: str | None = None
    by_day: bool = False

    def render(self, statement: str) -> list[str]:
        """What to run for a migration's *statement*. Raises StoreError where it has no form for a cluster."""
        if self.cluster is None:
            return [_by_day(statement) if self.by_day else statement]
        if _skipped(statement):
            return []
        return [_by_day(rendered) if self.by_day else rendered for rendered in self._clustered(statement)]

    def data_table(self, table: str) -> str:
        """The table that has the rows of *table* on a server."""
        return table if self.cluster is None else _local(table)

    def rows_of(self, table: str) -> str:
        """What an ALTER of rows of *table* names: the table itself, or its shards on every server."""
        return f"{self.data_table(table)} {self.on_cluster}".rstrip()

    def everywhere(self, table: str) -> str:
        """What a SELECT from a system table names to see every server's."""
        return table if self.cluster is None else f"clusterAllReplicas({_literal(self.cluster)}, {table})"

    @property
    def on_cluster(self) -> str:
        """The clause that makes a statement run on every server; empty where there is only one."""
        return "" if self.cluster is None else f"ON CLUSTER {_literal(self.cluster)}"

    def _clustered(self, sql: str) -> list[str]:
        found = list(tokens(sql))
        kind, name = _shape(found)
        rendered: list[str] | None = None
        match kind:
            case "CREATE TABLE":
                rendered = self._table(sql, found, name)
            case "CREATE MATERIALIZED VIEW":
                rendered = [self._filling_view(sql, found, name)]
            case "CREATE VIEW":
                rendered = [_after(sql, found[name], f" {self.on_cluster}")]
            case "ALTER TABLE":
                rendered = self._alter(sql, found, name)
            case "DROP TABLE":
                head, table = sql[: found[name].start], found[name].text
                rendered = [f"{head}{part} {self.on_cluster} SYNC" for part in (table, _local(table))]
            case "DROP VIEW":
                rendered = [_after(sql, found[name], f" {self.on_cluster} SYNC")]
            case "INSERT":
                rendered = [sql]
        if rendered is None:
            raise StoreError(f"a migration has no form for a cluster: {_brief(found)}")
        return rendered

    def _table(self, sql: str, found: list[Token], name: int) -> list[str]:
        table = found[name].text
        edits = [
            (found[name].start, found[name].end, f"{_local(table)} {self.on_cluster}"),
            *_replicated(found, table),
            *_token_window(found),
            *_partition(found, table),
        ]
        cluster, rows = _literal(self.cluster or ""), _literal(_local(table))
        distributed = (
            f"CREATE TABLE IF NOT EXISTS {table} {self.on_cluster} AS {_local(table)}\n"
            f"ENGINE = Distributed({cluster}, currentDatabase(), {rows}, {_sharding_key(found)})"
        )
        return [_edited(sql, edits), distributed]

    def _filling_view(self, sql: str, found: list[Token], name: int) -> str:
        target = found[name + 2]
        assert found[name + 1].is_word("TO"), "a view of ours fills a table that a file creates"
        edits = [(found[name].end, found[name].end, f" {self.on_cluster}")]
        edits += [(target.start, target.end, _local(target.text)), *_from_local(found)]
        return _edited(sql, edits)

    def _alter(self, sql: str, found: list[Token], name: int) -> list[str]:
        if found[name + 1].is_word("MODIFY") and found[name + 2].is_word("QUERY"):
            raise StoreError(f"a view has no form for a cluster but being made anew: {_brief(found)}")
        table = found[name].text
        head = sql[: found[name].start]
        rows = f"{head}{_local(table)} {self.on_cluster}{sql[found[name].end :]}"
        commands = [
            command for command in _commands(sql, found[name + 1 :]) if _is_of_columns(list(tokens(command)))
        ]
        if not commands:
            return [rows]
        asked = f"{head}{table} {self.on_cluster} {', '.join(commands)}"
        # A column is there before it can be asked for, and asked for no more before it goes.
        return [asked, rows] if all(_drops(command) for command in commands) else [rows, asked]


ONE_SERVER = Layout()


def layout_of(store: Store) -> Layout:
    """The layout that a configuration's `store` asks for."""
    days = store.retention_days
    return Layout(cluster=store.cluster, by_day=days is not None and days <= MAX_DAYS_BY_DAY)


def _shape(found: list[Token]) -> tuple[str, int]:
    """The kind of a statement, and where the name is that it is about."""
    kinds = (
        "CREATE TABLE",
        "CREATE MATERIALIZED VIEW",
        "CREATE VIEW",
        "ALTER TABLE",
        "DROP TABLE",
        "DROP VIEW",
    )
    for kind in kinds:
        words = kind.split()
        if all(token.is_word(word) for token, word in zip(found, words, strict=False)):
            at = len(words)
            while found[at].is_word("IF", "NOT", "EXISTS"):
                at += 1
            return kind, at
    return ("INSERT", 0) if found and found[0].is_word("INSERT") else ("", 0)


def _replicated(found: list[Token], table: str) -> list[tuple[int, int, str]]:
    """The engine, replicated: `{shard}`, `{replica}` and `{database}` are macros that each server knows."""
    engine = next(
        found[index + 2]
        for index, token in enumerate(found)
        if token.is_word("ENGINE") and found[index + 1].text == "="
    )
    if not engine.text.endswith("MergeTree"):
        raise StoreError(f"table {table} has engine {engine.text}, which cannot be replicated")
    following = next((token for token in found if token.start >= engine.end), None)
    path = f"'/clickhouse/tables/{{shard}}/{{database}}/{table}', '{{replica}}'"
    if following is not None and following.text == "(":
        return [
            (engine.start, engine.end, f"Replicated{engine.text}"),
            (following.end, following.end, f"{path}, "),
        ]
    return [(engine.start, engine.end, f"Replicated{engine.text}({path})")]


def _token_window(found: list[Token]) -> list[tuple[int, int, str]]:
    for index, token in enumerate(found):
        if token.is_word("NON_REPLICATED_DEDUPLICATION_WINDOW"):
            end = found[index + 2].end
            return [
                (token.start, token.end, "replicated_deduplication_window"),
                (end, end, f", replicated_deduplication_window_seconds = {TOKEN_KEPT_S}"),
            ]
    return []


def _partition(found: list[Token], table: str) -> list[tuple[int, int, str]]:
    if table not in _PARTITIONED or any(token.is_word("PARTITION") for token in found):
        return []
    start = found[_order_by(found)].start
    return [(start, start, f"PARTITION BY {_MONTH}({_PARTITIONED[table]})\n")]


def _sharding_key(found: list[Token]) -> str:
    if any("Aggregating" in token.text for token in found):
        return "rand()"  # rows of one key add up wherever they are
    key = found[_order_by(found) + 2 :]
    names = [token.text for token in key[: _end_of_key(key)] if token.kind in {"word", "quoted"}]
    if not names:
        raise StoreError(f"a table without a sorting key has no form for a cluster: {_brief(found)}")
    return f"cityHash64({'trace_id' if 'trace_id' in names else names[0]})"


def _order_by(found: list[Token]) -> int:
    pairs = enumerate(pairwise(found))
    return next(i for i, (word, by) in pairs if word.is_word("ORDER") and by.is_word("BY"))


def _end_of_key(key: list[Token]) -> int:
    return next((i for i, token in enumerate(key) if token.is_word("SETTINGS", "TTL", "AS")), len(key))


def _from_local(found: list[Token]) -> list[tuple[int, int, str]]:
    """A view's source is the shard's table, under the name that the view knows it by."""
    edits = []
    for word, name, following in zip(found, found[1:], [*found[2:], found[-1]], strict=False):
        if word.is_word("FROM", "JOIN") and name.kind == "word":
            named = following.is_word("AS")
            edits.append((name.start, name.end, _local(name.text) + ("" if named else f" AS {name.text}")))
    return edits


def _commands(sql: str, found: list[Token]) -> list[str]:
    """The commands of an ALTER, which commas outside of brackets part."""
    starts, depth = [found[0].start], 0
    ends = []
    for token in found:
        depth += {"(": 1, ")": -1}.get(token.text, 0)
        if token.text == "," and depth == 0:
            ends.append(token.start)
            starts.append(token.end)
    return [sql[start:end].strip() for start, end in zip(starts, [*ends, found[-1].end], strict=True)]


def _is_of_columns(command: list[Token]) -> bool:
    return command[0].is_word(*_COLUMN_COMMANDS) and command[1].is_word("COLUMN")


def _drops(command: str) -> bool:
    return command.split(maxsplit=1)[0].upper() == "DROP"


def _by_day(sql: str) -> str:
    found = list(tokens(sql))
    edits = [
        (unit.start, unit.end, _DAY)
        for word, by, unit in zip(found, found[1:], found[2:], strict=False)
        if word.is_word("PARTITION") and by.is_word("BY") and unit.text == _MONTH
    ]
    return _edited(sql, edits)


def _skipped(sql: str) -> bool:
    return any(
        token.kind == "comment" and token.text.startswith(_SKIPPED) for token in tokens_and_comments(sql)
    )


def _brief(found: list[Token]) -> str:
    return " ".join(token.text for token in found[:8])


def _edited(sql: str, edits: list[tuple[int, int, str]]) -> str:
    for start, end, text in sorted(edits, reverse=True):
        sql = sql[:start] + text + sql[end:]
    return sql


def _after(sql: str, token: Token, text: str) -> str:
    return sql[: token.end] + text + sql[token.end :]


def _local(table: str) -> str:
    return f"{table}_local"


def _literal(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
