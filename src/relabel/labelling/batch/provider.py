"""Clients for Files and Batch APIs, with hooks for the differences between providers.

All calls can be repeated safely, except for the creation of a batch: it costs money, and if the reply is lost, it is unknown
whether the batch exists. Batches are therefore created with a unique mark in their metadata, by which they are searched for
before a retry.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
from multidict import CIMultiDict

from relabel.errors import DataError, ProviderError
from relabel.files import os_errors, replacing
from relabel.labelling.engine import parsed
from relabel.labelling.job import Job
from relabel.labelling.provider_errors import (
    ATTEMPTS,
    RefusedError,
    RetryPolicy,
    fatal_refusal,
    read_error,
)
from relabel.labelling.providers import UNKNOWN, Provider
from relabel.labelling.request import Request
from relabel.labelling.transport import Http, TransportError, key_for, require_key
from relabel.labelling.wire import PATHS, Api, NotAReplyError, object_of
from relabel.redaction import api_version, clean
from relabel.settings import Settings

# Timeout of one call, in seconds; enough to upload a chunk of 100 MB.
TIMEOUT_S = 600.0
# Maximum difference between the provider's clock and ours, in seconds, when searching for a batch; ours may take local time for UTC.
CLOCK_SKEW_S = 86400.0
# Maximum number of pages of a listing; a longer one is a fault of the server.
MAX_PAGES = 100
# Timestamps above this are not in seconds.
_LATEST_S = 1e11
# OpenAI's states of a batch that will not change.
FINAL = {"completed", "failed", "expired", "cancelled"}
# OpenAI's states by those of Mistral and others: with an unknown state, polling would never end.
_STATUS = {
    **dict.fromkeys(("done", "ended", "finished", "succeeded", "complete"), "completed"),
    **dict.fromkeys(("error", "errored", "rejected", "aborted"), "failed"),
    "queued": "validating",
    "running": "in_progress",
    "success": "completed",
    "timeout_exceeded": "expired",
    "cancellation_requested": "cancelling",
    "canceled": "cancelled",
}
_KNOWN = FINAL | {*_STATUS.values(), "finalizing"}
# Statuses with which a server says that it has no such API.
_NO_API = {404, 405, 501}
# Words for an input file that is not processed yet, or not visible yet.
_NOT_READY = re.compile(
    r"pending|not.{0,20}(ready|processed|valid state)|being processed|(cannot|not|no such).{0,20}(find|found|exist|file)",
    re.IGNORECASE,
)


class GoneError(Exception):
    """The provider does not know a batch or a file, or has deleted it."""


class FileNotReadyError(ProviderError):
    """The provider has not processed the input file yet."""


class UnavailableError(ProviderError):
    """The provider did not answer, or only with transient errors; its batches continue."""


_FAULTS = (RefusedError, TransportError, TimeoutError)


@dataclass(frozen=True)
class RemoteBatch:
    """A batch as the provider describes it, in OpenAI's terms.

    Attributes:
        mark: Its metadata.
        answered: Number of finished requests, failed ones included.
        error: Code and message, if the whole batch failed.
    """

    id: str
    status: str
    created_at: float
    input_file_id: str
    mark: Mapping[str, str]
    answered: int
    output_file_id: str | None
    error_file_id: str | None
    error: tuple[str, str] | None


@dataclass(frozen=True)
class Result:
    """One line of a batch's results: a reply or an error. The status of an error is 0 if the line has none."""

    key: str
    body: Any
    error: RefusedError | None = None


def _id(value: Any) -> str | None:
    """An id, which some servers give as a number; None if there is none, which may be an empty text."""
    return str(value) if value and isinstance(value, str | int) else None


def _seconds(value: Any) -> float:
    """A time in seconds since the epoch, from a date or a number; the present if it is missing or impossible."""
    try:
        number = datetime.fromisoformat(value).timestamp() if isinstance(value, str) else float(value)
    except (ValueError, TypeError, OverflowError):
        number = 0.0
    return number if 0 < number < _LATEST_S else time.time()


