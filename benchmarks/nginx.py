"""Two nginx configurations: a fixed upstream that answers, and a proxy in front of one. One process each."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

from benchmarks.install import executable
from benchmarks.processes import started, wait_answering
from benchmarks.types import BenchmarkError
from benchmarks.wire import ANSWER

READY_WITHIN_S = 10.0
CONNECTIONS = 8192

# One process that stays in the foreground; nothing is logged, no connection is closed for its age.
_FRAME = """
daemon off; master_process off; worker_processes 1; pid {folder}/pid; error_log stderr warn;
events {{ worker_connections {connections}; }}
http {{
  access_log off; tcp_nodelay on; keepalive_timeout 3600; keepalive_requests 1000000000; server_tokens off;
  client_body_buffer_size 64k; client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  {http}
}}
"""
_FIXED = """server {{
    listen 127.0.0.1:{port} backlog=4096;
    location / {{ default_type application/json; return 200 '{answer}'; }}
  }}"""
_PROXY = """upstream fixed {{
    server 127.0.0.1:{upstream}; keepalive 4096; keepalive_requests 1000000000; keepalive_timeout 3600;
  }}
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    location / {{
      proxy_pass http://fixed; proxy_http_version 1.1; proxy_set_header Connection "";
      proxy_buffering off; proxy_request_buffering on; proxy_read_timeout 600;
    }}
  }}"""


def fixed_configuration(folder: Path, port: int) -> str:
    """Answers every request with the same 1 KB."""
    answer = ANSWER.decode()
    assert "'" not in answer, "it would end the string it stands in"
    assert "$" not in answer, "it would begin a variable"
    http = _FIXED.format(port=port, answer=answer)
    return _FRAME.format(folder=folder, connections=CONNECTIONS, http=http)


def proxy_configuration(folder: Path, port: int, upstream: int) -> str:
    """Hands every request to the port *upstream*, over connections that are kept."""
    http = _PROXY.format(port=port, upstream=upstream)
    return _FRAME.format(folder=folder, connections=CONNECTIONS, http=http)


@contextlib.contextmanager
def started_nginx(
    configuration: str, folder: Path, port: int, core: int, *, is_load: bool = False
) -> Iterator[subprocess.Popen[bytes]]:
    """An nginx that answers on *port* while the block lasts. Raises BenchmarkError."""
    nginx = executable("nginx")
    if nginx is None:
        raise BenchmarkError("nginx is not on this machine")
    folder.mkdir(parents=True, exist_ok=True)
    path, log = folder / "nginx.conf", folder / "log"
    path.write_text(configuration)
    command = [str(nginx), "-c", str(path), "-p", str(folder), "-e", "stderr"]
    with started(command, core=core, log=log, is_load=is_load) as process:
        wait_answering(process, port, {}, log, READY_WITHIN_S)
        yield process
