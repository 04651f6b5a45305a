"""Forgetting a person everywhere: shared memory, spool, store, datasets."""
