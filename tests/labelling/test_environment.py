"""What surrounds a run: proxies, certificates, keys, connections. What cannot work is said before anything is sent."""

from __future__ import annotations

import base64
import json
import ssl
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest

from relabel.cli.app import run_app
from relabel.errors import UsageError
from relabel.labelling import transport
from relabel.labelling.transport import Http, certificates, proxy_of
from relabel.run import open_run
from server import Reply, Seen, chat, judged, provider

PROXIES = [f"{name}_{case}" for name in ("HTTP", "HTTPS", "ALL", "NO") for case in ("PROXY",)]
WORDS = [
    "--tasks",
    "sample",
    "--sample",
    "4",
    "--setting",
    "strict",
    "--response-format",
    "text",
    "--out",
    "r",
    "--quiet",
]


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-tests-0123456789")
    for name in PROXIES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


def run(base_url: str, *more: str) -> int:
    return run_app(
        ["run", "--model", "m", "--base-url", base_url, "--price", "1/2", "--max-tokens", "20", *WORDS, *more]
    )


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("ALL_PROXY", "socks5://u:secret-pass@127.0.0.1:9", "ALL_PROXY is not the address of an HTTP proxy"),
        ("HTTP_PROXY", "socks5h://127.0.0.1:9", "HTTP_PROXY is not the address of an HTTP proxy"),
        ("HTTP_PROXY", "127.0.0.1:9", "HTTP_PROXY is not the address of an HTTP proxy; write HTTP_PROXY=http://"),
        ("HTTP_PROXY", "http://u:secret-pass/x@127.0.0.1:9", "special characters of the password as %XX"),
        ("OPENAI_API_KEY", "sk-secret-pass-1\n", "the key contains quotes, line breaks"),
        ("OPENAI_API_KEY", "sk-secret-\r\npass", "the key contains quotes, line breaks"),
        ("OPENAI_API_KEY", "\u201csk-secret-pass-1\u201d", "the key contains quotes, line breaks"),
        ("OPENAI_API_KEY", "'sk-secret-pass-1'", "the key contains quotes, line breaks"),
        ("OPENAI_API_KEY", "sk-secret-pass-\udcff", "or other characters that no key has"),
    ],
)
@pytest.mark.parametrize("engine", ["online", "batch"])
def test_what_cannot_work_is_one_sentence_and_nothing_is_sent(
    variable: str,
    value: str,
    said: str,
    engine: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv(variable, value)
    with provider(lambda seen: judged()) as fake:
        assert run(fake.base_url, "--engine", engine, "--yes") == 2
        assert fake.seen == []
    out, err = capsys.readouterr()
    assert said in err
    assert "secret-pass" not in out + err
    assert "may be charged" not in out + err


@pytest.mark.parametrize("value", ["org-a\norg-b", "\u201corg-a\u201d"])
def test_an_organisation_that_no_header_can_hold_is_one_sentence(
    value: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OPENAI_ORG_ID", value)
    with provider(lambda seen: judged()) as fake:
        assert run(fake.base_url, "--provider", "openai") == 2
        assert fake.seen == []
    assert "the id contains quotes, line breaks" in capsys.readouterr().err


def test_certificates_that_are_missing_or_none_are_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for content in (None, "no certificate"):
        path = tmp_path / "ca.pem"
        if content is not None:
            path.write_text(content, "utf-8")
        monkeypatch.setenv("SSL_CERT_FILE", str(path))
        certificates.cache_clear()
        with pytest.raises(UsageError, match=r"no certificates can be read from SSL_CERT_FILE=.*ca\.pem"):
            Http("https://127.0.0.1:1/v1", "k")
    certificates.cache_clear()


def test_a_certificate_of_an_unknown_authority_says_where_to_name_that(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fault = ssl.SSLCertVerificationError(1, "no")
    fault.verify_message = "self-signed certificate in certificate chain"
    key: Any = SimpleNamespace(host="api.example", port=443, ssl=True)

    def request(*_: Any, **__: Any) -> None:
        raise aiohttp.ClientConnectorCertificateError(key, fault)

    monkeypatch.setattr(aiohttp.ClientSession, "request", request)
    assert run("https://api.example/v1") == 4
    assert "name the PEM file of its authority in SSL_CERT_FILE)" in " ".join(capsys.readouterr().err.split())


def test_a_server_without_tls_is_not_blamed_on_a_certificate(capsys: pytest.CaptureFixture[str]) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        assert run(f"https://127.0.0.1:{server.server_port}/v1") == 4
        server.shutdown()
    said = " ".join(capsys.readouterr().err.split())
    assert "wrong version number" in said
    assert said.endswith("if the server has no TLS, write http://)")


@pytest.mark.parametrize(
    "exceptions",
    ["127.0.0.1", "localhost,127.0.0.1,::1,fd07::/64", "127.0.0.0/8", "127.0.0.1:{port}", "*", "[::1], 127.0.0.1 ,"],
)
def test_no_proxy_is_honoured(exceptions: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    assert proxy_of("http://127.0.0.1:8000/v1") is not None
    monkeypatch.setenv("NO_PROXY", exceptions.format(port=8000))
    assert proxy_of("http://127.0.0.1:8000/v1") is None


def test_names_below_a_name_go_direct_and_others_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", "http://proxy:3128")
    monkeypatch.setenv("NO_PROXY", ".corp.example,[fd00::1]")
    assert proxy_of("https://llm.corp.example/v1") is None
    assert proxy_of("https://[fd00::1]:8000/v1") is None
    assert str(proxy_of("https://corp.example.org/v1")) == "http://proxy:3128"


def test_a_proxy_that_wants_a_password_gets_it(monkeypatch: pytest.MonkeyPatch) -> None:
    with provider(lambda seen: judged()) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.base_url.replace("://", "://alice:s3cr%2Ft@").removesuffix("/v1"))
        assert run("http://api.example/v1") == 0
        assert {seen.path for seen in proxy.seen} == {"http://api.example/v1/chat/completions"}
        credentials = {seen.headers["proxy-authorization"] for seen in proxy.seen}
    assert credentials == {"Basic " + base64.b64encode(b"alice:s3cr/t").decode()}


def test_a_proxy_that_refuses_ends_the_run_and_nothing_is_perhaps_charged(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with provider(lambda seen: Reply(407, "who are you")) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.base_url.removesuffix("/v1"))
        monkeypatch.setenv("HTTPS_PROXY", proxy.base_url.removesuffix("/v1"))
        for address in ("http://api.example/v1", "https://api.example/v1"):
            assert run(address, "--concurrency", "1", "--out", address.partition(":")[0]) == 4
        assert len(proxy.seen) == 2
    assert [open_run(name).manifest.perhaps_charged.requests for name in ("http", "https")] == [0, 0]
    assert "user and password" in capsys.readouterr().err


@pytest.mark.parametrize("encoding", ["br", "zstd", "gzip", "deflate"])
def test_a_reply_that_cannot_be_decoded_is_one_failure(encoding: str) -> None:
    def script(seen: Seen) -> Reply:
        return Reply(body=judged().body, headers={"content-encoding": encoding} if len(fake.seen) == 2 else {})

    with provider(script) as fake:
        assert run(fake.base_url, "--concurrency", "1") == 5
        assert len(fake.seen) == 4
    (failure,) = open_run("r").failures()
    assert "cannot be decoded as" in failure.message
    assert failure.attempts == 1


@pytest.mark.parametrize("concurrency", ["1", "4"])
@pytest.mark.parametrize("looks", [True, False])
def test_a_reply_that_comes_twice_is_nobody_elses_label(
    concurrency: str, looks: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not looks:  # what came in the very moment at which a connection is taken up again is seen by its name alone
        monkeypatch.setattr(transport, "_is_readable", lambda _: False)

    def script(seen: Seen) -> Reply:
        return Reply(body=chat(json.dumps({"rationale": seen.prompt[-60:], "label": "exposed"})), fault="twice")

    with provider(script) as fake:
        assert run(fake.base_url, "--sample", "40", "--concurrency", concurrency) == 0
        prompts = {seen.prompt[-60:] for seen in fake.seen}
    labels = open_run("r").labels
    assert len(set(labels["rationale"])) == len(labels) == len(prompts) == 40


def test_a_server_whose_replies_all_have_one_name_is_believed(tmp_path: Path) -> None:
    same = Reply(body=json.dumps(judged().body))
    with provider(lambda seen: same) as fake:
        assert run(fake.base_url, "--concurrency", "1") == 0
        assert len(fake.seen) == 5  # the second was asked for again, over a new connection


def test_a_low_limit_of_open_files_is_raised_where_the_system_allows_it() -> None:
    """As on macOS, where it is 256."""
    with provider(lambda seen: Reply(body=judged().body, delay=2.0 if len(fake.seen) > 1 else 0.0)) as fake:
        words = ["--base-url", fake.base_url, "--tasks", "sample", "--setting", "strict", "--concurrency", "100"]
        words += ["--out", "r", "--quiet"]
        line = 'ulimit -S -n 48; exec "$0" -m relabel run --model m "$@"'
        done = subprocess.run(["bash", "-c", line, sys.executable, *words], capture_output=True, text=True, check=False)
        assert fake.most_at_once > 48
    assert done.returncode == 0, done.stderr


def test_a_tilde_in_a_variable_is_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    monkeypatch.setenv("RELABEL_HOME", "~/labels")  # as a .env or YAML file gives it, without a shell
    monkeypatch.delenv("RELABEL_STORE", raising=False)
    with provider(lambda seen: judged()) as fake:
        assert run(fake.base_url) == 0
    assert (tmp_path / "me" / "labels" / "store" / "cache.db").exists()
    assert not Path("~").exists()


def test_a_variable_in_the_path_of_the_store_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    monkeypatch.setenv("RELABEL_STORE", "$HOME/labels")
    with provider(lambda seen: judged()) as fake:
        assert run(fake.base_url) == 3
        assert fake.seen == []
    assert "$HOME/labels has a variable in its path; write the path in full" in capsys.readouterr().err
    assert not Path("$HOME").exists()


def test_a_store_below_a_file_is_no_empty_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.delenv("RELABEL_STORE", raising=False)
    monkeypatch.setenv("RELABEL_HOME", str(tmp_path / "file"))
    assert run_app(["store", "stats"]) == 3
    assert "(Not a directory)" in capsys.readouterr().err


def test_a_user_without_a_home_is_told_what_to_set(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def no_home(*_: object) -> str:
        raise RuntimeError("could not determine the home directory")

    monkeypatch.setattr(
        "platformdirs.user_data_dir", no_home
    )  # as in a container that is started with an unknown user id
    monkeypatch.delenv("RELABEL_HOME", raising=False)
    assert run("http://127.0.0.1:9/v1") == 2
    assert "could not determine the home directory); give a full path in RELABEL_HOME" in capsys.readouterr().err


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such limit")
def test_a_low_limit_of_open_files_costs_no_label() -> None:
    with provider(lambda seen: judged()) as fake:
        words = [
            *WORDS[:2],
            *WORDS[4:],
            "--model",
            "m",
            "--base-url",
            fake.base_url,
            "--price",
            "1/2",
            "--concurrency",
            "64",
        ]
        line = 'ulimit -n 64; exec "$0" -m relabel run "$@"'
        done = subprocess.run(["bash", "-c", line, sys.executable, *words], capture_output=True, text=True, check=False)
    assert (done.returncode, "Traceback" in done.stderr) == (0, False), done.stderr
    assert open_run("r").manifest.counts.fresh == 60
