"""The embedded store: chDB, owned by one process of ours that speaks ClickHouse's HTTP on loopback."""
