"""What is done at each endpoint that is routed, as workers and recorder label it."""

from __future__ import annotations

# OpenTelemetry's gen_ai.operation.name where it has one.
OPERATIONS = {
    "/v1/chat/completions": "chat",
    "/v1/completions": "text_completion",
    "/v1/embeddings": "embeddings",
    "/v1/responses": "chat",
}
