"""Values that no rule may let through, each another one, and texts that look like them and stay."""

from __future__ import annotations

import base64
import json
import random
import string
from collections.abc import Iterator
from typing import NamedTuple

from gateway.traces.redaction.numbers import is_card
from gateway.traces.redaction.rules import IBAN_LENGTHS, iban_checksum_holds

ALNUM = string.ascii_letters + string.digits
HEX = "0123456789abcdef"
UPPER = string.ascii_uppercase + string.digits


class Planted(NamedTuple):
    """A value of a rule, as it stands in a text: `before` and `after` are what names it and may stay."""

    kind: str
    value: str
    before: str = ""
    after: str = ""

    @property
    def text(self) -> str:
        return self.before + self.value + self.after


# Of each vendor's tokens: what they begin with, how many characters of which alphabet follow, and so on.
KEYS: tuple[tuple[str | tuple[int, str], ...], ...] = (
    ("sk-proj-", (74, ALNUM), "T3BlbkFJ", (74, ALNUM)),
    ("sk-", (20, ALNUM), "T3BlbkFJ", (20, ALNUM)),
    ("sk-svcacct-", (60, ALNUM)),
    ("sk-admin-", (60, ALNUM)),
    ("sk-ant-api03-", (93, ALNUM), "AA"),
    ("sk-or-v1-", (64, HEX)),
    ("AIza", (35, ALNUM)),
    ("AQ.Ab8", (46, ALNUM)),
    ("ya29.", (60, ALNUM)),
    ("GOCSPX-", (28, ALNUM)),
    ("gsk_", (52, ALNUM)),
    ("xai-", (80, ALNUM)),
    ("pplx-", (48, ALNUM)),
    ("r8_", (37, ALNUM)),
    ("hf_", (34, ALNUM)),
    ("nvapi-", (64, ALNUM)),
    ("fw_", (24, ALNUM)),
    ("lsv2_pt_", (32, HEX), "_", (10, HEX)),
    ("AKIA", (16, UPPER)),
    ("ASIA", (16, UPPER)),
    ("ABSK", (128, ALNUM)),
    ((52, ALNUM), "JQQJ99", (26, ALNUM)),
    ("aB3", "8Q~", (34, ALNUM)),
    ("dop_v1_", (64, HEX)),
    ("cfut_", (48, ALNUM)),
    ("vcp_", (56, ALNUM)),
    ("tskey-auth-", (17, ALNUM), "-", (32, ALNUM)),
    ("hvs.", (90, ALNUM)),
    ("dp.pt.", (43, ALNUM)),
    ("dapi", (32, HEX)),
    ("sbp_", (40, HEX)),
    ("sb_secret_", (31, ALNUM)),
    ("pscale_tkn_", (43, ALNUM)),
    ("glsa_", (32, ALNUM), "_", (8, HEX)),
    ("ghp_", (36, ALNUM)),
    ("gho_", (36, ALNUM)),
    ("github_pat_", (22, ALNUM), "_", (59, ALNUM)),
    ("glpat-", (20, ALNUM)),
    ("ATATT3", (180, ALNUM)),
    ("npm_", (36, ALNUM)),
    ("pypi-AgEIcHlwaS5vcmc", (140, ALNUM)),
    ("rubygems_", (48, HEX)),
    ("dckr_pat_", (27, ALNUM)),
    ("figd_", (40, ALNUM)),
    ("xoxb-", (12, string.digits), "-", (24, ALNUM)),
    ("xapp-1-", (11, UPPER), "-", (13, string.digits), "-", (64, HEX)),
    ("sk_live_", (24, ALNUM)),
    ("rk_test_", (24, ALNUM)),
    ("whsec_", (32, ALNUM)),
    ("shpat_", (32, HEX)),
    ("sq0atp-", (22, ALNUM)),
    ("SK", (32, HEX)),
    ("SG.", (22, ALNUM), ".", (43, ALNUM)),
    ("key-", (32, HEX)),
    ((32, HEX), "-us12"),
    ("re_", (8, ALNUM), "_", (24, ALNUM)),
    ("lin_api_", (40, ALNUM)),
    ("ntn_", (46, ALNUM)),
    ("secret_", (43, ALNUM)),
    ("pat", (14, ALNUM), ".", (64, HEX)),
    ("pat-na1-", (8, HEX), "-0000-4000-8000-", (12, HEX)),
    ((10, string.digits), ":AA", (33, ALNUM)),
    ("M", (25, ALNUM), ".", (6, ALNUM), ".", (38, ALNUM)),
    ("eyJ", (30, ALNUM), ".eyJ", (60, ALNUM), ".", (43, ALNUM)),
    ("AGE-SECRET-KEY-1", (58, UPPER)),
)
NAMED_KEYS = (
    ("api-key: ", 32, HEX),
    ('"client_secret": "', 40, ALNUM),
    ("AZURE_OPENAI_API_KEY=", 32, HEX),
    ("aws_secret_access_key = ", 40, ALNUM),
    ("Authorization: Bearer ", 40, ALNUM),
    ("AccountKey=", 86, ALNUM),
    ("https://hooks.slack.com/services/T", 40, ALNUM),
)
LOOK_ALIKES = (
    *("order C4821-9937", "invoice 2026-0004711", "2026-11-25T19:09:42.123456+00:00", "25.11.2026"),
    *("$1,234,567.89", "1.299,00 EUR", "0.1234567890123", "019b76da-b1a2-7c3d-8e4f-000000000001"),
    *("4111111111111112", "DE89370400440532013001", "1700000000", "1700000000123", "v1.22.333"),
    *("192.168.0.1", "logo@2x.png", "git@github.com:a/b.git", "@app.route('/x')", "5551234567"),
    *("sk-learn-style-hyphenated-names-2", "api_key = os.environ.get_the_key_of_it", "chapter 12, page 345"),
    *("risk-assessment-of-long-names-2", "def f(a: int) -> str: return f'{a:08d}'", "10:30-12:45"),
    *("1 2 3 4 5 6 7 8 9", "100 000 000", "4a6f686e2d446f652d4a616e65", "chatcmpl-9f3a1b2c3d4e5f60718293a4"),
    *("tel aviv", "hotel 1234567", "978-3-16-148410-0", "sha256:9f86d081884c7d659a2feaa0c55ad015"),
)


