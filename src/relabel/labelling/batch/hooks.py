"""Where other providers' batches differ from OpenAI's, each after its public API reference."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from relabel.errors import ProviderError
from relabel.labelling.batch.provider import BatchProvider, RemoteBatch
from relabel.labelling.providers import UNKNOWN, Provider
from relabel.labelling.request import Request
from relabel.labelling.transport import Http
from relabel.labelling.wire import PATHS, Api

_MISTRAL = dict(
    zip(
        ["QUEUED", "RUNNING", "SUCCESS", "FAILED", "TIMEOUT_EXCEEDED", "CANCELLATION_REQUESTED", "CANCELLED"],
        ["validating", "in_progress", "completed", "failed", "expired", "cancelling", "cancelled"],
        strict=True,
    )
)
"""OpenAI's words for the states of a job."""


class MistralBatches(BatchProvider):
    """Mistral's batch jobs: one model a job, pages by number.

    https://docs.mistral.ai/api/endpoint/batch
    """

    batches = "/batch/jobs"
    apis = ("chat",)

    def line(self, request: Request) -> dict[str, Any]:
        """A line without address; the model is the job's."""
        body = {name: value for name, value in super().line(request)["body"].items() if name != "model"}
        return {"custom_id": request.key, "body": body}

    def creation(self, file_id: str, api: Api, mark: Mapping[str, str]) -> dict[str, Any]:
        """What is posted to make a job."""
        endpoint = "/v1" + PATHS[api]
        return {"input_files": [file_id], "endpoint": endpoint, "model": self.model, "metadata": dict(mark)}

    def listing(self, page: int, last: str) -> str:
        """The path of a page of the listing, the newest first."""
        return f"{self.batches}?page={page}&page_size=100&order_by=-created"

    def read(self, said: Mapping[str, Any]) -> RemoteBatch:
        """A job, in OpenAI's words."""
        problems = [problem for problem in said.get("errors") or () if isinstance(problem, Mapping)]
        return RemoteBatch(
            id=said["id"],
            status=_MISTRAL.get(said["status"], "in_progress"),
            created_at=float(said.get("created_at") or 0),
            input_file_id=str((said.get("input_files") or [""])[0]),
            mark=said.get("metadata") or {},
            answered=int(said.get("succeeded_requests") or 0) + int(said.get("failed_requests") or 0),
            output_file_id=said.get("output_file") or None,
            error_file_id=said.get("error_file") or None,
            error=("error", str(problems[0].get("message"))) if problems else None,
        )


class TogetherBatches(BatchProvider):
    """Together's batches: no metadata, so that one is known by its input file.

    https://docs.together.ai/reference/batch-create
    """

    purpose = "batch-api"
    uploads = "/files/upload"
    apis = ("chat",)

    def fields(self, name: str) -> dict[str, str]:
        """Fields of the upload beside the file."""
        return {"purpose": self.purpose, "file_name": name, "file_type": "jsonl"}

    def line(self, request: Request) -> dict[str, Any]:
        """A line without method and address."""
        whole = super().line(request)
        return {"custom_id": whole["custom_id"], "body": whole["body"]}

    def creation(self, file_id: str, api: Api, mark: Mapping[str, str]) -> dict[str, Any]:
        """What is posted to make a batch."""
        del mark
        return {"input_file_id": file_id, "endpoint": "/v1" + PATHS[api], "completion_window": "24h"}

    def read(self, said: Mapping[str, Any]) -> RemoteBatch:
        """A batch, in OpenAI's words; the reply to its creation holds it inside."""
        said = said.get("job") or said
        return RemoteBatch(
            id=said["id"],
            status=str(said["status"]).lower(),
            created_at=datetime.fromisoformat(said["created_at"]).timestamp(),
            input_file_id=str(said.get("input_file_id")),
            mark={},
            answered=0,  # it counts in per cent
            output_file_id=said.get("output_file_id") or None,
            error_file_id=said.get("error_file_id") or None,
            error=("error", str(said["error"])) if said.get("error") else None,
        )


class GroqBatches(BatchProvider):
    """Groq's batches, which are OpenAI's.

    https://console.groq.com/docs/batch
    """

    apis = ("chat",)


class AzureBatches(BatchProvider):
    """Azure's batches: no deployment in the address.

    Both forms of the address: `/openai/v1`, and `/openai/deployments/NAME?api-version=...`, whose batches are of the resource.
    https://learn.microsoft.com/en-us/azure/ai-services/openai/how-to/batch
    """

    def __init__(self, http: Http, secret: str, model: str, known: Provider = UNKNOWN, **policy: Any) -> None:
        super().__init__(http, secret, model, known, **policy)
        http.address, deployments, _ = http.address.partition("/deployments/")
        if deployments:
            self.version = ""


WAYS: Mapping[str, type[BatchProvider]] = {
    "openai": BatchProvider,
    "azure": AzureBatches,
    "groq": GroqBatches,
    "mistral": MistralBatches,
    "together": TogetherBatches,
}


def batch_provider(http: Http, secret: str, model: str, known: Provider, api: Api = "chat") -> BatchProvider:
    """The batches of a provider, by what is known of it; an unknown one is taken to do as OpenAI does, and probed.

    Raises:
        ProviderError: It has no batches, or none that relabel supports, or not in this dialect.
    """
    way = WAYS.get(known.batch or "openai")
    if way is None:
        raise ProviderError(f"relabel supports no batches at {known.name}; use --engine online")
    if api not in way.apis:
        raise ProviderError(f"{known.name} has batches for Chat Completions alone; leave --api {api} out")
    return way(http, secret, model, known)
