"""Labelling: from tasks to answers to labels, and nothing that was paid for is lost.

The options here import nothing heavy, so that the command line starts fast.
"""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Asking:
    """What is asked. These texts are also the help of the command-line options.

    Attributes:
        api: Chat Completions or the Responses API.
        prompt: A prompt's name, or the path of a .jinja file. By default the rubric's.
        examples: Show the rubric's worked examples to the model.
        tasks: onet-30.2, onet-29.1, eloundou-2023, sample, or the path of a CSV file.
        sample: Draw this many tasks at random.
        seed: Seed of the draw.
        decide: json: a rationale and a label; logprob: one token, whose probabilities decide.
        pack: Tasks in one request. More than one is cheaper and changes labels: compare first.
        rpm: Requests a minute at most.
        tpm: Tokens a minute at most.
        hedge: Send a request once more when its answer is later than nearly all others. The first answer counts; both may
            be charged.
    """

    api: Literal["chat", "responses"] = "chat"
    prompt: str | None = None
    examples: bool = True
    tasks: str = "onet-30.2"
    sample: int | None = None
    seed: int = 0
    decide: Literal["json", "logprob"] = "json"
    pack: int = 1
    rpm: float | None = None
    tpm: float | None = None
    hedge: bool = False
