"""The request path: what a client sends to `/v1`, and the answer that it gets."""
