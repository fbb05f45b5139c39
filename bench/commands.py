"""Whole commands, as people wait for them: `make bench`, or `python bench/commands.py [--against DIR] [--only a,start]`.

Labelling runs against a mock provider on loopback, beside a bare aiohttp loop and a bare openai loop that store nothing; scoring,
evaluation and pages are measured on the labels of 2023 where RELABEL_DATA_MIRROR has them. With --against, each measurement is taken in
turn with another checkout of relabel under the same Python. Each is a process of its own; medians are printed. With --peers, curator and
instructor label the same questions, each from an environment that it is installed into by hand (CURATOR_PYTHON, INSTRUCTOR_PYTHON).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
HANGING = 0.01
"""Share of requests that are never answered in `tails`."""
KILLED_AFTER = 1000
"""Answers after which `kill` strikes."""
GPT4 = "eloundou-2023:gpt4"


@dataclass(frozen=True)
class Taken:
    """What a command took: seconds, MB at its peak, and what its standard output said."""

    seconds: float
    mb: float
    said: str = ""


class Mock:
    """The mock provider in a process of its own."""

    def __init__(self, latency: float, hanging: float = 0.0) -> None:
        command = [sys.executable, str(HERE / "mock_server.py"), str(latency), str(hanging)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self.address = f"http://127.0.0.1:{int(self._process.stdout.readline())}"
        self.base_url = f"{self.address}/v1"

    def __enter__(self) -> Mock:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()

    @property
    def answered(self) -> int:
        """Answers that were sent so far."""
        with urllib.request.urlopen(f"{self.address}/answered") as reply:
            return json.loads(reply.read())["answered"]


class Checkout:
    """A checkout of relabel, with a home of its own for each measurement."""

    def __init__(self, source: Path) -> None:
        self.source = source

    def environment(self, home: Path) -> dict[str, str]:
        own = {"PYTHONPATH": str(self.source), "RELABEL_HOME": str(home), "OPENAI_API_KEY": "none"}
        return {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"} | own

    def run(self, home: Path, *words: str, code: int = 0) -> Taken:
        """Run a command to its end."""
        command = [sys.executable, "-m", "relabel", *words]
        return taken(command, home, self.environment(home), code)


def taken(command: Sequence[str], folder: Path, environment: dict[str, str] | None = None, code: int = 0) -> Taken:
    """Run a process; its peak of memory is that of this child alone."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        began = time.perf_counter()
        child = subprocess.Popen(command, cwd=folder, env=environment, stdout=out, stderr=err)
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.perf_counter() - began
        out.seek(0)
        err.seek(0)
        if child.returncode != code:
            raise SystemExit(f"{' '.join(command)} ended with {child.returncode}: {err.read()[-500:]}")
        return Taken(seconds, usage.ru_maxrss / 1024, out.read())


def task_file(folder: Path, count: int) -> str:
    """A list of made-up tasks of usual length."""
    text = (
        "Prepare reports number {} on activities and results for managers or public offices and keep records of them."
    )
    lines = [f"{n},11-{1000 + n // 20}.00,Managers of Many Things,{text.format(n)}" for n in range(count)]
    path = folder / f"tasks-{count}.csv"
    path.write_text("task_id,onet_soc_code,title,text\n" + "\n".join(lines) + "\n")
    return str(path)


