"""A soak: seeded schedules of faults, kills, two processes, packs, repeats, Responses and batches against a server that counts.

    python bench/soak.py --seeds 1-200
    python bench/soak.py --seeds 1-10 --ray

Each schedule starts real commands on one store, kills some of them, and ends with starts that are left alone. Then it asks: is every
answer that the server gave in the store, and was any question answered well more than once? What was on the wire when a process was killed
may be lost, and bought again. A line tells of each schedule with a fault, the last line of all.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import multiprocessing.connection
import os
import random
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from batch_server import Fate, batch_provider
from relabel.labelling.store import Store
from server import FakeProvider, Reply, Seen, chat, provider, refused, responses

SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGKILL, signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
ON_THE_WIRE_S = 0.5
"""An answer that was given so shortly before its process was killed may not have been read."""
LONGEST_S = 60.0
"""A start that takes longer hangs, which is a fault."""


@dataclass
class Given:
    """An answer that the server made."""

    reply_id: str
    question: str
    good: bool
    at: float
    by_batch: bool = False


@dataclass
class Tally:
    """What schedules came to."""

    starts: int = 0
    signals: int = 0
    requests: int = 0
    answers: int = 0
    on_the_wire: int = 0
    lost: int = 0
    twice: int = 0
    faults: list[str] = field(default_factory=list[str])

    def add(self, other: Tally) -> None:
        """Take another schedule's figures in."""
        for name in ("starts", "signals", "requests", "answers", "on_the_wire", "lost", "twice"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.faults += other.faults

    def __str__(self) -> str:
        said = f"{self.starts:,} starts, {self.signals:,} signals, {self.requests:,} requests, {self.answers:,} answers"
        return f"{said}, {self.on_the_wire:,} on the wire of a killed process, {self.lost:,} lost, {self.twice:,} bought twice"


def _child(words: list[str], environment: dict[str, str], log: str, begun: Any) -> None:
    """A start, in a process of its own that has everything imported."""
    from relabel.cli.app import run_app
    from relabel.labelling import leases, provider_errors, runner
    from relabel.labelling.batch import state

    signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # a soak in the background would ignore it, and so would its children
    os.environ.update(environment)
    os.chdir(environment["RELABEL_HOME"])
    with Path(log).open("a", encoding="utf-8") as out:
        os.dup2(out.fileno(), 1)
        os.dup2(out.fileno(), 2)
    (leases.Leases.__init__.__kwdefaults__ or {})["beat_s"] = 0.2
    leases.LOOK_AGAIN_S = 0.05
    state.POLL_S = runner.PAUSE_S = 0.02
    provider_errors.LONGEST_PAUSE_S = 0.05
    print("$", *words, flush=True)
    try:
        begun.set()
        code = run_app(words)
    except KeyboardInterrupt:  # on the line before the command
        code = 130
    sys.stdout.flush()
    os._exit(code)


class Schedule:
    """One seed: a server, a home, and what happens to them."""

    def __init__(self, seed: int, home: Path, keep_log: Path | None, ray: bool = False) -> None:
        self.chance = random.Random(seed)
        self.ray = ray
        self.home, self.log = home, keep_log or home / "log.txt"
        self.tally = Tally()
        self.api = self.chance.choice(["chat", "chat", "responses"])
        self.faults = self.chance.random() * 0.5
        self.given: list[Given] = []
        self.made: dict[int, Given] = {}
        self.running: dict[Any, float] = {}
        self.killed: dict[Any, float] = {}
        self.deaths: list[tuple[float, float]] = []
        self.begun: dict[Any, Any] = {}
        self.told: set[Any] = set()
        self.turn = 0
        self.act_at: set[int] = set()
        self.lock = threading.Lock()
        self.calm = False

    # The server's side.

    def answer(self, seen: Seen) -> Reply:
        """What a request gets."""
        with self.lock:
            self.turn += 1
            if self.turn in self.act_at:
                self.kill_one()
            chance = self.chance
            kind = "good" if self.calm or chance.random() > self.faults else chance.choice(list(FAULTS))
            delay = 0.0 if self.calm else chance.random() * 0.05
        if kind in ERRORS:
            return replace(ERRORS[kind], delay=delay)
        content = BAD.get(kind, json.dumps({"rationale": f"Because of {len(seen.prompt)}.", "label": "exposed"}))
        by_batch = not seen.headers
        made = Given(
            f"r-{self.turn}", json.dumps(seen.messages[:2]), kind == "good", time.monotonic() + delay, by_batch
        )
        if seen.path.endswith("/responses"):
            body = responses(content, **({"refusal": "I will not."} if kind == "refusal" else {}))
        else:
            body = chat(content, **({"refusal": "I will not."} if kind == "refusal" else {}))
        with self.lock:
            self.made[id(seen)] = made
            if by_batch:
                self.given.append(made)
        return Reply(body=body | {"id": made.reply_id}, delay=delay)

    def trouble(self, call: Any) -> Reply | str | None:
        """What goes wrong with a call of the Batch API."""
        with self.lock:
            if self.calm or self.chance.random() > self.faults / 3:
                return None
            if call.path.endswith("/content"):
                return self.chance.choice(["cut", refused(503)])
            return self.chance.choice(["lost", refused(500), refused(429)])

    # What happens.

    def start(self, *words: str) -> Any:
        """Start a command."""
        environment = {
            "RELABEL_HOME": str(self.home),
            "OPENAI_API_KEY": "sk-soak-0123456789abcdef",
            "RELABEL_STORE": "",
            "NO_PROXY": "127.0.0.1",
        }
        begun = CONTEXT.Event()
        process = CONTEXT.Process(target=_child, args=(list(words), environment, str(self.log), begun))
        process.start()
        self.tally.starts += 1
        self.begun[process] = begun
        self.running[process] = time.monotonic()
        return process

    def kill_one(self) -> None:
        """Send a signal to something that runs."""
        alive = [process for process in list(self.running) if process.is_alive()]  # another thread takes them out
        if alive:
            number = self.chance.choice(SIGNALS)
            process = self.chance.choice(alive)
            if number == signal.SIGINT:  # before the command begins, Ctrl-C meets this script and not relabel
                self.begun[process].wait(LONGEST_S)
            self.tally.signals += 1
            if number == signal.SIGKILL or process in self.told:  # a second one makes it leave at once
                self.killed.setdefault(process, time.monotonic())
            self.told.add(process)
            with suppress(ProcessLookupError):
                os.kill(process.pid, number)

    def wait(self, *processes: Any) -> list[int]:
        """Wait for commands; their exit codes."""
        codes: list[int] = []
        ends = time.monotonic() + LONGEST_S
        alive = {process.sentinel: process for process in processes}
        while alive and time.monotonic() < ends:
            for sentinel in multiprocessing.connection.wait(list(alive), ends - time.monotonic()):
                if (killed := self.killed.pop(alive.pop(sentinel), None)) is not None:
                    self.deaths.append((killed, time.monotonic()))
        for process in processes:
            process.join(0 if alive else None)
            if process.is_alive():
                self.tally.faults.append("a start hangs")
                process.kill()
                process.join()
            codes.append(process.exitcode)
            self.running.pop(process)
            code = process.exitcode
            if not (code < 0 or code in {0, 4, 5, 130} or (code == 3 and not self.calm)):
                self.tally.faults.append(f"exit code {code}")
        return codes

    def run_words(self, folder: str, url: str, tasks: int, engine: str) -> list[str]:
        """A run."""
        words = [
            "run",
            "--model",
            "m",
            "--base-url",
            url,
            "--api",
            self.api,
            "--tasks",
            "sample",
            "--sample",
            str(tasks),
        ]
        words += ["--out", folder, "--engine", engine, "--log-json"]
        if self.chance.random() < 0.5:
            words += ["--response-format", "json_schema"]
        if engine == "ray":
            words += ["--workers", "1"]
        return words + (["--concurrency", str(self.chance.choice([1, 2, 4, 8]))] if engine == "online" else [])

    def play(self) -> None:
        """The whole schedule."""
        chance = self.chance
        with ExitStack() as opened:
            fake = opened.enter_context(provider(self.answer))
            fates = [
                Fate(
                    status=chance.choice(["completed", "completed", "expired"]),
                    answered=chance.choice([None, None, 3]),
                    looks=chance.choice([1, 2, 5]),
                    backwards=chance.random() < 0.3,
                    late=chance.choice([0, 0, 2]),
                )
                for _ in range(8)
            ]
            batches = opened.enter_context(batch_provider(self.answer, *fates, Fate()))
            batches.trouble = self.trouble
            url = opened.enter_context(front(fake.base_url, batches.base_url))
            tasks, other_tasks = chance.choice([4, 8, 12]), chance.choice([4, 8, 12])
            engines = chance.choice([["online"], ["online"], ["online", "batch"], ["batch"]])
            if self.ray:  # the online engine takes over what a killed cluster leaves
                engines = ["ray", "ray", "online"]
            two = chance.random() < 0.4
            for _ in range(chance.randrange(1, 4)):
                self.act_at = {self.turn + chance.randrange(1, 30) for _ in range(chance.choice([0, 1, 1, 2]))}
                processes = [self.start(*self.run_words("a", url, tasks, chance.choice(engines)))]
                if two:
                    processes.append(self.start(*self.run_words("b", url, other_tasks, chance.choice(engines))))
                if chance.random() < 0.2:
                    time.sleep(chance.random() * 1.5)
                    with self.lock:
                        self.kill_one()
                self.wait(*processes)
                if chance.random() < 0.3:
                    self.wait(self.start("store", "pack", "pack.gz"), self.start("store", "verify"))
                if chance.random() < 0.3 and (self.home / "pack.gz").exists():
                    self.wait(self.start("store", "unpack", "pack.gz"))
            self.calm, self.act_at = True, set()
            self.end(url, {"a": tasks, "b": other_tasks} if two else {"a": tasks}, engines)
            self.reckon(fake)

    def end(self, url: str, folders: dict[str, int], engines: list[str]) -> None:
        """Starts that are left alone, until all is there; one more buys nothing."""
        for _ in range(5):
            for path in sorted((self.home / "batches").glob("*/state.json")):
                self.wait(self.start("batch", "resume", path.parent.name))
            codes = [self.wait(self.start(*self.run_words(f, url, n, engines[-1]))) for f, n in folders.items()]
            if all(code == [0] for code in codes):
                break
        else:
            self.tally.faults.append("labels are missing at the end")
        before = self.turn
        for folder, tasks in folders.items():
            self.wait(self.start(*self.run_words(folder, url, tasks, engines[-1])))
        self.wait(self.start("store", "verify"))
        if self.turn != before:
            self.tally.faults.append("a complete run asks again")

    def reckon(self, fake: FakeProvider) -> None:
        """Compare what was given with what is there."""
        self.tally.requests = self.turn
        self.given += [self.made[id(seen)] for seen in fake.answered if id(seen) in self.made]
        there: set[str] = set()
        with Store(self.home / "store", read_only=True) as store:
            for _, row in store.answers():
                there.add(str(row.answer.raw.get("id")))
            self.tally.faults += [f"verify: {fault}" for fault in store.verify()]
        good: Counter[str] = Counter()
        for made in self.given:
            # On a busy machine a process takes a while to die, or to leave at once, and answers come to it meanwhile.
            killed = any(begin - ON_THE_WIRE_S < made.at < end + ON_THE_WIRE_S for begin, end in self.deaths)
            on_wire = not made.by_batch and killed
            self.tally.answers += 1
            if made.reply_id not in there:
                self.tally.on_the_wire += on_wire
                self.tally.lost += not on_wire
                if not on_wire:
                    self.tally.faults.append(f"lost {made.reply_id}: {made.question[-120:]}")
                continue
            good[made.question] += made.good
        for question, count in good.items():
            self.tally.twice += count - 1 if count > 1 else 0
            if count > 1:
                self.tally.faults.append(f"bought {count} times: {question[-120:]}")


ERRORS: dict[str, Reply] = {
    "busy": refused(429, "slow down", None, **{"retry-after": "0.05"}),
    "ill": refused(500, "oops"),
    "drop": Reply(fault="drop"),
    "too long": refused(413, "too long"),
}
BAD: dict[str, str | None] = {
    "prose": "Sure! The label is exposed.",
    "wrong label": '{"rationale": "x", "label": "E1"}',
    "refusal": None,
    "empty": "",
}
FAULTS = [*ERRORS, *BAD]
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    [
        "relabel.cli.app",
        "relabel.cli._labelling",
        "relabel.cli.run",
        "relabel.labelling.batch.runner",
    ]
)


