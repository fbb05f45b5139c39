"""From what a server sent to an answer: the same way, whether it came by itself or in the file of a batch."""

from __future__ import annotations

from typing import Any

from relabel.labelling.engines.refusals import SHORTEST_SECRET


def without_secret(sent: Any, secret: str) -> Any:
    """What a server sent, with the key taken out of every text in it.

    A short key is a placeholder such as `none` or `EMPTY`, and no secret: taking it out would change answers.

    Args:
        sent: A parsed JSON document; names in it are left as they are.
        secret: The key.
    """
    if len(secret) < SHORTEST_SECRET:
        return sent
    if isinstance(sent, str):
        return sent.replace(secret, "[key]")
    if isinstance(sent, dict):
        return {name: without_secret(value, secret) for name, value in sent.items()}
    if isinstance(sent, list):
        return [without_secret(value, secret) for value in sent]
    return sent
