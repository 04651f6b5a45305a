"""The redaction rules for API keys and tokens: by the forms of vendors, and by what stands before."""

from __future__ import annotations

import re
from collections.abc import Iterator

from gateway.traces.redaction.rules import BEFORE, Found, Rule, behind_before, compile_pattern, spans_of

_MODELS = (  # inference and what belongs to it
    r"sk-[A-Za-z0-9_\-]{20,}",  # OpenAI, Anthropic, DeepSeek, OpenRouter, LiteLLM, Langfuse
    r"AIza[0-9A-Za-z_\-]{35}|AQ\.[A-Za-z0-9_\-]{30,}|ya29\.[0-9A-Za-z_\-.]{20,}|1//0[A-Za-z0-9_\-]{24,}",
    r"GOCSPX-[0-9A-Za-z_\-]{20,}",
    r"(?:gsk_|xai-|pplx-|r8_|csk-)[A-Za-z0-9]{32,}",  # Groq, xAI, Perplexity, Replicate, Cerebras
    r"(?:hf|api_org)_[A-Za-z0-9]{30,}",
    r"nvapi-[A-Za-z0-9_\-]{40,}|fw_[A-Za-z0-9]{22,}|tgp_v1_[A-Za-z0-9_\-]{40,}|tvly-[A-Za-z0-9\-]{20,}",
    r"jina_[A-Za-z0-9_\-]{40,}|pcsk_[A-Za-z0-9_]{40,}|pa-[A-Za-z0-9_\-]{40,}|wandb_v1_[A-Za-z0-9_]{40,}",
    r"lsv2_(?:pt|sk)_[a-f0-9]{32}_[a-f0-9]{10}|sk_[a-f0-9]{48}|fc-[a-f0-9]{32}|e2b_[a-f0-9]{40}",
)
_CLOUDS = (
    r"A(?:KIA|SIA|BIA|CCA)[0-9A-Z]{16}|ABSK[A-Za-z0-9+/=]{80,}|bedrock-api-key-[A-Za-z0-9+/=]{40,}",
    r"[A-Za-z0-9]{52}JQQJ99[A-Za-z0-9]{24,}|[A-Za-z0-9]{76}AZDO[A-Za-z0-9]{4}",  # Azure AI, Azure DevOps
    r"[A-Za-z0-9_][A-Za-z0-9_~.\-]{0,2}[0-9]Q~[A-Za-z0-9_~.\-]{31,34}",  # a client secret of Entra
    r"do[opr]_v1_[a-f0-9]{64}|LTAI[A-Za-z0-9]{12,20}|AKID[A-Za-z0-9]{32}|HRKU-[A-Za-z0-9_\-]{36,}",
    r"cf(?:ut|at|k)_[A-Za-z0-9_\-]{40,}|v1\.0-[a-f0-9]{24}-[a-f0-9]{100,}",  # Cloudflare
    r"vc[acikpr]_[A-Za-z0-9]{24,}|vercel_blob_rw_[A-Za-z0-9]{16,}_[A-Za-z0-9]{20,}",
    r"nf[bcopu]_[A-Za-z0-9]{36,}|rnd_[A-Za-z0-9]{28,}|FlyV1 fm[12]_[A-Za-z0-9+/=_\-,]{40,}",
    r"tskey-[a-z]{2,12}-[A-Za-z0-9]{8,}-[A-Za-z0-9]{20,}",
    r"(?:hv[sbr]|dp\.(?:pt|st|ct|sa|scim|audit))\.[A-Za-z0-9_\-.]{20,}",  # Vault, Doppler
    r"[A-Za-z0-9]{14}\.atlasv1\.[A-Za-z0-9_=\-]{60,}|ops_eyJ[A-Za-z0-9_=\-]{100,}",
)
_DATA = (
    r"dapi[0-9a-f]{32}(?:-[0-9])?|dose[0-9a-f]{32}",  # Databricks
    r"sbp_[a-f0-9]{40}|sb_secret_[A-Za-z0-9_\-]{20,}",  # Supabase
    r"pscale_(?:tkn|pw|oauth)_[A-Za-z0-9_=.\-]{32,}|napi_[a-z0-9]{48,}|mdb_sa_sk_[A-Za-z0-9_\-]{30,}",
    r"glc_[A-Za-z0-9+/=]{32,}|glsa_[A-Za-z0-9]{32}_[a-fA-F0-9]{8}|NRAK-[A-Z0-9]{27}",
    r"sntr(?:ys|yu)_[A-Za-z0-9+/=_]{40,}|dt0[a-z][0-9]{2}\.[A-Z0-9]{24}\.[A-Z0-9]{64}|phx_[A-Za-z0-9]{40,}",
)
_CODE = (
    r"gh[pousr]_[A-Za-z0-9]{36,}|github_pat_[A-Za-z0-9_]{22,}",
    r"gl(?:pat|ptt|dt|rt|rtr|cbt|soat|ft|imt|agent|oas|ffct)-[A-Za-z0-9_\-.]{20,}",
    r"ATATT3[A-Za-z0-9_=\-]{50,}|AT[BC](?:B|TT3)[A-Za-z0-9_=\-]{24,}",  # Atlassian, Bitbucket
    r"npm_[A-Za-z0-9]{36}|pypi-AgE[A-Za-z0-9_\-]{40,}|rubygems_[a-f0-9]{48}|oy2[a-z0-9]{43}",
    r"dckr_(?:pat|oat)_[A-Za-z0-9_\-]{27,}|CCI(?:PAT|PRJ)_[A-Za-z0-9]{20,}_[a-f0-9]{40}|bkua_[a-f0-9]{40}",
    r"PMAK-[a-f0-9]{24}-[a-f0-9]{34}|CFPAT-[A-Za-z0-9_\-]{43}|figd_[A-Za-z0-9_\-]{40,}",
)
_APPS = (
    r"xox[abeoprs](?:\.xox[bp])?-[A-Za-z0-9\-]{10,}|xapp-[A-Za-z0-9\-]{20,}",
    r"[srp]k_(?:live|test)_[0-9A-Za-z]{16,}|whsec_[A-Za-z0-9+/=]{24,}",
    r"shp(?:at|ca|pa|ss)_[a-fA-F0-9]{32}|sq0[a-z]{3}-[0-9A-Za-z_\-]{22,}|EAAA[A-Za-z0-9_\-]{60}",
    r"SK[0-9a-f]{32}",  # Twilio
    r"SG\.[A-Za-z0-9_\-]{16,32}\.[A-Za-z0-9_\-]{16,64}|key-[0-9a-f]{32}|[0-9a-f]{32}-us[0-9]{1,2}",
    r"xkeysib-[a-f0-9]{64}-[A-Za-z0-9]{16}|re_[A-Za-z0-9]{8,}_[A-Za-z0-9]{20,}",
    r"lin_(?:api|oauth|wh)_[A-Za-z0-9]{32,}|(?:ntn|secret)_[A-Za-z0-9]{40,}",  # Linear, Notion
    r"pat[A-Za-z0-9]{14}\.[a-f0-9]{64}|pat-(?:na|eu)[0-9]-[a-f0-9\-]{36}",  # Airtable, HubSpot
    r"[0-9]{8,10}:AA[A-Za-z0-9_\-]{32,}",  # Telegram
    r"[MNO][A-Za-z0-9_\-]{23,28}\.[A-Za-z0-9_\-]{6}\.[A-Za-z0-9_\-]{27,}",  # Discord
    r"[sp]k\.eyJ[A-Za-z0-9_\-]{20,}\.[A-Za-z0-9_\-]{20,}",  # Mapbox
    r"eyJ[A-Za-z0-9_\-]{8,}\.eyJ[A-Za-z0-9_\-]{8,}(?:\.[A-Za-z0-9_\-]*){0,3}",  # JWT
    r"AGE-SECRET-KEY-1[A-Z0-9]{58}",
)
# A key whose form says nothing: what stands before it does, and stays.
_NAMED = (
    r"(?i:api[_\-]?key|secret[_\-]?(?:access[_\-]?)?key|(?:access|auth|bot|session|refresh)[_\-]?token"
    r"|client[_\-]?secret|subscription[_\-]?key|password|passwd)"
)
_IN_CONTEXT = (
    r"hooks\.slack\.com/(?:services|workflows|triggers)/([A-Za-z0-9/]{20,})",
    r"discord(?:app)?\.com/api/webhooks/[0-9]{10,25}/([A-Za-z0-9_\-]{40,})",
    r"(?i:aws.{0,20}secret.{0,20}?[ \"'=:>\x1f\n]{1,5})([A-Za-z0-9/+]{40})",
    r"(?:AccountKey|SharedAccessKey)=([A-Za-z0-9+/=]{40,})",
    r"[?&]sig=([A-Za-z0-9%+/=]{40,})",
    r"(?i:bearer )([A-Za-z0-9._~+/\-]{20,}=*)",
    r"(?i:authorization[\"':= \x1f\n]{1,5}basic )([A-Za-z0-9+/]{12,}=*)",
    rf"{_NAMED}[\"'\\ \n]{{0,4}}[=:\x1f][\"'\\ \n]{{0,4}}([A-Za-z0-9_\-./+~]{{16,}}=*)",
    r"://[^/\s:@]{1,100}:([^/\s:@\[\]]{3,200})@",
)


