from __future__ import annotations

import gc
import itertools
import os
import signal
import sys
from pathlib import Path

import pytest
from hypothesis import settings

from relabel.redaction import forget

# No test asserts a time, hypothesis' own neither.
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")

# Each worker has a processor: more threads of a library would only wait for each other. Set before any library is loaded.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

# A shell that starts the tests in the background has Ctrl-C ignored, also by the commands that tests start and interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Tests are kept as pytest rewrites them, also where the environment forbids it: each worker would otherwise do it anew.
sys.dont_write_bytecode = False

NUMBERS = itertools.count()
MIRROR = os.environ.get("RELABEL_DATA_MIRROR", "")
SLOW = {
    "test_batch_kill",
    "test_consent",
    "test_eval_beside",
    "test_eval_ppi",
    "test_interruption",
    "test_leases",
    "test_ledger_property",
    "test_local",
    "test_multiverse",
    "test_ray_cluster",
    "test_report_in_browser",
    "test_score_us",
    "test_site_browser",
    "test_soak",
    "test_uncertainty",
}
"""Modules of which nearly every test takes long; single tests elsewhere carry the mark themselves."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.stem in SLOW:
            item.add_marker(pytest.mark.slow)
    if MIRROR and Path(MIRROR).is_dir():
        return
    reason = "needs the real data files: set RELABEL_DATA_MIRROR to a folder that holds them"
    for item in items:
        if item.get_closest_marker("mirror"):
            item.add_marker(pytest.mark.skip(reason=reason))


def pytest_collection_finish() -> None:
    gc.freeze()  # what was collected stays to the end: no need to look through it again and again


@pytest.fixture(scope="session")
def shared_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One for all tests and workers: what has been read of the real workbooks is kept there by the checksum of its file."""
    base = tmp_path_factory.getbasetemp()
    home = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "shared"
    (home / "data" / ".tables").mkdir(mode=0o700, parents=True, exist_ok=True)
    return home


@pytest.fixture(autouse=True)
def _own_home(
    tmp_path_factory: pytest.TempPathFactory,
    shared_home: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    """No test sees the user's store, key or provider, or another test's secrets; nor real data that it does not ask for."""
    forget()
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "RELABEL_STORE"):
        monkeypatch.delenv(name, raising=False)
    if request.node.get_closest_marker(
        "local_model"
    ):  # the weights are fetched once for all tests, the store is not shared
        monkeypatch.setenv("RELABEL_STORE", str(tmp_path_factory.mktemp("store") / "store"))
        return
    # `mktemp` would look through all that it made before.
    home = tmp_path_factory.getbasetemp() / "homes" / str(next(NUMBERS))
    home.mkdir(mode=0o700, parents=True)
    monkeypatch.setenv("RELABEL_HOME", str(home))
    monkeypatch.delenv("COLUMNS", raising=False)  # tables look as in a pipe, whatever the terminal of the tests is
    if request.node.get_closest_marker("mirror"):
        (home / "data").mkdir(mode=0o700)
        (home / "data" / ".tables").symlink_to(shared_home / "data" / ".tables", target_is_directory=True)
    else:
        monkeypatch.delenv("RELABEL_DATA_MIRROR", raising=False)
