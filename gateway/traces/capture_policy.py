"""What of a route's traces is kept: the share of its sessions with bodies, and the rules that redact them."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import NamedTuple

from gateway.config.types import Config
from gateway.traces.redaction.names import NameFinder
from gateway.traces.redaction.patterns import rules_of
from gateway.traces.redaction.redact import BUILTIN, Redactor, redaction_key
from gateway.traces.types import CaptureLevel

_SESSION_BYTES = 8


class RoutePolicy(NamedTuple):
    """How the traces of one route are kept; `redactor` None leaves text as it is (privacy.redact: none)."""

    redactor: Redactor | None
    bodies: float = 1.0  # the share of sessions
    capture: CaptureLevel = "full"


class CapturePolicy(NamedTuple):
    """`default` holds for what belongs to no route: feedback, decisions, sessions and subjects too."""

    default: RoutePolicy
    routes: dict[str, RoutePolicy]

    def of(self, route: str) -> RoutePolicy:
        """The policy of *route*, or of a model name that none serves."""
        return self.routes.get(route, self.default)


def policy_of(config: Config, key_file: Path) -> CapturePolicy:
    """The policy that *config* asks for; *key_file* has the secret for placeholders, made if missing.

    Raises OperationError.
    """
    key = redaction_key(key_file) if config.privacy.redact != "none" else None
    patterns = rules_of(config.privacy.patterns)
    names = NameFinder(config.privacy.presidio) if config.privacy.redact == "presidio" else None

    def redactor(off: list[str]) -> Redactor | None:
        builtin = [rule for rule in BUILTIN if rule.kind not in off]
        own = [rule for rule in patterns if rule.kind not in off]
        return None if key is None else Redactor(key, builtin, own, names)

    default = config.privacy.rules_off
    return CapturePolicy(
        RoutePolicy(redactor(default)),
        {
            route.model: RoutePolicy(
                redactor(default if route.rules_off is None else route.rules_off),
                route.capture_bodies,
                route.capture,
            )
            for route in config.routes
        },
    )


def keeps_bodies(client: str, session: str, share: float) -> bool:
    """Whether *session* of *client* is among the *share* whose bodies are kept: all its traces or none.

    Pure. A larger share keeps every session that a smaller one keeps.
    """
    if share >= 1:
        return True
    digest = hashlib.blake2b(f"{client}\0{session}".encode("utf-8", "replace"), digest_size=_SESSION_BYTES)
    return int.from_bytes(digest.digest()) < share * (1 << 8 * _SESSION_BYTES)