@contextmanager
def front(online: str, batches: str) -> Generator[str]:
    """One address for both servers, as a provider has: requests are hashed with it."""
    ready, loop, stop = threading.Event(), asyncio.new_event_loop(), asyncio.Event()
    url: list[str] = []

    async def pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        with suppress(OSError):
            writer.close()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            first = await reader.readuntil(b"\r\n")
            chosen = batches if b" /v1/files" in first or b" /v1/batches" in first else online
            port = int(chosen.split(":")[2].split("/")[0])
            behind, ahead = await asyncio.open_connection("127.0.0.1", port)
            ahead.write(first)
            await asyncio.gather(pipe(reader, ahead), pipe(behind, writer))
        writer.close()

    async def serve() -> None:
        server = await asyncio.start_server(connected, "127.0.0.1", 0)
        url.append(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1")
        ready.set()
        await stop.wait()
        server.close()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()), daemon=True)
    thread.start()
    ready.wait(10)
    try:
        yield url[0]
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(10)
        loop.close()


def soak(seeds: range, log: Path | None = None, say: Callable[[str], None] = print, ray: bool = False) -> Tally:
    """Play schedules, and say which have a fault."""
    whole = Tally()
    for seed in seeds:
        with tempfile.TemporaryDirectory() as home:
            schedule = Schedule(seed, Path(home), log, ray)
            schedule.play()
            if schedule.tally.faults:
                say(f"seed {seed}: {schedule.tally}")
                for fault in schedule.tally.faults[:5]:
                    say(f"    {fault}")
                if log is None:  # the fault may not come again, so that its cause is to be found here
                    say(schedule.log.read_text(encoding="utf-8", errors="replace")[-20_000:])
            whole.add(schedule.tally)
        if seed % 100 == 0:
            print(f"to seed {seed}: {whole}", file=sys.stderr, flush=True)
    return whole


def main() -> None:
    """Play the schedules of a range of seeds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="1-20", help="the first and the last seed")
    parser.add_argument("--log", type=Path, help="keep what the commands print in this file")
    parser.add_argument("--ray", action="store_true", help="most starts go through a Ray cluster of their own")
    given = parser.parse_args()
    first, _, last = given.seeds.partition("-")
    started = time.monotonic()
    whole = soak(range(int(first), int(last or first) + 1), given.log, ray=given.ray)
    print(f"seeds {given.seeds}: {whole}; {time.monotonic() - started:.0f} s")
    sys.exit(bool(whole.faults or whole.lost or whole.twice))


if __name__ == "__main__":
    main()
