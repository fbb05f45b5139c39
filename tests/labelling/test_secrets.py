"""A secret is planted in every place that takes one, and everything that was written is searched for it."""

from __future__ import annotations

import base64
import json
import os
import socketserver
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from batch_server import batch_provider
from relabel.cli.app import run_app
from relabel.redaction import MASK, clean, clean_document, guard, guard_address, masked, public_url
from server import Reply, Seen, chat, provider, refused

KEY = "hunt3r"  # shorter than any key, and of no known form
USER, PASSWORD, TOKEN = "alice", "s3cr/t pass", "t0k3n-in-query"
SECRETS = {
    KEY,
    PASSWORD,
    "s3cr%2Ft%20pass",
    TOKEN,
    base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode(),
    json.dumps(PASSWORD)[1:-1],
}


def written(folder: Path, *texts: str) -> dict[str, bytes]:
    """Everything that a run left: its files, rows of its databases, and what it printed."""
    found = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    for path in folder.rglob("*.db"):
        with sqlite3.connect(path) as database:
            found[f"{path.name}, dumped"] = "\n".join(database.iterdump()).encode()
    return {**found, **{f"printed {number}": text.encode() for number, text in enumerate(texts)}}


def leaks(found: dict[str, bytes]) -> list[tuple[str, str]]:
    spelled = {secret: {secret, "".join(f"\\u{ord(char):04x}" for char in secret)} for secret in SECRETS}
    return [
        (name, s)
        for name, raw in found.items()
        for s, ways in spelled.items()
        if any(way.encode() in raw for way in ways)
    ]


def relabel(folder: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.upper().endswith("_PROXY")}
    environment = {**kept, "OPENAI_API_KEY": KEY, "RELABEL_HOME": str(folder / "home"), **environment}
    command = [sys.executable, "-m", "relabel", *words]
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=120
    )


