"""Where a price comes from, and what it makes of tokens."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import genai_prices
import pytest
from genai_prices import calc_price

from relabel.cli.app import run_app
from relabel.errors import DataError
from relabel.labelling.providers import Price, find_price, given_price
from relabel.labels import Usage

OWN = """
[[price]]
model = "gpt-4o-mini"
host = "api.example.org"
input = 7.0
output = 9.0
as_of = "2026-11-01"
source = "a contract"

[[price]]
model = "mine"
input = 1.0
cached = 0.5
output = 2.0
as_of = "2026-11-02"
source = "my own"
"""


@pytest.fixture
def own_prices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "prices.toml"
    path.write_text(OWN)
    monkeypatch.setenv("RELABEL_PRICES", str(path))
    return path


def test_cached_tokens_have_their_own_price() -> None:
    price = Price(input=10, cached=1, output=100, source="x")
    assert price.cost(Usage(prompt=1000, cached=400, completion=10)) == pytest.approx((6000 + 400 + 1000) / 1e6)
    assert price.cost(Usage(prompt=10, cached=400)) == pytest.approx(400 / 1e6)


def test_the_batch_price_is_half() -> None:
    half = Price(input=10, cached=1, output=100, source="x").halved()
    assert (half.input, half.cached, half.output) == (5, 0.5, 50)
    assert "batch" in half.source


def test_a_known_model_has_its_price_with_its_source() -> None:
    price = find_price("gpt-4o-mini", None)
    assert price is not None
    assert (price.input, price.cached, price.output) == pytest.approx((0.15, 0.075, 0.6))
    assert price.source.startswith("genai-prices ")


def test_a_price_that_depends_on_the_hour_is_taken_at_its_highest() -> None:
    def at(hour: int) -> float:
        when = datetime.now(UTC).replace(hour=hour)
        return float(
            calc_price(
                genai_prices.Usage(output_tokens=10**6), "deepseek-v4-pro", genai_request_timestamp=when
            ).total_price
        )

    price = find_price("deepseek-v4-pro", "https://api.deepseek.com")
    assert price is not None
    assert price.source.endswith(", at peak hours")
    assert price.output == pytest.approx(max(map(at, range(24)))) == pytest.approx(2 * min(map(at, range(24))))


def test_a_models_name_at_another_provider_has_no_price() -> None:
    assert find_price("gpt-4o-mini", "http://localhost:8000/v1") is None
    assert find_price("sonar", "https://api.perplexity.ai") is None, "a fee for each request is no price of tokens"


@pytest.mark.usefixtures("own_prices")
def test_the_users_own_prices_go_first() -> None:
    mine = find_price("mine", "http://localhost:8000/v1")
    assert mine == Price(input=1, cached=0.5, output=2, source="my own", as_of="2026-11-02")
    contract = find_price("gpt-4o-mini", "https://api.example.org/v1")
    assert contract is not None
    assert (contract.input, contract.cached) == (7, 7)
    elsewhere = find_price("gpt-4o-mini", None)
    assert elsewhere is not None
    assert elsewhere.input == pytest.approx(0.15)


@pytest.mark.parametrize(
    "text",
    [
        "[[price]\n",
        '[[price]]\nmodel = "x"\n',
        OWN.replace("input = 1.0", "input = -1.0"),
        OWN.replace("output = 2.0", 'output = "two"'),
        OWN.replace("output = 2.0", "output = inf"),
        OWN.replace("input = 1.0", "input = nan"),
        OWN + 'colour = "red"\n',
        "price = 5\n",
        "\x00",
    ],
)
def test_a_malformed_price_file_is_said_and_not_guessed_from(text: str, own_prices: Path) -> None:
    own_prices.write_text(text)
    with pytest.raises(DataError, match=r"prices\.toml (cannot be used|is not valid TOML)"):
        find_price("mine", None)


def test_a_price_file_that_is_not_there_is_exit_3(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RELABEL_PRICES", "nowhere.toml")
    assert run_app(["run", "--model", "m", "--tasks", "sample", "--dry-run"]) == 3
    assert "nowhere.toml cannot be read" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "found"), [("0.15/0.6", (0.15, 0.15, 0.6)), ("1/2/0.5", (1, 0.5, 2)), ("0/0", (0, 0, 0))]
)
def test_a_price_by_the_users_word(text: str, found: tuple[float, float, float]) -> None:
    price = given_price(text)
    assert (price.input, price.cached, price.output) == found
    assert price.source == "given with --price"
