"""What each command costs before it does anything: time and modules of its imports, by library: `python bench/start.py`.

The times are of one start each, by `python -X importtime`; tests/test_imports.py says by name what no command may load.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections import Counter

COMMANDS = (
    "--help",
    "run --model m --tasks sample --sample 1 --engine replay --out r --quiet",
    "run --model m --tasks sample --sample 1 --dry-run",
    "store stats",
    "data list",
    "rubric list",
    "rubric check exposure",
    "providers",
    "tasks diff sample sample",
    "eval sample",
    "score sample --taxonomy onet-soc --no-us",
)
SHOWN = 5


def main() -> None:
    """Print a line a command."""
    for command in COMMANDS:
        with tempfile.TemporaryDirectory() as home:
            words = [sys.executable, "-X", "importtime", "-m", "relabel", *command.split()]
            environment = os.environ | {"RELABEL_HOME": home}
            done = subprocess.run(words, capture_output=True, text=True, cwd=home, env=environment, check=False)
        by_library, modules = Counter[str](), 0
        for line in done.stderr.splitlines():
            if line.startswith("import time:") and "self [us]" not in line:
                own, _, name = line.removeprefix("import time:").split("|")
                by_library[name.strip().partition(".")[0]] += int(own)
                modules += 1
        most = ", ".join(f"{name} {us / 1000:.0f}" for name, us in by_library.most_common(SHOWN))
        print(f"{by_library.total() / 1000:6.0f} ms {modules:5} modules  {command[:40]:<42}{most}")


if __name__ == "__main__":
    main()