class Here:
    """Runs one command in this process, which has loaded the libraries; `said` is all that it printed or logged."""

    def __init__(
        self,
        folder: Path,
        patch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        self._folder, self._patch, self._capsys, self._caplog = folder, patch, capsys, caplog
        self.said: tuple[str, ...] = ()

    def relabel(self, *words: str, **environment: str) -> int:
        for name in [name for name in os.environ if name.upper().endswith("_PROXY")]:
            self._patch.delenv(name)
        for name, value in {"OPENAI_API_KEY": KEY, "RELABEL_HOME": str(self._folder / "home"), **environment}.items():
            self._patch.setenv(name, value)
        self._patch.chdir(self._folder)
        code = run_app([*words])
        self.said = (*self._capsys.readouterr(), self._caplog.text)
        return code

    def leaks(self) -> list[tuple[str, str]]:
        return leaks(written(self._folder, *self.said))


@pytest.fixture
def here(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> Here:
    return Here(tmp_path, monkeypatch, capsys, caplog)


@contextmanager
def proxy() -> Generator[str]:
    """A proxy that refuses everybody and repeats what it was told."""

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            told = b""
            while (line := self.rfile.readline()).strip():
                told += line
            body = b"who is " + told
            self.wfile.write(
                b"HTTP/1.1 407 " + told.split(b"\r\n")[-2] + b"\r\nContent-Length: %d\r\n\r\n" % len(body) + body
            )

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def with_user(url: str) -> str:
    return url.replace("://", f"://{USER}:s3cr%2Ft%20pass@") + f"?api-version=1&api_key={TOKEN}"


def echo(seen: Seen) -> Reply:
    """A provider that tells everything it knows, in every field and spelling."""
    told = f"{KEY} {seen.headers.get('authorization')} {seen.path} {TOKEN}"
    escaped = told.replace(KEY, "".join(f"\\u{ord(char):04x}" for char in KEY))
    number = len(echoed)
    echoed.append(seen)
    if number % 6 == 0:
        return refused(400, told, code=told)
    if number % 6 == 1:
        return Reply(
            400, json.dumps({"error": {"message": "no", "param": "PARAM", "code": KEY}}).replace("PARAM", escaped)
        )
    if number % 6 == 2:
        return Reply(422, f"<html>{told} {escaped}")
    if number % 6 == 3:
        answer = chat(json.dumps({"rationale": told, "label": "exposed"}), model=told, finish_reason="stop")
        body = json.dumps({**answer, KEY: [told]}).replace(f'"{KEY}"', f'"{escaped}"')
        return Reply(body=body, headers={"x-upstream": told, "x-litellm-model-api-base": f"http://{KEY}.example"})
    if number % 6 == 4:
        return Reply(body=f"no JSON {told} {escaped}")
    return Reply(body=chat(json.dumps({"rationale": told, "label": told})))


echoed: list[Seen] = []


@pytest.mark.slow
def test_nothing_that_a_run_writes_or_prints_holds_a_secret(tmp_path: Path) -> None:
    echoed.clear()
    with provider(echo) as fake:
        words = [
            "--model",
            "m",
            "--base-url",
            with_user(fake.base_url),
            "--tasks",
            "sample",
            "--sample",
            "12",
            "--samples",
            "2",
        ]
        words += [
            "--setting",
            "strict",
            "--out",
            "r",
            "--log-json",
            "--max-tokens",
            "50",
            "--price",
            "1/2",
            "--response-format",
            "text",
        ]
        done = relabel(tmp_path, "run", *words)
    assert done.returncode == 5, done.stderr
    assert len(echoed) > 12
    more = [
        relabel(tmp_path, *said.split())
        for said in (
            "eval r --gold sample --out e.json --html e.html",
            "store stats",
            "store pack a.gz",
            "plan --model m",
        )
    ]
    texts = [text for one in (done, *more) for text in (one.stdout, one.stderr)]
    found = written(tmp_path, *texts)
    assert {"r/manifest.json", "r/failures.jsonl", "r/labels.parquet", "e.html"} <= set(found)
    assert leaks(found) == []
    assert MASK.encode() in found["r/failures.jsonl"]


@pytest.mark.parametrize(
    ("words", "environment"),
    [
        (["--key-env", "MY_KEY"], {"MY_KEY": KEY}),
        (["--provider", "anthropic"], {"ANTHROPIC_API_KEY": KEY}),
        (["--provider", "azure"], {"AZURE_OPENAI_API_KEY": KEY}),
        (["--header", f"X-Subscription-Token={KEY}"], {}),
        (["--header", f"Authorization=Bearer {KEY}"], {}),
        (["--header", f"Cookie=a=b; session={TOKEN}"], {}),
        (["--header", "Authorization=Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()], {}),
        ([], {"OPENAI_CUSTOM_HEADERS": f"X-Token: id=1,sig={TOKEN}"}),
    ],
)
def test_a_key_by_another_way_holds_no_less_secret(words: list[str], environment: dict[str, str], here: Here) -> None:
    def tell(seen: Seen) -> Reply:
        told = " ".join(f"{n}={v}" for n, v in seen.headers.items())
        return echo(seen) if len(echoed) % 7 else refused(400, told + PASSWORD * ("Basic" in told))

    echoed.clear()
    with provider(tell) as fake:
        code = here.relabel(
            "run", "--model", "m", "--base-url", fake.base_url, "--tasks", "sample", "--sample", "6",
            "--setting", "strict", "--out", "r", "--log-json", *words, **{"OPENAI_API_KEY": "", **environment},
        )  # fmt: skip
    assert code in {4, 5}, here.said
    assert fake.seen
    assert here.leaks() == []


def test_a_batch_holds_no_secret(here: Here) -> None:
    with batch_provider(echo) as fake:
        words = [
            "--model",
            "m",
            "--base-url",
            with_user(fake.base_url),
            "--tasks",
            "sample",
            "--sample",
            "3",
            "--engine",
            "batch",
        ]
        here.relabel("run", *words, "--setting", "strict", "--out", "r", "--yes", "--response-format", "text")
    assert here.leaks() == []


@pytest.mark.parametrize("engine", ["online", pytest.param("batch", marks=pytest.mark.slow)])
def test_a_proxys_password_is_told_to_nobody(engine: str, here: Here) -> None:
    with proxy() as address:
        said = f"http://{USER}:s3cr%2Ft%20pass@{address}"
        words = [
            "--model",
            "m",
            "--base-url",
            "https://127.0.0.1:1/v1",
            "--tasks",
            "sample",
            "--sample",
            "2",
            "--out",
            "r",
        ]
        assert (
            here.relabel("run", *words, "--engine", engine, "--yes", "--timeout", "5", HTTPS_PROXY=said, ALL_PROXY=said)
            == 4
        )
    assert "the proxy answers HTTP 407; check its address, user and password" in here.said[1]
    assert here.leaks() == []


@pytest.mark.parametrize(
    "address",
    [
        "HTTP//u:S@h/v1",
        "ftp://u:S@h/v1",
        "http://u:S@h:99999/v1",
        "http://u:S@[::1/v1",
        "http://u:S@/v1?key=S",
        "u:S@h",
        "http://h/v1?token=S#S",
        "http://u:S@h..example/v1",
    ],
)
def test_an_address_that_is_wrong_is_refused_without_its_credentials(
    address: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", address.replace("S", KEY))
    assert run_app(["run", "--model", "m", "--tasks", "sample", "--dry-run"]) in {0, 2}
    assert KEY not in "".join(capsys.readouterr())


def test_a_key_in_place_of_its_variable_is_not_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_app(["run", "--model", "m", "--tasks", "sample", "--key-env", KEY, "--dry-run"]) == 2
    assert KEY not in "".join(capsys.readouterr())


@pytest.mark.parametrize("parameter", [f"api_key={KEY}", f'extra_headers={{"x-api-key": "{KEY}"}}'])
def test_a_credential_is_not_sent_as_a_parameter(parameter: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_app(["run", "--model", "m", "--tasks", "sample", "--param", parameter, "--dry-run"]) == 2
    said = capsys.readouterr().err
    assert "set OPENAI_API_KEY instead" in said
    assert KEY not in said


def test_a_placeholder_is_no_secret_and_answers_stay_as_they_are() -> None:
    guard("none", "EMPTY", "local", "test", "E1", "yes", "")
    assert masked("a local test of none, E1, yes") == "a local test of none, E1, yes"


def test_every_spelling_of_a_secret_goes() -> None:
    guard('sk"/x-1')
    assert masked(r"a sk\"/x-1 b") == "a [key] b"
    assert masked(r"a sk\"\/x-1 b") == "a [key] b"
    assert masked(r"a \u0073k\u0022\u002fx-1 b") == "a [key] b"
    assert masked("a %73%6B%22%2F%78-1 b") == "a [key] b"
    assert masked('a SK"/X-1 b') == "a [key] b"
    assert masked("a sk&quot;&#47;x-1 b") == "a [key] b"
    assert masked(r"a \\u0073k\x22\/x-1 b") == "a [key] b"
    assert masked("a %2573%256B%2522%252F%2578-1 b") == "a [key] b"
    raw = b'sk"/x-1'
    assert masked(f"a {raw.hex()} {raw.hex(':').upper()} b") == "a [key] [key] b"
    for around in ("{}", ":{}", "{}:", "user:{}", "a?>:{}@", "{}, and more"):
        raw = around.format('sk"/x-1').encode()
        for coded in (base64.b64encode(raw).decode(), base64.urlsafe_b64encode(raw).decode()):
            assert MASK in masked(coded)
    assert clean_document({'sk"/x-1': ['sk"/x-1', {"a": 1}]}) == {MASK: [MASK, {"a": 1}]}
    guard("k9!z", "sesame")
    assert masked("k9!z, ak9!zb, sesame, sesames") == f"{MASK}, ak9!zb, {MASK}, sesames"


def test_a_message_of_megabytes_is_searched_no_longer_than_one_can_read() -> None:
    guard("sk-0123456789")
    for text in ("sk-" * 5_000_000, " " * 15_000_000, "\\" * 10_000_000, "://?key-" * 1_000_000):
        assert len(clean(f"it was sk-0123456789 {text}")) < 1_000_000


def test_what_looks_like_a_secret_goes_from_messages_and_titles_stay() -> None:
    assert clean("Incorrect API key: sk-proj-****abcd") == f"Incorrect API key: {MASK}"
    assert clean("Authorization: Bearer abcdef123456") == f"Authorization: Bearer {MASK}"
    assert (
        clean("see https://u:p@h/x?a=1&sig=abc for key-performance-indicators")
        == f"see https://h/x?a=1&sig={MASK} for key-performance-indicators"
    )
    assert public_url("https://u:p@h:1/v1?key=x#y") == "https://h:1/v1"
    assert public_url("https://h/v1?key=x&api-version=2024-10-21&sig=y") == "https://h/v1?api-version=2024-10-21"
    guard_address("https://h/v1?api-version=2026-01-01&subscription-key=abc123")
    assert masked("2026-01-01 abc123") == f"2026-01-01 {MASK}"
