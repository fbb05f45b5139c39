"""Standard output and standard error, and how results look there: sentences that fit the line, headings, tables, progress.

Secrets are removed from everything printed. A reader may close the pipe at any time, which does not change the exit code.
"""

from __future__ import annotations

import asyncio
import errno
import io
import json
import os
import re
import shlex
import shutil
import sys
import textwrap
import threading
import time
from collections.abc import AsyncGenerator, Generator, Iterable
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TextIO

import typer

from relabel import tabular
from relabel.redaction import masked, printable

if TYPE_CHECKING:
    from http.server import HTTPServer

    from rich.console import Console, Group, RenderableType
    from rich.text import Text

    from relabel.labelling.collector import Progress, RateEstimator
    from relabel.labelling.limits import Limiter

# Maximum width in columns, also used for pipes and files.
WIDTH = 100
_COMMAND = re.compile(r"^(\s*)(::|##\[)", re.MULTILINE)
_READER_GONE = {errno.EPIPE, errno.ECONNRESET, errno.ESHUTDOWN}


class _Raw(io.FileIO):
    """A stream that discards output once it can no longer be written."""

    # Why output was lost; None if the reader closed the pipe.
    failed: OSError | None = None

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError as error:
            hung_up = error.errno == errno.EIO and os.isatty(self.fileno())
            if error.errno not in _READER_GONE and not hung_up:
                self.failed = error
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.fileno())
            return len(data)


class _Stream(io.TextIOWrapper):
    """A wrapper of an output stream: removes secrets, escapes control characters and text that a CI runner takes for commands."""

    def write(self, text: str) -> int:
        return self.write_rendered(printable(masked(text)))

    def write_rendered(self, text: str) -> int:
        return super().write(_COMMAND.sub(r"\1\\\2", text))

    write_command = io.TextIOWrapper.write


class _Rendered:
    """A `_Stream` for our own console, which has cleaned its text before it adds colours and cursor moves."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        return getattr(self._stream, "write_rendered", self._stream.write)(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def open_streams() -> None:
    """Wrap standard output and standard error of this process."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed by the parent process
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115  for as long as the process lives
        elif type(raw := _raw_of(stream)) is io.FileIO:
            stream.flush()
            ours: Any = _Raw(raw.fileno(), "w", closefd=False)
            opened = _Stream(
                ours if stream.write_through else io.BufferedWriter(ours),
                stream.encoding,
                "backslashreplace",  # an encoding that lacks a character must not make a command fail
                line_buffering=stream.line_buffering or name == "stderr",
                write_through=stream.write_through,
            )
            setattr(sys, name, opened)


def _raw_of(stream: Any) -> Any:
    buffer = getattr(stream, "buffer", None)
    return getattr(buffer, "raw", buffer)


def lost_output() -> str:
    """Why printed results were lost, in a few words; empty if none were, or if the reader closed the pipe."""
    raw = _raw_of(sys.stdout)
    if isinstance(raw, _Raw):
        sys.stdout.flush()
        if raw.failed is not None:
            return os.strerror(raw.failed.errno or 0)
    return ""


# Seconds after which a command says what it is doing.
_SILENT_S = 1.0


@contextmanager
def doing(text: str) -> Generator[None]:
    """Say what is being done, on standard error and only on a terminal, when it takes more than a second.

    Args:
        text: In words, such as `scoring runs/a`.
    """
    timer = threading.Timer(_SILENT_S, typer.echo, [f"{text} ..."], {"err": True})
    timer.daemon = True
    if sys.stderr.isatty():
        timer.start()
    try:
        yield
    finally:
        timer.cancel()


def workflow_command(line: str) -> None:
    """Print a GitHub workflow command on standard error; no other output may look like one."""
    getattr(sys.stderr, "write_command", sys.stderr.write)(f"{printable(masked(line))}\n")


def make_console(*, stderr: bool = False, wide: bool = False) -> Console:
    """A console for tables and panels of `clean_text`, without markup and without highlighting of numbers.

    Args:
        stderr: Write to standard error.
        wide: Take all columns of the terminal, not `WIDTH` at most.
    """
    from rich.console import Console

    stream: Any = _Rendered(sys.stderr if stderr else sys.stdout)
    return Console(file=stream, highlight=False, markup=False, width=None if wide else _columns())


def clean_text(text: str, style: str = "") -> Text:
    """A text for a console, which bypasses the wrapped streams: without secrets, control characters escaped."""
    from rich.text import Text

    return Text(printable(masked(text)), style)


def _columns() -> int:
    return min(WIDTH, shutil.get_terminal_size((WIDTH, 24)).columns)


