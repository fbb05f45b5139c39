"""The embedded model's server: llama.cpp's OpenAI-compatible one, in a process of its own.

A process of its own, so that a crash of native code or its chatter never reaches the run, and so that Ctrl-C in the
terminal does not stop the server before the answers in flight are stored. It ends when its standard input closes:
that happens on every way out of the parent, `kill -9` included.

    python -m relabel.labelling.local_server GGUF ALIAS SLOTS SLOT_TOKENS THREADS

Its first line on standard output is the server's address.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

HTTP_THREADS = 8


def main(gguf: str, alias: str, slots: str, slot_tokens: str, threads: str) -> None:
    """Serve a model until standard input closes."""
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
    params.n_threads_http = HTTP_THREADS
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = int(threads)
    params.verbosity = 1
    server = native.Server(params)
    answer_to.write(server.listening_address + "\n")
    answer_to.flush()
    sys.stdin.buffer.read()
    os._exit(0)  # the server's own shutdown would wait for answers in flight, which are no longer read


if __name__ == "__main__":
    main(*sys.argv[1:])
