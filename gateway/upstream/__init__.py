"""Our own HTTP/1.1 client for the request path: pooled connections on asyncio and httptools."""