def labelling(of: Checkout, home: Path, labels: int, concurrency: int, mock: Mock) -> list[str]:
    """The words of a run of so many labels."""
    return [
        *("run", "--model", "mock", "--base-url", mock.base_url, "--tasks", task_file(home, labels // 2), "--yes"),
        *("--concurrency", str(concurrency), "--out", "run", "--quiet"),
    ]


def fresh(labels: int, concurrency: int, latency: float, hanging: float = 0.0) -> Callable[[Checkout], Taken]:
    """A run from an empty store."""

    def measure(of: Checkout) -> Taken:
        with Mock(latency, hanging) as mock, tempfile.TemporaryDirectory() as folder:
            home = Path(folder)
            return of.run(home, *labelling(of, home, labels, concurrency, mock))

    return measure


def warm(labels: int) -> Callable[[Checkout], Taken]:
    """The same run again, of which the store has every answer."""

    def measure(of: Checkout) -> Taken:
        with Mock(0.005) as mock, tempfile.TemporaryDirectory() as folder:
            home = Path(folder)
            words = labelling(of, home, labels, 64, mock)
            of.run(home, *words)
            return of.run(home, *words)

    return measure


def on_2023(*words: str) -> Callable[[Checkout], Taken]:
    """A command on the labels of 2023, once its sources have been read by an earlier one."""

    def measure(of: Checkout) -> Taken:
        with tempfile.TemporaryDirectory() as folder:
            of.run(Path(folder), "explain", GPT4, "1121", "--json")
            return of.run(Path(folder), *words)

    return measure


def pages(of: Checkout) -> Taken:
    """Pages of an export."""
    with tempfile.TemporaryDirectory() as folder:
        of.run(Path(folder), "export", GPT4, "--out", "export")
        return of.run(Path(folder), "site", "export", "--out", "site")


def killed(of: Checkout) -> Taken:
    """Answers that a SIGKILL loses: those that the server sent and the store does not have."""
    with Mock(0.05) as mock, tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        words = [sys.executable, "-m", "relabel", *labelling(of, home, 20_000, 64, mock)]
        with (home / "log").open("w") as log:
            child = subprocess.Popen(words, cwd=home, env=of.environment(home), stdout=log, stderr=log)
            while mock.answered < KILLED_AFTER and child.poll() is None:
                time.sleep(0.01)
            with suppress(ProcessLookupError):
                child.send_signal(signal.SIGKILL)
            child.wait()
        sent = mock.answered
        kept = json.loads(of.run(home, "store", "stats", "--json").said)["answers"]
        return Taken(float(sent - kept), 0, f"of {sent:,} answers")


MEASURES: dict[str, tuple[str, Callable[[Checkout], Taken]]] = {
    "a": ("2,000 labels, 64 x 200 ms", fresh(2000, 64, 0.2)),
    "b": ("4,000 labels, 256 x 50 ms", fresh(4000, 256, 0.05)),
    "start": ("1 stored label of a setting (2 labels)", warm(2)),
    "warm": ("2,000 stored labels", warm(2000)),
    "warm-all": ("37,592 stored labels", warm(37_592)),
    "tails": ("as a, 1 % of requests hang", fresh(2000, 64, 0.2, HANGING)),
    "kill": ("answers lost by SIGKILL", killed),
    "score": ("score --draws 1000", on_2023("score", GPT4, "--draws", "1000", "--json")),
    "eval": ("eval", on_2023("eval", GPT4, "--json")),
    "export": ("export", on_2023("export", GPT4, "--out", "export")),
    "site": ("site", pages),
    "explain": ("explain 1121", on_2023("explain", GPT4, "1121", "--json")),
}
SLOW = {"warm-all"}
NEEDS_DATA = {"score", "eval", "export", "site", "explain"}
IDEAL = {"a": 2000 * 0.2 / 64, "b": 4000 * 0.05 / 256}
BARE = {"a": (2000, 64, 0.2), "b": (4000, 256, 0.05)}


def body() -> dict[str, object]:
    """A request as large as relabel's."""
    question = "A task is exposed when the help described below would let an experienced worker finish it sooner. " * 40
    messages = [{"role": "system", "content": question}, {"role": "user", "content": "Task: Prepare reports."}]
    return {"model": "mock", "messages": messages}


async def bare(kind: str, base_url: str, count: int, concurrency: int) -> None:
    """The plain loop that people write; nothing is stored."""
    numbers = iter(range(count))

    async def work(ask: Callable[[], object]) -> None:
        async def one() -> None:
            for _ in numbers:
                await ask()  # pyright: ignore[reportGeneralTypeIssues]  # a coroutine function

        await asyncio.gather(*(one() for _ in range(concurrency)))

    if kind == "openai":
        import openai

        async with openai.AsyncOpenAI(api_key="none", base_url=base_url, max_retries=0) as client:
            await work(lambda: client.chat.completions.create(**body()))  # pyright: ignore[reportCallIssue, reportArgumentType]  a request as a plain dictionary
    else:
        import aiohttp

        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=concurrency)) as session:

            async def ask() -> None:
                async with session.post(f"{base_url}/chat/completions", json=body()) as reply:
                    json.loads(json.loads(await reply.read())["choices"][0]["message"]["content"])

            await work(ask)


def loop(kind: str, count: int, concurrency: int, latency: float) -> Taken:
    """A bare loop as a whole process."""
    with Mock(latency) as mock, tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, __file__, f"--bare={kind}", mock.base_url, str(count), str(concurrency)]
        return taken(command, Path(folder))