def planted(draw: random.Random, of_each: int = 12) -> list[Planted]:
    """*of_each* distinct values of every kind, one of every vendor."""
    found = [
        *_keys(draw),
        *(Planted("API_KEY", _some(draw, size, alphabet), name) for name, size, alphabet in NAMED_KEYS),
        Planted("API_KEY", _some(draw, 20, ALNUM), "postgres://app:", "@db.example.com/app"),
    ]
    for number in range(of_each):
        found += [
            Planted(
                "EMAIL",
                f"{_some(draw, 9, string.ascii_lowercase)}.{number}@{_some(draw, 6, HEX)}x.example.org",
            ),
            Planted("EMAIL", f"{_some(draw, 8, ALNUM)}+tag@mail{number}.example.co.uk"),
            Planted("CARD", _card(draw, "4", 16, draw.choice(["", " ", "-"]))),
            Planted(
                "CARD", _card(draw, draw.choice(["51", "2345", "6011", "37"]), 0, draw.choice(["", " "]))
            ),
            Planted("IBAN", _iban(draw, draw.choice([" ", ""]))),
            Planted("PHONE", f"+49 {draw.randrange(100, 999)} {draw.randrange(10**6, 10**7)}"),
            Planted(
                "PHONE",
                f"+1-{draw.randrange(200, 999)}-{draw.randrange(200, 999)}-{draw.randrange(10**3, 10**4)}",
            ),
            Planted(
                "PHONE",
                f"({draw.randrange(200, 999)}) {draw.randrange(200, 999)}-{draw.randrange(10**3, 10**4)}",
            ),
            Planted("PHONE", f"0{draw.randrange(30, 99)} {draw.randrange(10**7, 10**8)}"),
            Planted("PHONE", f"{draw.randrange(10**9, 10**10)}", "phone: "),
            Planted("PRIVATE_KEY", _private_key(draw)),
        ]
    return found


def forms_of(value: str) -> Iterator[bytes]:
    """How *value* may lie somewhere: plain, in JSON, escaped, as base64 at any offset, without its formatting."""
    plain = value.encode()
    yield plain
    yield json.dumps(value)[1:-1].encode()
    yield "".join(f"\\u{ord(char):04x}" for char in value).encode()
    for offset in range(3):
        whole = base64.b64encode(bytes(offset) + plain)
        yield whole[-(-offset * 8 // 6) : len(whole) - 4]
    bare = value.replace(" ", "").replace("-", "").replace("(", "").replace(")", "")
    if bare.lstrip("+").isdigit():
        yield bare.lstrip("+").encode()


def _keys(draw: random.Random) -> Iterator[Planted]:
    for parts in KEYS:
        yield Planted("API_KEY", "".join(one if isinstance(one, str) else _some(draw, *one) for one in parts))


def _some(draw: random.Random, count: int, alphabet: str) -> str:
    """*count* characters of *alphabet*, a digit among them, as in all that was ever drawn for a key."""
    text = "".join(draw.choices(alphabet, k=count))
    return text[:-1] + (draw.choice(string.digits) if set(alphabet) & set(string.digits) else text[-1])


def _card(draw: random.Random, prefix: str, length: int, separator: str) -> str:
    length = length or (15 if prefix == "37" else 16)
    body = prefix + "".join(draw.choices(string.digits, k=length - len(prefix) - 1))
    number = next(body + str(check) for check in range(10) if is_card(body + str(check)))
    sizes = (4, 6, 5) if length == 15 else (4, 4, 4, 4)
    ends = [sum(sizes[: index + 1]) for index in range(len(sizes))]
    return separator.join(number[end - size : end] for size, end in zip(sizes, ends, strict=True))


def _iban(draw: random.Random, separator: str) -> str:
    country = draw.choice(sorted(IBAN_LENGTHS))
    rest = "".join(draw.choices(string.digits, k=IBAN_LENGTHS[country] - 4))
    check = next(c for c in range(2, 99) if iban_checksum_holds(f"{country}{c:02}{rest}"))
    number = f"{country}{check:02}{rest}"
    return separator.join(number[at : at + 4] for at in range(0, len(number), 4))


def _private_key(draw: random.Random) -> str:
    kind = draw.choice(["RSA PRIVATE KEY", "PRIVATE KEY", "OPENSSH PRIVATE KEY"])
    lines = "\n".join(_some(draw, 64, ALNUM) for _ in range(3))
    return f"-----BEGIN {kind}-----\n{lines}\n-----END {kind}-----"