class BatchProvider:
    """OpenAI's Files and Batch API; subclasses override what differs at other providers.

    Args:
        http: The provider's address and key.
        model: The model, for messages.
        provider: The provider's entry in the table of providers.
        policy: Fields of the retry policy: `sleep` and `jitter`.

    Attributes:
        address: The provider's address without credentials, but with the API version, if it has one.
    """

    uploads, batches, version = "/files", "/batches", "/v1"
    # Form fields of an upload in addition to the file; `{name}` is its name.
    form: Mapping[str, str] = {"purpose": "batch"}
    line_fields = ("custom_id", "method", "url", "body")

    def __init__(self, http: Http, model: str, provider: Provider = UNKNOWN, **policy: Any) -> None:
        self._http, self.model, self._provider = http, model, provider
        version = api_version(http.query)
        self.address = http.address + (f"?{version}" if version else "")
        self._retry = RetryPolicy(**policy)

    # Hooks.

    def line(self, request: Request) -> dict[str, Any]:
        """A request as a line of the input file; `custom_id`, its key, comes first."""
        url = self.version + PATHS[request.api]
        body = self._provider.posted(request.api, request.body)
        fields = {"custom_id": request.key, "method": "POST", "url": url, "body": body}
        return {name: fields[name] for name in self.line_fields}

    def creation(self, file_id: str, api: Api, mark: Mapping[str, str]) -> dict[str, Any]:
        """The document to post to create a batch."""
        fields = {"endpoint": self.version + PATHS[api], "input_file_id": file_id, "metadata": dict(mark)}
        return {"completion_window": "24h", **fields}

    def listing(self, page: int, last: str) -> str:
        """The path of a page of the listing, counted from 0; `last` is the last id on the previous page."""
        return f"{self.batches}?limit=100{f'&after={last}' if page else ''}"

    def read(self, raw: Mapping[str, Any]) -> RemoteBatch:
        """Parse a batch; providers have different names for its fields."""
        raw = raw.get("job") or raw  # Together's reply to a creation holds the batch inside
        counts = {**raw, **object_of(raw.get("request_counts"))}
        status = str(raw["status"]).lower()
        counted = map(counts.get, ("completed", "failed", "succeeded_requests", "failed_requests"))
        errors, error = raw.get("errors") or raw.get("error") or [], None
        problems = object_of(errors).get("data", errors)
        if problems:
            first = problems[0] if isinstance(problems, list) else problems
            details = object_of(first)
            line = f" (line {details['line']})" if details.get("line") is not None else ""
            error = str(details.get("code") or "error"), f"{details.get('message', first)}{line}"
        answered, total = sum(count for count in counted if isinstance(count, int) and count > 0), counts.get("total")
        output = _id(raw.get("output_file_id") or raw.get("output_file"))
        status = _STATUS.get(status, status)
        # An unknown word must mean the end if there is output and every request is finished.
        if status not in _KNOWN and output and isinstance(total, int) and answered >= total:
            status = "completed"
        if (batch_id := _id(raw["id"])) is None:
            raise ValueError("no id")
        return RemoteBatch(
            id=batch_id,
            status=status,
            created_at=_seconds(raw.get("created_at")),
            input_file_id=str(raw.get("input_file_id") or (raw.get("input_files") or [""])[0]),
            mark=object_of(raw.get("metadata")),
            answered=answered,
            output_file_id=output,
            error_file_id=_id(raw.get("error_file_id") or raw.get("error_file")),
            error=error,
        )

    def result(self, line: bytes) -> Result | None:
        """Parse a line of results; None if it is invalid, or holds neither a reply nor an error."""
        try:
            row = object_of(parsed(line.decode("utf-8", "replace")))
        except NotAReplyError:
            return None
        key, failed, response = row.get("custom_id"), row.get("error"), object_of(row.get("response"))
        body = response.get("body", response)  # the reply itself may stand in place of its wrapper
        if isinstance(body, str):
            with suppress(NotAReplyError):
                body = parsed(body)
        status = str(response.get("status_code") or (200 if body and not failed else 0))
        status = int(status) if status.isdecimal() else 0
        if not isinstance(key, str) or not (status or failed or body):
            return None
        problem = body if not failed else {"error": failed if isinstance(failed, Mapping) else {"message": str(failed)}}
        succeeded, error = 200 <= status < 300, None
        if not succeeded or object_of(body).get("error"):
            error = read_error(status, {}, json.dumps(problem))
        if not succeeded and error is None:
            error = RefusedError("request", status, clean(str(problem or "no answer"))[:300])
        return Result(key, body, error)

    # Common to all providers.

    async def upload(self, path: Path) -> str:
        """Upload an input file and return its id.

        Raises:
            ProviderError: The provider refused or cannot be reached.
            DataError: The file cannot be read.
        """

        def form() -> aiohttp.FormData:
            with os_errors(f"cannot read {path}", "start the same run again"):
                file = path.open("rb")
            data = aiohttp.FormData({name: value.format(name=path.name) for name, value in self.form.items()})
            data.add_field("file", file, filename=path.name, content_type="application/jsonl")
            return data

        reply = await self._call("POST", self.uploads, form)
        if not isinstance(reply.get("id"), str):
            raise ProviderError(f"an uploaded file was expected, not {str(reply)[:100]}; use --engine online")
        return reply["id"]

    async def create(self, file_id: str, api: Api, mark: Mapping[str, str], since: float, *, find: bool) -> RemoteBatch:
        """Create a batch exactly once.

        Args:
            file_id: Id of the input file at the provider.
            api: The dialect of its lines.
            mark: Unique metadata.
            since: Time (seconds since the epoch) before which no batch with this mark was created.
            find: Whether the batch may already exist, and must be searched for first.

        Raises:
            FileNotReadyError: The input file is not processed yet, or not visible.
            ProviderError: The provider refused or cannot be reached.
        """
        document = json.dumps(self.creation(file_id, api, mark)).encode()

        async def once() -> RemoteBatch:
            nonlocal find
            if find and (batch := await self._find(mark, file_id, since)) is not None:
                return batch
            find = True  # if the reply is lost, the next attempt searches before creating another
            return self._batch(await self._once("POST", self.batches, lambda: document))

        return await self._retried(self.batches, once)

    async def find(self, mark: Mapping[str, str], file_id: str | None, since: float) -> RemoteBatch | None:
        """The batch with a mark or an input file, if one was created since a time, given in seconds since the epoch."""
        return await self._retried(self.batches, lambda: self._find(mark, file_id, since))

    async def retrieve(self, batch_id: str) -> RemoteBatch:
        """The present state of a batch.

        Raises:
            GoneError: The provider knows no such batch.
            ProviderError: The provider refused or cannot be reached.
        """
        return self._batch(await self._call("GET", f"{self.batches}/{batch_id}"))

    async def cancel(self, batch_id: str) -> None:
        """Cancel a batch. Answers so far are kept and must be paid for. A batch that has ended is not changed.

        Raises:
            GoneError: The provider knows no such batch.
            ProviderError: The provider refused or cannot be reached.
        """
        try:
            await self._call("POST", f"{self.batches}/{batch_id}/cancel")
        except ProviderError as error:
            if not (isinstance(error.__cause__, RefusedError) and error.__cause__.status in {400, 409}):
                raise  # these two statuses mean that the batch has already ended

    async def download(self, file_id: str, target: Path) -> None:
        """Download a file to disk without loading it into memory.

        Raises:
            GoneError: The provider knows no such file.
            ProviderError: The provider refused or cannot be reached.
            DataError: The file cannot be written.
        """
        await self._call("GET", f"/files/{file_id}/content", into=target)

    async def delete(self, file_id: str) -> None:
        """Delete a file at the provider; errors are ignored."""
        with suppress(*_FAULTS):
            await self._once("DELETE", f"/files/{file_id}")

    async def close(self) -> None:
        """Close the connections."""
        await self._http.close()

    def fatal(self, error: RefusedError, path: str) -> ProviderError | None:
        """The error if no request will be answered, otherwise None; see `fatal_refusal`."""
        return fatal_refusal(error, address=self._http.address, path=path, model=self.model)

    async def _find(self, mark: Mapping[str, str], file_id: str | None, since: float) -> RemoteBatch | None:
        last, seen = "", set[str]()
        for number in range(MAX_PAGES):
            page = await self._once("GET", self.listing(number, last))
            rows = page.get("data")
            if not isinstance(rows, list):
                raise RefusedError("request", 501, f"a listing of batches was expected, not {str(page)[:100]}")
            batches = [self._batch(row) for row in rows]
            fresh = [batch for batch in batches if batch.id not in seen and batch.created_at >= since - CLOCK_SKEW_S]
            for batch in fresh:
                if mark.items() <= batch.mark.items() or (file_id is not None and batch.input_file_id == file_id):
                    return batch
            more = page.get("has_more", len(seen) + len(batches) < int(page.get("total") or 0))
            if not fresh or not more:
                return None
            seen.update(batch.id for batch in fresh)
            last = batches[-1].id
        raise RefusedError("request", 501, f"the listing of batches does not end within {MAX_PAGES} pages")

    def _batch(self, raw: Any) -> RemoteBatch:
        try:
            return self.read(raw)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ProviderError(
                f"{self._http.address} sent a batch that cannot be read ({str(raw)[:200]}); check --base-url, then start the same run again"
            ) from error

    async def _call(
        self, method: str, path: str, data: Callable[[], Any] = lambda: None, *, into: Path | None = None
    ) -> dict[str, Any]:
        return await self._retried(path, lambda: self._once(method, path, data, into=into))

    async def _retried(self, path: str, once: Callable[[], Any]) -> Any:
        try:
            return await self._retry.call(once)
        except _FAULTS as error:
            raise self._refusal(error, path) from error

    async def _once(
        self, method: str, path: str, data: Callable[[], Any] = lambda: None, *, into: Path | None = None
    ) -> dict[str, Any]:
        body = data()
        headers = CIMultiDict(self._http.headers)
        if not isinstance(body, bytes):
            headers.pop("Content-Type", None)  # a multipart form sets its own
        async with asyncio.timeout(TIMEOUT_S):
            read = partial(_store, into) if into else None
            reply = await self._http.exchange(method, self._http.url(path), read=read, data=body, headers=headers)
        if reply.status >= 300 and (refused := read_error(reply.status, reply.headers, reply.content)) is not None:
            raise refused
        if into is not None:
            return {}
        try:
            document: Any = parsed(reply.content.decode("utf-8", "replace"))
        except NotAReplyError:
            document = None
        if isinstance(document, list):
            return {"data": document}
        if not isinstance(document, dict):
            raise RefusedError("request", 501, f"JSON was expected, not {reply.content[:100]!r}")
        return document

    def _refusal(self, error: Exception, path: str) -> Exception:
        address = self._http.address
        if not isinstance(error, RefusedError):
            detail = clean(str(error)) or type(error).__name__
            return UnavailableError(
                f"cannot reach {address} for its batches ({detail}); check --base-url and the network, then start the same run "
                "again: existing batches continue"
            )
        status, detail = error.status, clean(error.with_status)
        refused = f"{address} refuses {path} ({detail}); correct that, then start the same run again"
        about_file = status != 404 or "file" in error.message.lower()  # otherwise the 404 is about the path
        if path == self.batches and status < 500 and about_file and _NOT_READY.search(error.message):
            return FileNotReadyError(refused)
        if error.passes:
            return UnavailableError(
                f"{address} failed {ATTEMPTS} times at {path} ({detail}); start the same run again later: "
                "existing batches continue"
            )
        if error.meaning == "passing":  # unavailable for long, although it may have processed this request
            return UnavailableError(str(self.fatal(error, path)))
        if status in _NO_API and path in {self.uploads, self.batches}:
            return ProviderError(
                f"{address} has no Files or Batch API at {path} ({detail}); use --engine online, or check --base-url"
            )
        if status == 404:
            return GoneError(clean(error.message))
        return self.fatal(error, path) or ProviderError(refused)


