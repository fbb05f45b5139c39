"""The command `relabel`, also as `python -m relabel`."""

from __future__ import annotations

import gc
import os
import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn


def main() -> NoReturn:
    """Run relabel; Ctrl-C before there is anything to save leaves without a traceback."""
    try:
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, _leave)
    except KeyboardInterrupt:  # pressed on just this line; a second one could still break into a call of ours
        os._exit(130)
    # What is loaded stays: looking through it every 700 objects takes a tenth of a start. So does looking for plugins of pydantic.
    gc.set_threshold(20_000)
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    # Our matrices are small: a second thread waits for its share of them longer than it takes to multiply them.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from relabel.cli.app import main as run

    try:
        run()
    finally:
        gc.freeze()  # all of it goes with the process; looking through it once more takes a tenth of a second


def _leave(*_: object) -> None:
    os.write(2, b"relabel: interrupted\n")
    os._exit(130)


if __name__ == "__main__":
    main()
