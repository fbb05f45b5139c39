from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import pytest
from source_builders import Publisher, Workshop

from relabel.sources import bls, eloundou, onet, ons

Read = Callable[[Callable[[], pd.DataFrame]], pd.DataFrame]


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


@pytest.fixture(scope="session")
def read(shared_home: Path) -> Read:
    """Reads a real file in the home that tests share: the coding index alone takes seconds."""

    def once(reader: Callable[[], pd.DataFrame]) -> pd.DataFrame:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("RELABEL_HOME", str(shared_home))
            return reader()

    return once


@pytest.fixture(scope="session")
def coding_index(read: Read) -> pd.DataFrame:
    return read(ons.read_coding_index)


@pytest.fixture(scope="session")
def ashe(read: Read) -> pd.DataFrame:
    return read(ons.read_ashe)


@pytest.fixture(scope="session")
def tasks(read: Read) -> pd.DataFrame:
    return read(onet.read_tasks)


@pytest.fixture(scope="session")
def labels(read: Read) -> pd.DataFrame:
    return read(eloundou.read_labels)


@pytest.fixture(scope="session")
def wages(read: Read) -> pd.DataFrame:
    return read(bls.read_wages)