def wrapped(text: str, *, indent: int = 0, hang: int = 2) -> str:
    """Wrap a sentence; words, paths and codes are not split.

    Args:
        text: The sentence.
        indent: Columns in front of the first line.
        hang: Additional columns in front of each further line.
    """
    return textwrap.fill(
        " ".join(text.split()),
        _columns(),
        initial_indent=" " * indent,
        subsequent_indent=" " * (indent + hang),
        break_long_words=False,
        break_on_hyphens=False,
    )


def say(text: str, *, indent: int = 0, hang: int = 2, err: bool = False) -> None:
    """Print a sentence, wrapped."""
    typer.echo(wrapped(text, indent=indent, hang=hang), err=err)


def say_of(label: str, text: str, *, column: int) -> None:
    """Print a sentence after a label, with its lines aligned at a column."""
    typer.echo(f"{label:<{column}}{wrapped(text, indent=column, hang=0)[column:]}")


def quoted(word: Path | str) -> str:
    """A path or name as a shell reads it."""
    return shlex.quote(str(word))


def say_next(command: str) -> None:
    """Say on standard error which command comes next."""
    typer.echo(f"next: {command}", err=True)


def say_written(path: Path | str, more: str = "") -> None:
    """Say on standard error that a file was written."""
    typer.echo(f"written: {path}{more}", err=True)


def heading(text: str) -> None:
    """Print a heading after an empty line."""
    typer.echo()
    make_console().print(clean_text(wrapped(text), "bold"), soft_wrap=True)


def serve(server: HTTPServer) -> None:
    """Serve until Ctrl-C, the normal way to stop a local server."""
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        typer.echo("stopped")


def cut(text: str, most: int) -> str:
    """A text cut to a maximum length, with an ellipsis."""
    return text if len(text) <= most else text[: most - 3].rstrip() + "..."


# Columns whose texts are cut instead of wrapped, with their minimum width.
_CUT = {"title": 12, "task": 32, "occupation": 12, "group": 12}


class Table(tabular.Table):
    """A printable table: the first `left` columns are aligned left, the others (figures) right."""

    def show(self) -> None:
        """Print it with its title and notes."""
        if self.title:
            heading(self.title)
        console = make_console()
        console.print(self.drawn(console))
        for note in self.notes:
            say(note, indent=2, hang=0)

    def drawn(self, console: Console) -> RenderableType:
        """Its columns and rows for a console, which is widened if a figure would be cut."""
        from rich.box import SIMPLE_HEAD
        from rich.table import Table

        table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, collapse_padding=True)
        widths = self._widths(console.width)
        console.width = max(console.width, sum(widths) + 2 * (len(widths) - 1))
        for place, name in enumerate(self.columns):
            table.add_column(clean_text(name), justify="left" if place < self.left else "right", width=widths[place])
        for cells in self.rows:
            texts = [clean_text(tabular.cell_text(cell)) for cell in cells]
            for name, text in zip(self.columns, texts, strict=True):
                text.no_wrap, text.overflow = (True, "ellipsis") if name in _CUT else (None, None)
            table.add_row(*texts)
        return table

    def _widths(self, total: int) -> list[int]:
        """Widths of the columns of a table that is `total` wide, or wider if a figure would be cut."""
        columns = [
            [name, *(tabular.cell_text(cells[place]) for cells in self.rows)] for place, name in enumerate(self.columns)
        ]
        widths = [max(map(len, texts)) for texts in columns]
        least = [_CUT.get(texts[0]) or max(map(len, " ".join(texts).split()), default=0) for texts in columns]
        while sum(widths) + 2 * (len(widths) - 1) > total and any(map(int.__gt__, widths, least)):
            # Narrow the column in which this wraps the fewest texts; of several such columns, the widest.
            shrinkable = [place for place, width in enumerate(widths) if width > least[place]]
            wraps = {place: sum(len(text) >= widths[place] for text in columns[place]) for place in shrinkable}
            widths[min(shrinkable, key=lambda place: (wraps[place], -widths[place]))] -= 1
        return widths


def show_verdict(verdict: str, tables: Iterable[Table]) -> None:
    """Print a verdict, one sentence per line, and its tables."""
    heading("Verdict")
    for sentence in verdict.splitlines():
        say(sentence, indent=2, hang=0)
    for table in tables:
        table.show()


# Progress of a job: a live panel on a terminal, occasional plain lines elsewhere, or JSON events.

Look = Literal["people", "json", "quiet"]

# Seconds between estimates, lines if something has changed, lines if nothing has, updates of the panel, and JSON events.
_LOOK_EVERY_S = 1.0
_PLAIN_EVERY_S = 10.0
_AT_LEAST_EVERY_S = 60.0
_LIVE_EVERY_S = 0.25
_EVENT_EVERY_S = 2.0
# Requests in flight that the panel names, and the seconds from which it does.
_SLOWEST = 3
_SLOW_S = 5.0
# Seconds from which a pause is shown.
_WORTH_SAYING_S = 2.0
# Columns of the progress bar.
_BAR = 30