def find_api_keys(data: bytes) -> Iterator[Found]:
    """Keys and tokens by the forms of common vendors."""
    for first, end in spans_of(_KEY, data):
        escape = data[first : first + 1] == b"\\" and _KEY_ALONE.match(data, first + 1, end)
        start = first + 1 if escape else behind_before(data, first)
        value = data[start:end]
        if not _is_name(value):
            yield Found(start, end, "API_KEY", value.decode("utf-8", "replace"))


def find_named_keys(data: bytes) -> Iterator[Found]:
    """What a text calls a key or a token, and passwords in URLs."""
    for first, behind in spans_of(_NAMED_KEY, data):
        named = _NAMED_KEY_PARTS.match(data, first, behind)
        start, end = named.span(named.lastindex)
        value = data[start:end]
        if named.lastindex == _URL_PASSWORD or not (_is_name(value) or _CODE_NAME.fullmatch(value)):
            yield Found(start, end, "API_KEY", value.decode("utf-8", "replace"))


def _is_name(value: bytes) -> bool:
    """Whether *value* reads as words, or as the dotted name of something in a program."""
    return bool(_WORDS.fullmatch(value) or (b"." in value and not _DIGIT.search(value)))


_ALONE = f"(?:{'|'.join((*_MODELS, *_CLOUDS, *_DATA, *_CODE, *_APPS))})"
_ANY_KEY = f"{BEFORE}{_ALONE}"
_PARTS = "|".join(_IN_CONTEXT)
_ANY_NAMED_KEY = re.sub(r"\((?!\?)", "(?:", _PARTS)
_URL_PASSWORD = len(_IN_CONTEXT)  # the number of its group, the last one
_KEY = compile_pattern(_ANY_KEY)
_KEY_ALONE = compile_pattern(_ALONE)
_NAMED_KEY = compile_pattern(_ANY_NAMED_KEY)
_NAMED_KEY_PARTS = compile_pattern(_PARTS)
_DIGIT = re.compile(rb"[0-9]")
# `sk-…` and others are also how long names begin, of words and short numbers joined by hyphens.
_WORDS = re.compile(rb"[A-Za-z]?[a-z]{0,19}(?:[-_./](?:[A-Za-z]?[a-z]{0,19}|[0-9]{1,4}))*")
# os.environ.get, settings.openaiApiKey, process.env.KEY: where a program takes its key from.
_CODE_NAME = re.compile(rb"[A-Za-z_]+(?:\.[A-Za-z_]+)*")

API_KEYS = Rule("API_KEY", _ANY_KEY, find_api_keys)
NAMED_KEYS = Rule("API_KEY", _ANY_NAMED_KEY, find_named_keys)
