"""What a store's cluster must be like before rows are kept on it."""

from __future__ import annotations

import pytest

from gateway.errors import StoreError
from gateway.traces.layout import Layout
from gateway.traces.migrate import check_cluster, migrate
from gateway.traces.store import Store


def server(shard: int, *, internal: int = 1) -> dict[str, int]:
    return {"shard_num": shard, "internal_replication": internal}


def test_a_cluster_that_the_server_does_not_know_is_named(clean_store: Store) -> None:
    with pytest.raises(
        StoreError, match=r"knows no cluster 'elsewhere'.*system\.clusters.*`\$\.store\.cluster`"
    ):
        migrate(clean_store, layout=Layout(cluster="elsewhere"))


def test_replicas_that_would_each_be_sent_every_row_are_refused() -> None:
    with pytest.raises(StoreError, match="set internal_replication to true"):
        check_cluster("main", [server(1), server(1, internal=0)])


@pytest.mark.parametrize(
    "servers",
    [
        [server(1)],
        [server(1, internal=0), server(2, internal=0)],  # one server each: nothing to store twice
        [server(1), server(1), server(2), server(2)],
        [{"shard_num": 1}, {"shard_num": 1}],  # an older server does not say
    ],
)
def test_other_clusters_are_fine(servers: list[dict[str, int]]) -> None:
    check_cluster("main", servers)