async def _store(target: Path, reply: aiohttp.ClientResponse) -> bytes:
    try:
        with replacing(target) as temporary, temporary.open("wb") as file:
            async for piece in reply.content.iter_any():
                file.write(piece)
    except aiohttp.ClientError:  # some of these are also OSErrors
        raise
    except OSError as error:
        raise DataError(
            f"cannot write {target} ({error.strerror or error}); free space, then start the same run again"
        ) from error
    return b""


# Other providers, by their public API references.


class MistralBatches(BatchProvider):
    """Mistral's batch jobs: each has one model, and pages of the listing have numbers.

    https://docs.mistral.ai/api/endpoint/batch
    """

    batches, line_fields = "/batch/jobs", ("custom_id", "body")

    def line(self, request: Request) -> dict[str, Any]:
        """A line without the address and without the model, which is given for the job."""
        line = super().line(request)
        return line | {"body": {name: value for name, value in line["body"].items() if name != "model"}}

    def creation(self, file_id: str, api: Api, mark: Mapping[str, str]) -> dict[str, Any]:
        """The document to post to create a job."""
        fields = {"endpoint": "/v1" + PATHS[api], "model": self.model, "metadata": dict(mark)}
        return {"input_files": [file_id], **fields}

    def listing(self, page: int, last: str) -> str:
        """The path of a page of the listing, the newest first."""
        return f"{self.batches}?page={page}&page_size=100&order_by=-created"