PEERS = {"curator": "CURATOR_PYTHON", "instructor": "INSTRUCTOR_PYTHON"}
PEER_PROGRAM = {
    "instructor": """
import asyncio, sys
import instructor, openai, pydantic
class Answer(pydantic.BaseModel):
    rationale: str
    label: str
async def main(url, count, concurrency):
    client = instructor.from_openai(openai.AsyncOpenAI(api_key="none", base_url=url), mode=instructor.Mode.JSON_SCHEMA)
    numbers = iter(range(count))
    async def one():
        for n in numbers:
            await client.create(model="mock", response_model=Answer, messages=[{"role": "user", "content": f"Task {n}"}])
    await asyncio.gather(*(one() for _ in range(concurrency)))
asyncio.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
""",
    "curator": """
import sys
from bespokelabs import curator
url, count, concurrency = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
unlimited = {"max_requests_per_minute": 10**9, "max_tokens_per_minute": 10**12}
params = {"base_url": url, "max_concurrent_requests": concurrency, **unlimited}
llm = curator.LLM(model_name="openai/mock", backend="litellm", backend_params=params)
llm([f"Task {n}" for n in range(count)])
""",
}


def peer(name: str, count: int, concurrency: int, latency: float) -> Taken | None:
    """The same number of questions by another tool; None where it is not installed."""
    python = os.environ.get(PEERS[name])
    if python is None:
        return None
    with Mock(latency) as mock, tempfile.TemporaryDirectory() as folder:
        command = [python, "-c", PEER_PROGRAM[name], mock.base_url, str(count), str(concurrency)]
        quiet = {"CURATOR_VIEWER": "0", "TELEMETRY_ENABLED": "false", "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
        ours = {"OPENAI_API_KEY": "none", "CURATOR_CACHE_DIR": folder}
        return taken(command, Path(folder), os.environ | quiet | ours)


def show(name: str, ours: list[Taken], theirs: list[Taken], loops: dict[str, list[Taken]]) -> None:
    """Print one measurement."""
    unit = "lost" if name == "kill" else "s"
    seconds = statistics.median(one.seconds for one in ours)
    parts = [
        f"{seconds:.2f} {unit}" + (f" {ours[-1].said}" if name == "kill" else f", {max(o.mb for o in ours):.0f} MB")
    ]
    if name in IDEAL:
        parts.append(f"{seconds / IDEAL[name]:.2f} x ideal")
    for kind, results in loops.items():
        parts.append(f"{seconds / statistics.median(one.seconds for one in results):.2f} x {kind}")
    if theirs:
        before = statistics.median(one.seconds for one in theirs)
        of = f" ({seconds / before:.2f} of it)" if before and name != "kill" else ""
        parts.append(f"the other checkout {before:.2f} {unit}{of}")
    print(f"{name:<9}{MEASURES[name][0]:<40}{'; '.join(parts)}", flush=True)


def main() -> None:
    """Measure and print."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--against", type=Path, metavar="DIR", help="another checkout of relabel")
    options.add_argument("--only", default="", help=f"some of {', '.join(MEASURES)}, separated by commas")
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--peers", action="store_true", help="curator and instructor too")
    options.add_argument("--bare", help=argparse.SUPPRESS)
    options.add_argument("rest", nargs="*", help=argparse.SUPPRESS)
    given = options.parse_args()
    if given.bare:
        asyncio.run(bare(given.bare, given.rest[0], int(given.rest[1]), int(given.rest[2])))
        return
    here = Checkout(HERE.parent / "src")
    other = Checkout(given.against.resolve() / "src") if given.against else None
    for name in given.only.split(",") if given.only else [name for name in MEASURES if name not in SLOW]:
        if name in NEEDS_DATA and "RELABEL_DATA_MIRROR" not in os.environ:
            print(
                f"{name:<9}{MEASURES[name][0]:<40}left out: set RELABEL_DATA_MIRROR to a folder with the source files"
            )
            continue
        ours, theirs, loops = [], [], {}
        for _ in range(given.rounds):
            ours.append(MEASURES[name][1](here))
            if other is not None:
                theirs.append(MEASURES[name][1](other))
            for kind in ("aiohttp", "openai") if name in BARE else ():
                loops.setdefault(kind, []).append(loop(kind, *BARE[name]))
            for kind in PEERS if given.peers and name in BARE else ():
                if (result := peer(kind, *BARE[name])) is not None:
                    loops.setdefault(kind, []).append(result)
        show(name, ours, theirs, loops)


if __name__ == "__main__":
    main()
