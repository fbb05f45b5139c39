"""Tokens a label for 1, 5 and 20 tasks in a request, counted by the embedded model's own tokenizer and server."""

from __future__ import annotations

import json
import urllib.request

from relabel.labelling.local import find_weights, local_endpoint, serve
from relabel.labelling.request import Planner, load_prompt
from relabel.rubric import load_rubric
from relabel.settings import settings
from relabel.task import load_tasks


def main() -> None:
    """Print prompt tokens a label."""
    weights = find_weights("local", settings().home / "models")
    endpoint = local_endpoint("local")
    planner = Planner(load_rubric("exposure"), load_prompt("task"), endpoint)
    tasks = load_tasks("sample", sample=20)
    with serve(weights, endpoint.model, slot_tokens=4096) as server:
        for pack in (1, 5, 20):
            total = 0
            for start in range(0, len(tasks), pack):
                body = {**planner.request(tuple(tasks[start : start + pack]), "strict").body, "max_tokens": 1}
                body.pop("response_format")
                request = urllib.request.Request(
                    f"{server.base_url}/chat/completions",
                    json.dumps(body).encode(),
                    {"content-type": "application/json"},
                )
                with urllib.request.urlopen(request) as reply:
                    total += json.load(reply)["usage"]["prompt_tokens"]
            print(f"{pack:>2} tasks a request: {total / len(tasks):.0f} prompt tokens a label")


if __name__ == "__main__":
    main()
