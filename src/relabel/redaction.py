"""Removal of secrets from text and addresses, and escaping of control characters.

Error messages, provider replies, manifests and everything printed pass through this module. The secrets are found in the
environment and in addresses: keys, tokens in a header or in a query, user information of an API address or a proxy.
"""

from __future__ import annotations

import base64
import html
import json
import os
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlsplit, urlunsplit

# Replaces a secret.
MASK = "[key]"
# Shorter secrets, in characters, are removed only where they are separate words.
_SHORT = 6
# Fewest characters of a secret; anything shorter protects nothing and might be a label.
_SHORTEST = 4
# Fewest characters of a word of letters and digits that is taken for a key.
_KEY_WORD = 16
# Dummy keys for servers that require one but check none, and words of replies: removing these would change answers.
_PLACEHOLDERS = (
    "none null empty local test dummy fake key secret token password ollama lm-studio vllm unused anything placeholder no-key "
    "not-needed sk-no-key-required assistant choices content exposed length message messages object rationale strict"
)
_NAMES = r"(?:api[-_]?key|key|token|secret|sig|signature|password|passwd|pass|auth|authorization|credential|cookie)s?"
_SECRET_NAME = re.compile(rf"(?:^|[-_.]){_NAMES}(?:$|[-_.])|apikey|(?-i:[a-z](?:Key|Token|Secret))$", re.IGNORECASE)
_USER_INFORMATION = re.compile(r"(?<=://)[^\s/?#\"'<>@]*(?:@[^\s/?#\"'<>@]+)*@(?=[\w\[.])")
_QUERY = re.compile(rf"([?&;][\w.-]*?{_NAMES}=)(?!\[key\])[^&;#\s\"'<>)\]]+", re.IGNORECASE)
_BEARER = re.compile(r"\b(bearer|basic)\s+(?=\S*[\d=])[A-Za-z0-9+/=._~-]{8,}", re.IGNORECASE)
_LOOKS_LIKE_A_KEY = re.compile(r"\b(?:sk|pk|key)-(?=[A-Za-z_-]{0,100}[\d*])[A-Za-z0-9_*-]{6,}")
_ESCAPE = re.compile(r"\\{1,4}(?:u([0-9a-fA-F]{4})|x([0-9a-fA-F]{2})|(/))")
# Decoders of the encodings that a secret may hide in, by the character that marks the encoding.
_DECODERS: Mapping[str, Callable[[str], str]] = {
    "\\": lambda text: _ESCAPE.sub(lambda match: match[3] or chr(int(match[1] or match[2], 16)), text),
    "%": lambda text: unquote(unquote(text)),
    "&": html.unescape,
}
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufeff]")

_secrets: set[str] = set()
# The secrets with their case folded, for a search that ignores case.
_folded_secrets: list[str] = []
_pattern = re.compile(r"(?!)")


def guard(*secrets: str | None) -> None:
    """Register secret values, to be removed in every encoding until the process ends."""
    global _pattern  # noqa: PLW0603  one set of secrets a process, as there is one environment
    before = len(_secrets)
    for secret in secrets:
        value = (secret or "").strip()
        if len(value) >= (_SHORT if value.isalpha() else _SHORTEST) and value.lower() not in _PLACEHOLDERS.split():
            raw = value.encode("utf-8", "replace")
            quoted = [json.dumps(value)[1:-1], json.dumps(value, ensure_ascii=False)[1:-1]]
            _secrets.update({value, quote(raw, safe=""), unquote(value), *quoted, quoted[0].replace("/", r"\/")})
            _secrets.update({raw.hex(), raw.hex(":"), *_in_base64(raw)})
    if len(_secrets) > before:
        _pattern = re.compile("|".join(map(_alternative, sorted(_secrets, key=len, reverse=True))), re.IGNORECASE)
        _folded_secrets[:] = {word.casefold() for word in _secrets}


def _alternative(value: str) -> str:
    word = re.escape(value)
    is_a_word = value.isalpha() and (value.islower() or value.istitle() or value.isupper())
    return word if len(value) >= _SHORT and not is_a_word else rf"(?<![A-Za-z0-9]){word}(?![A-Za-z0-9])"


