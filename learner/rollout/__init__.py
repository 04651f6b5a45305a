"""Rollouts: what the traces say about a candidate, what follows from it, and doing it through the gateway."""