@asynccontextmanager
async def shown(progress: Progress, limiter: Limiter | None, *, look: Look = "people") -> AsyncGenerator[None]:
    """Show a job's progress for as long as the block lasts.

    Args:
        progress: The job's.
        limiter: Limits the requests in flight; None if relabel does not limit them.
        look: How it is shown.
    """
    if look == "quiet":
        yield
        return
    from relabel.labelling.collector import RateEstimator

    estimator = RateEstimator(progress, limiter)
    display = _events if look == "json" else _live if sys.stderr.isatty() else _plain
    showing = asyncio.create_task(display(estimator))
    try:
        yield
    finally:
        showing.cancel()
        await asyncio.wait({showing})
        if look == "json":
            _emit("end", estimator)


async def _live(estimator: RateEstimator) -> None:
    from rich.live import Live

    console = make_console(stderr=True, wide=True)
    with Live(panel(estimator), console=console, transient=True, auto_refresh=False) as live:
        while True:
            estimator.look()
            live.update(panel(estimator), refresh=True)
            await asyncio.sleep(_LIVE_EVERY_S)


def panel(estimator: RateEstimator) -> Group:
    """A job's progress as a few lines for a terminal."""
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.table import Column, Table

    progress, limiter = estimator.progress, estimator.limiter
    bar = Table.grid(Column(width=_BAR), "", padding=(0, 1))
    bar.add_row(ProgressBar(max(1, progress.asked), progress.done), f"{progress.done:,} of {progress.asked:,}")
    rate = "-" if estimator.rate is None else speed(estimator.rate)
    time_left = "-" if estimator.seconds_left is None else duration(estimator.seconds_left)
    counts = f"from store {progress.from_store:,}   fresh {progress.fresh:,}   failed {_failed(progress) or 'none'}"
    flight = f"in flight {len(progress.in_flight)}"
    if limiter is not None:
        # Some requests may have been sent before the limit was lowered.
        falling = "falling to " if len(progress.in_flight) > limiter.limit else ""
        flight += f", concurrency {falling}{limiter.limit} ({'auto' if limiter.automatic else 'fixed'})"
    lines = [(counts, "red" if progress.failed else ""), (f"{flight}   rate {rate}   left {time_left}", "")]
    if (wait := limiter.answer_wait if limiter else None) is not None and wait.wait_s < wait.longest_s:
        waited = f"answers time out after {duration(wait.wait_s)}, as others came fast; {wait.cut:,} sent again"
        lines.append((waited, "dim"))
    lines += [(text, "yellow") for text in _notices(estimator).values()]
    end = "" if estimator.cost_at_end is None else f", {money(estimator.cost_at_end)} at the end"
    used = progress.tokens
    tokens = f"tokens {used.prompt:,} in ({used.cached:,} cached), {used.completion:,} out"
    lines.append((f"{tokens}   {money(progress.cost_usd)}{end}", ""))
    now = time.monotonic()
    slowest = sorted(progress.in_flight.values(), key=lambda item: item[1])[:_SLOWEST]
    if slowest and now - slowest[0][1] > _SLOW_S:
        waiting = ", ".join(f"{request} {duration(now - since)}" for request, since in slowest)
        lines.append((f"slowest in flight: {waiting}", "dim"))
    return Group(bar, *(clean_text(text, style) for text, style in lines))


async def _plain(estimator: RateEstimator) -> None:
    lines = PlainLines(estimator, time.monotonic())
    while True:
        await asyncio.sleep(_LOOK_EVERY_S)
        estimator.look()
        if (text := lines.due(time.monotonic())) is not None:
            _write(text)


class PlainLines:
    """Decides when to write a line of progress, and what it says.

    A line is due every ten seconds if something has changed, otherwise every minute, with what the job is waiting for. The
    first pause, the first time that a server cannot be reached and the last steps of a job are reported at once.

    Args:
        estimator: The job's numbers.
        now: Current time in seconds, on the monotonic clock by which requests in flight are timed.
    """

    def __init__(self, estimator: RateEstimator, now: float) -> None:
        self._estimator, self._last = estimator, now
        self._last_state: object = None
        self._shown_notices: set[str] = set()

    def due(self, now: float) -> str | None:
        """The line to write now, if any."""
        progress, notices = self._estimator.progress, _notices(self._estimator)
        state = (progress.done, progress.tokens.prompt, progress.cost_usd)
        wait = _PLAIN_EVERY_S if state != self._last_state else _AT_LEAST_EVERY_S
        if now - self._last < wait and self._shown_notices.issuperset(notices):
            return None
        parts = [line(self._estimator)]
        if state == self._last_state and progress.in_flight:
            since = min(since for _, since in progress.in_flight.values())
            answers = "an answer" if len(progress.in_flight) == 1 else f"{len(progress.in_flight)} answers, the slowest"
            parts.append(f"waiting for {answers} for {duration(now - since)}")
        self._last_state, self._last = state, now
        self._shown_notices.update(notices)
        return " | ".join([*parts, *notices.values()])


