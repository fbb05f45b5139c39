"""Long lives: a store of many answers is opened, read, verified, packed and pruned, with time and memory.

python bench/store.py --answers 1000000 [--folder DIR]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from relabel.labelling.request import Request
from relabel.labelling.store import Store
from relabel.labels import Answer, Usage

SYSTEM = "You judge tasks. " * 180
STEPS = {
    "open": ["store", "notes"],
    "stats": ["store", "stats"],
    "verify": ["store", "verify"],
    "pack": ["store", "pack", "all.gz"],
    "prune, dry run": ["store", "prune", "--before", "2026-06-01", "--dry-run"],
}


def fill(folder: Path, answers: int) -> None:
    """Write answers of the size that a run's have."""
    with Store(folder) as store:
        for first in range(0, answers, 5000):
            with store.writing_at_once():
                for number in range(first, min(first + 5000, answers)):
                    text = f"Task {number}: plan and direct the work of others, and report on what it came to."
                    messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": text}]
                    request = Request(host="h", body={"model": "m", "temperature": 0, "messages": messages})
                    content = json.dumps({"rationale": f"It needs judgement, {number} times over. " * 6, "label": "x"})
                    raw = {"id": f"c-{number}", "choices": [{"message": {"content": content}, "finish_reason": "stop"}]}
                    created = f"2026-{number % 12 + 1:02}-01T00:00:00.{number % 1000000:06}+00:00"
                    answer = Answer(
                        request_key=request.key,
                        content=content,
                        finish_reason="stop",
                        model_returned="m-1",
                        usage=Usage(prompt=900, cached=800, completion=60),
                        attempts=1,
                        latency_s=1.5,
                        created_at=created,
                        cost_usd=0.0001,
                        raw=raw,
                    )
                    store.put(request, answer)


def step(words: list[str], folder: Path) -> tuple[float, float]:
    """Seconds and MB at the peak of a command."""
    environment = {**os.environ, "RELABEL_STORE": str(folder / "store")}
    started = time.perf_counter()
    child = subprocess.Popen(
        [sys.executable, "-m", "relabel", *words], env=environment, cwd=folder, stdout=subprocess.DEVNULL
    )
    _, status, used = os.wait4(child.pid, 0)
    if status:
        raise SystemExit(f"{words} ended with {os.waitstatus_to_exitcode(status)}")
    return time.perf_counter() - started, used.ru_maxrss / 1024


def main() -> None:
    """Fill a store and print a line for each step."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--answers", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.folder) as made:
        folder = Path(made)
        started = time.perf_counter()
        fill(folder / "store", given.answers)
        size = sum(path.stat().st_size for path in (folder / "store").rglob("*") if path.is_file())
        took = time.perf_counter() - started
        print(f"{given.answers:,} answers, {size / 1e6:,.0f} MB, written in {took:.0f} s")
        for name, words in STEPS.items():
            seconds, most = step(words, folder)
            print(f"{name:15} {seconds:8.1f} s {most:8.0f} MB")


if __name__ == "__main__":
    main()