def _in_base64(raw: bytes) -> set[str]:
    """The base64 forms of bytes at each of the three alignments, without the characters that depend on their neighbours."""
    coded = (
        base64.b64encode(bytes(n) + raw).decode()[first : (n + len(raw)) * 8 // 6] for n, first in enumerate((0, 2, 3))
    )
    return {form for text in coded if len(text) >= _SHORT for form in (text, text.translate(str.maketrans("+/", "-_")))}


def guard_address(address: str | None) -> None:
    """Register the credentials in an address as secrets: user information, and keys and tokens of its query."""
    address = address or ""
    user = (address.partition("://")[2] or address).rpartition("@")[0]
    secret = user.partition(":")[2] or user
    guard(secret, unquote(secret))
    query = address.partition("?")[2].partition("#")[0]
    guard(*(value for name, value in parse_qsl(query) if _SECRET_NAME.search(name)))


def guard_environment(environ: Mapping[str, str] = os.environ) -> None:
    """Register the credentials in the environment as secrets: keys, custom headers, addresses and proxies."""
    for name, value in environ.items():
        upper = name.upper()
        if upper in {"OPENAI_API_KEY", "OPENAI_ADMIN_KEY"}:
            guard(value)
        elif upper == "OPENAI_CUSTOM_HEADERS":
            guard_headers(dict(line.split(":", 1) for line in value.splitlines() if ":" in line))
        elif upper.endswith(("_PROXY", "_BASE_URL")) or (upper.startswith("RELABEL_") and "://" in value):
            guard_address(value)


def guard_headers(headers: Mapping[str, str]) -> None:
    """Register the credentials in headers as secrets: whole values, their words, and the values of `name=value` pairs."""
    for name, value in headers.items():
        if is_secret_header(name, value):
            guard(value, value.strip().rpartition(" ")[2], *re.findall(r"=\s*\"?([^\s;,\"]+)", value))
            with suppress(ValueError):
                scheme, _, coded = value.strip().partition(" ")
                if scheme.lower() == "basic":
                    guard(*base64.b64decode(coded, validate=True).decode().split(":", 1))


def is_secret_name(name: str) -> bool:
    """Whether the name of a header, a parameter or a query field suggests a credential."""
    return _SECRET_NAME.search(name.strip()) is not None and not name.lower().endswith("tokens")


def is_secret_header(name: str, value: str) -> bool:
    """Whether a header holds a credential, by its name or by what its value looks like."""
    words = re.split(r"[^A-Za-z0-9]+", value)
    looks_random = any(len(w) >= _KEY_WORD and any(map(str.isdigit, w)) and any(map(str.isalpha, w)) for w in words)
    return is_secret_name(name) or looks_random or clean(value) != value


def forget() -> None:
    """Forget all registered secrets; for tests, which share one process."""
    _secrets.clear()
    _folded_secrets.clear()


def _may_contain_secret(text: str) -> bool:
    """Whether a text may contain a registered secret; much faster than matching the pattern."""
    folded = text.casefold()
    return any(word in folded for word in _folded_secrets)


def masked(text: str) -> str:
    """A text without the registered secrets, including those escaped as in JSON, addresses or HTML."""
    text = _pattern.sub(MASK, text) if _may_contain_secret(text) else text
    for mark, decoded in _DECODERS.items() if _secrets else ():
        if mark in text and _may_contain_secret(plain := decoded(text)):
            text = _pattern.sub(MASK, plain)
    if "://" in text:
        text = _QUERY.sub(rf"\1{MASK}", _USER_INFORMATION.sub("", text))
    return text


def clean(text: str) -> str:
    """A message that is safe to print: without secrets or anything that looks like one, control characters escaped."""
    # Cut first: a hostile server may send megabytes, which would take long to search.
    text = _LOOKS_LIKE_A_KEY.sub(MASK, _BEARER.sub(rf"\1 {MASK}", masked(text[:100_000])))
    return printable(text.encode("utf-8", "replace").decode())


def clean_document(value: Any) -> Any:
    """A JSON document with every registered secret removed from its strings and field names."""
    if isinstance(value, str):
        return masked(value)
    if isinstance(value, dict):
        return {masked(str(name)): clean_document(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [clean_document(inner) for inner in value]
    return value


def may_hold_secret(text: str) -> bool:
    """Whether a JSON text may contain a registered secret; most do not, and their values need not be searched one by one."""
    # These can encode any character of a secret. Quotes have another escape in JSON, and secrets are registered with it, too.
    return any(mark in text for mark in ("\\u", "\\/", "\\x", "%", "&", "://")) or _may_contain_secret(text)


def printable(text: str) -> str:
    """A text for a terminal: control characters except newline and tab, and marks that reorder text, are escaped."""
    return _CONTROL.sub(lambda match: ascii(match[0])[1:-1], text) if _CONTROL.search(text) else text


def public_url(url: str) -> str:
    """An address without user information, query or fragment, for manifests, logs and messages.

    Only the API version is kept of the query: some addresses need it, and it is not secret.
    """
    try:
        parts = urlsplit(url)
    except ValueError:
        return url.partition("?")[0].rpartition("@")[2]
    if not parts.netloc:  # `user:secret@host/v1`, `localhost:8000`: the part before the colon was taken for a scheme
        return re.split("[?#]", url, maxsplit=1)[0].rpartition("@")[2]
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, api_version(parts.query), ""))


def api_version(query: str) -> str:
    """The part of an address's query that names the version of the API: `api-version=...`; empty without one."""
    match = re.search(r"(?:^|&)(api-version=[0-9A-Za-z.-]{1,40})(?=&|$)", query)
    return match[1] if match else ""
