"""TLS to an upstream: verified, or not spoken at all."""

from __future__ import annotations

import ssl
from pathlib import Path

import httpx
import pytest

from tests.support.request_path import chat, config_for, running_gateway
from tests.support.upstream import ScriptedUpstream

# Self-signed, each with its key; they guard nothing.
CERTIFICATES = Path(__file__).parents[2] / "support" / "tls"


@pytest.mark.parametrize("transport", ["native", "httpx"])
@pytest.mark.parametrize(
    ("name", "trusted", "status"),
    [("this_host", True, 200), ("this_host", False, 502), ("another_host", True, 502)],
)
def test_only_a_trusted_certificate_for_this_host_is_spoken_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, trusted: bool, status: int, transport: str
):
    pem = CERTIFICATES / f"{name}.pem"
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    if trusted:
        monkeypatch.setenv("SSL_CERT_FILE", str(pem))
    with ScriptedUpstream(tls=context) as upstream:
        config = config_for(upstream.base_url, retries={"max": 0}, transport=transport)
        with running_gateway(tmp_path, config) as gateway:
            url = f"{gateway.base_url}/chat/completions"
            for _ in range(2):
                assert httpx.post(url, json=chat(), trust_env=False).status_code == status
            errors = {trace.attempts[0].error for trace in gateway.traces(2)}
            assert errors == {None if status == 200 else "connect"}
        assert len(upstream.received) == (2 if status == 200 else 0)
