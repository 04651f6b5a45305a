"""The request path: one ASGI callable in front of Litestar. No database, no disk, no model."""
