"""The command `relabel`, also as `python -m relabel`."""

from __future__ import annotations

import gc
import os
import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn


def main() -> NoReturn:
    """Run relabel. While it still loads, there is nothing to save, and Ctrl-C exits without a traceback."""
    try:
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, _leave)
    except KeyboardInterrupt:  # pressed before the handler was set; a second one could interrupt anything slower
        os._exit(130)
    # Loaded modules are never freed: collecting garbage every 700 objects takes a tenth of the start. So does the search for
    # plugins of pydantic.
    gc.set_threshold(20_000)
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    # Our matrices are small: sharing one between threads takes longer than multiplying it in one thread.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from relabel.cli.app import main as run

    try:
        run()
    finally:
        gc.freeze()  # the process ends here, and a last garbage collection would take a tenth of a second


def _leave(*_: object) -> None:
    os.write(2, b"relabel: interrupted\n")
    os._exit(130)


if __name__ == "__main__":
    main()