class TogetherBatches(BatchProvider):
    """Together's batches: without metadata, a batch is identified by its input file.

    https://docs.together.ai/reference/batch-create
    """

    uploads, line_fields = "/files/upload", ("custom_id", "body")
    form: Mapping[str, str] = {"purpose": "batch-api", "file_name": "{name}", "file_type": "jsonl"}

    def creation(self, file_id: str, api: Api, mark: Mapping[str, str]) -> dict[str, Any]:
        """The document to post to create a batch, without metadata."""
        return {name: value for name, value in super().creation(file_id, api, mark).items() if name != "metadata"}


class AzureBatches(BatchProvider):
    """Azure's batches, which belong to the resource, so that their address has no deployment.

    Both forms of the API's address are supported: `/openai/v1` and `/openai/deployments/NAME?api-version=...`.
    https://learn.microsoft.com/en-us/azure/ai-services/openai/how-to/batch
    """

    def __init__(self, http: Http, *args: Any, **policy: Any) -> None:
        super().__init__(http, *args, **policy)
        http.address, deployments, _ = http.address.partition("/deployments/")
        if deployments:
            self.version = ""


# Clients by the provider's property `batch`.
CLIENTS: Mapping[str, type[BatchProvider]] = {
    "openai": BatchProvider,
    "azure": AzureBatches,
    "groq": BatchProvider,  # https://console.groq.com/docs/batch
    "mistral": MistralBatches,
    "together": TogetherBatches,
}
_CHAT_ONLY = {"groq", "mistral", "together"}


def batch_provider(
    job: Job,
    base_url: str | None,
    environment: Settings,
    key_env: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> BatchProvider:
    """The batch API of a job's provider; an unknown provider is assumed to follow OpenAI's, and probed.

    Args:
        job: What is labelled.
        base_url: The provider's address.
        environment: Settings from the environment.
        key_env: Environment variable that holds the key; by default the provider's own.
        headers: Headers that the user adds to each request; by default those of the job, which do not include credentials.

    Raises:
        ProviderError: The provider has no Batch API that relabel supports for this API, or the key is missing.
    """
    provider, api = job.provider, job.endpoint.api
    key = key_for(provider, environment, key_env)
    http = Http(base_url, key.get_secret_value() if key else "", provider, headers or job.parameters.get("headers"))
    require_key(provider, key)
    provider_class = CLIENTS.get(provider.batch or "openai")
    if provider_class is None:
        raise ProviderError(f"relabel does not support batches at {provider.name}; use --engine online")
    if api != "chat" and provider.batch in _CHAT_ONLY:
        raise ProviderError(f"{provider.name} supports batches for Chat Completions only; remove --api {api}")
    return provider_class(http, job.endpoint.model, provider)