def _notices(estimator: RateEstimator) -> dict[str, str]:
    """What delays a job, or that it is about to end, as sentences by kind."""
    progress, limiter = estimator.progress, estimator.limiter
    notices: dict[str, str] = {}
    if progress.doing == "naming":
        notices["naming"] = f"listing {progress.asked - progress.done:,} missing labels; Ctrl-C quits now"
    elif progress.doing:
        notices["writing"] = "writing the run folder"
    if limiter and limiter.to_repeat:
        errors = ", ".join(sorted({str(error) for error in limiter.to_repeat.values()}))
        notices["waiting"] = f"waiting to be sent again: {len(limiter.to_repeat):,} ({errors})"
    if limiter and limiter.unreachable:
        notices["unreachable"] = f"{limiter.unreachable}, trying again"
    if (until := paused_until(limiter)) is not None:
        notices["paused"] = f"paused until {until}, by the provider's limits or --rpm and --tpm"
    return notices


async def _events(estimator: RateEstimator) -> None:
    _emit("start", estimator)
    while True:
        await asyncio.sleep(_EVENT_EVERY_S)
        estimator.look()
        _emit("progress", estimator)


def _emit(event: str, estimator: RateEstimator) -> None:
    progress, limiter = estimator.progress, estimator.limiter

    document = {
        "event": event,
        "time": time.time(),
        **{name: getattr(progress, name) for name in ("asked", "done", "from_store", "fresh")},
        "failed": dict(progress.failed),
        "in_flight": len(progress.in_flight),
        "limit": limiter.limit if limiter else None,
        "paused_s": round(limiter.paused_s, 1) if limiter else 0.0,
        "answer_wait_s": limiter.answer_wait.wait_s if limiter and limiter.answer_wait else None,
        "unreachable": (limiter.unreachable or None) if limiter else None,
        "doing": progress.doing or "asking",
        "rate": estimator.rate,
        "seconds_left": estimator.seconds_left,
        "prompt_tokens": progress.tokens.prompt,
        "cached_tokens": progress.tokens.cached,
        "completion_tokens": progress.tokens.completion,
        "cost_usd": progress.cost_usd,
        "cost_at_end_usd": estimator.cost_at_end,
    }
    _write(json.dumps(document))


def announce(event: str, text: str, *, look: Look) -> None:
    """Announce an event: as a line, as a JSON event, or not at all.

    Args:
        event: Its name in JSON.
        text: A sentence for people.
        look: How it is announced.
    """
    if look == "json":
        _write(json.dumps({"event": event, "time": time.time()}))
    elif look == "people":
        _write(text)


def _write(text: str) -> None:
    print(text, file=sys.stderr, flush=True)  # noqa: T201  progress goes to standard error


def line(estimator: RateEstimator) -> str:
    """A job's progress in one line."""
    progress, rate, left = estimator.progress, estimator.rate, estimator.seconds_left
    parts = (
        f"{progress.done}/{progress.asked}",
        f"{progress.from_store} from store" if progress.from_store else "",
        _failed(progress),
        "" if rate is None else speed(rate),
        f"{duration(left)} left" if left else "",
        f"{progress.tokens.prompt + progress.tokens.completion:,} tokens",
        money(progress.cost_usd),
    )
    return " | ".join(filter(None, parts))


def _failed(progress: Progress) -> str:
    return ", ".join(f"{count:,} {kind}" for kind, count in progress.failed.most_common())


def paused_until(limiter: Limiter | None) -> str | None:
    """The time of day (HH:MM:SS) at which the next request may be sent; None when that is soon or now."""
    pause = limiter.paused_s if limiter else 0.0
    return None if pause < _WORTH_SAYING_S else time.strftime("%H:%M:%S", time.localtime(time.time() + pause))


def speed(a_second: float) -> str:
    """A rate of labels in words: per second or, if slow, per minute."""
    return f"{a_second:.1f}/s" if a_second >= 1 else f"{60 * a_second:.1f}/min"


def duration(seconds: float) -> str:
    """A duration in words."""
    minutes, whole_seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {whole_seconds:02d} s" if minutes else f"{whole_seconds} s"


def money(usd: float | None) -> str:
    """An amount of money in words; says so if it is unknown."""
    return "cost unknown" if usd is None else f"${usd:.4f}"
