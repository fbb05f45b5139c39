from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from source_builders import Publisher, Workshop

from relabel.sources import bls, eloundou, onet, ons


@pytest.fixture
def job_builders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workshop:
    shop = Workshop(tmp_path)
    monkeypatch.setenv("RELABEL_DATA_MIRROR", str(shop.mirror))
    monkeypatch.setenv("RELABEL_HOME", str(shop.home))
    monkeypatch.setenv("RELABEL_SOURCES", str(shop.registry))
    shop.registry.write_text("source = []\n", encoding="utf-8")
    return shop


@pytest.fixture
def publisher(monkeypatch: pytest.MonkeyPatch) -> Iterator[Publisher]:
    for variable in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    server = Publisher()
    yield server
    server.close()


# The real files are read once: the coding index alone takes seconds.
@pytest.fixture(scope="session")
def coding_index() -> pd.DataFrame:
    return ons.read_coding_index()


@pytest.fixture(scope="session")
def ashe() -> pd.DataFrame:
    return ons.read_ashe()


@pytest.fixture(scope="session")
def tasks() -> pd.DataFrame:
    return onet.read_tasks()


@pytest.fixture(scope="session")
def labels() -> pd.DataFrame:
    return eloundou.read_labels()


@pytest.fixture(scope="session")
def wages() -> pd.DataFrame:
    return bls.read_wages()
