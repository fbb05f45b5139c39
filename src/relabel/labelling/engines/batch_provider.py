"""The provider's side of a batch job: files and batches over HTTP, with the only retries that there are.

Everything here may be asked again without harm, except making a batch: that costs money, and a reply that is lost says
nothing about whether the batch was made. So it is made under a mark, and looked for by that mark before it is made again.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import httpx2
import openai
import tenacity
from openai.types import Batch
from pydantic import SecretStr

from relabel.errors import DataError, ProviderError
from relabel.files import replacing
from relabel.labelling.engines.refusals import fatal_refusal, is_transient, provider_message, reply_of, without_keys
from relabel.labelling.engines.transport import certificates
from relabel.labelling.pricing import OPENAI_URL
from relabel.labelling.request import public_url
from relabel.labelling.wire import PATHS, Api

ATTEMPTS = 6
LONGEST_PAUSE_S = 60.0
TIMEOUT_S = 600.0
"""For one call: a chunk of 200 MB goes up in it."""
CLOCK_SKEW_S = 3600.0
"""How far the provider's clock may be from ours when a batch is looked for."""
_PAGE = 100

T = TypeVar("T")


def batch_client(base_url: str | None, key: SecretStr | None) -> openai.AsyncOpenAI:
    """An openai client for batches: without retries of its own.

    Args:
        base_url: Address of the API; None for OpenAI's own. Credentials in it are not used.
        key: The provider's key; None for servers that need none.
    """
    return openai.AsyncOpenAI(
        api_key=key.get_secret_value() if key else "none",
        base_url=public_url(base_url) if base_url else OPENAI_URL,
        max_retries=0,
        timeout=httpx2.Timeout(TIMEOUT_S, connect=10.0),
        http_client=openai.DefaultAioHttpClient(verify=certificates()),
    )


class GoneError(Exception):
    """The provider does not know a batch or a file (any more)."""


class UnreachableError(ProviderError):
    """The provider did not answer, or only with errors that pass; what it works on goes on."""


class BatchProvider:
    """Files and batches of one provider.

    Args:
        client: An openai client without retries of its own.
        model: The model, for messages.
        sleep: Waits for some seconds.
        jitter: A random number in 0-1.
    """

    def __init__(
        self,
        client: openai.AsyncOpenAI,
        model: str,
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._client, self._model = client, model
        self._sleep, self._jitter = sleep, jitter
        self._address = public_url(str(client.base_url)).rstrip("/")

    @property
    def secret(self) -> str:
        """The key, to be taken out of what the provider sends; empty where there is none."""
        return "" if self._client.api_key == "none" else self._client.api_key

    def redact(self, text: str) -> str:
        """Take the key, and whatever looks like one, out of a text; and lone surrogates, which no file can hold."""
        return without_keys(text, self.secret).encode("utf-8", "replace").decode()

    async def upload(self, path: Path) -> str:
        """Send an input file up.

        Returns:
            Its id at the provider.

        Raises:
            ProviderError: The provider refused or cannot be reached.
            DataError: The file cannot be read.
        """

        async def once() -> str:
            try:
                file = path.open("rb")
            except OSError as error:
                raise DataError(f"cannot read {path} ({error.strerror}); start the same run again") from error
            with file:
                sent = await self._client.files.create(
                    file=(path.name, file, "application/jsonl"), purpose="batch", timeout=TIMEOUT_S
                )
            return sent.id

        return await self._call("/files", once)

    async def create(self, file_id: str, api: Api, mark: Mapping[str, str], since: float, *, look: bool) -> Batch:
        """Make a batch, once.

        Args:
            file_id: The input file at the provider.
            api: The dialect of its lines.
            mark: Metadata that no other batch has.
            since: Seconds since the epoch: no batch with this mark was made before.
            look: One may have been made already, so look for it first.

        Raises:
            ProviderError: The provider refused or cannot be reached.
        """

        async def once() -> Batch:
            nonlocal look
            if look and (found := await self._find(mark, since)) is not None:
                return found
            look = True  # should the reply be lost, the next turn looks before it makes another
            endpoint: Any = "/v1" + PATHS[api]
            return await self._client.batches.create(
                completion_window="24h", endpoint=endpoint, input_file_id=file_id, metadata=dict(mark)
            )

        return await self._call("/batches", once)

    async def find(self, mark: Mapping[str, str], since: float) -> Batch | None:
        """The batch with a mark, if there is one that was made since some time (seconds since the epoch)."""
        return await self._call("/batches", lambda: self._find(mark, since))

    async def retrieve(self, batch_id: str) -> Batch:
        """A batch as it is now.

        Raises:
            GoneError: The provider knows no such batch.
            ProviderError: The provider refused or cannot be reached.
        """
        return await self._call(f"/batches/{batch_id}", lambda: self._client.batches.retrieve(batch_id))

    async def cancel(self, batch_id: str) -> None:
        """Stop a batch. What is answered already is kept, and paid for; one that has ended is left as it is.

        Raises:
            GoneError: The provider knows no such batch.
            ProviderError: The provider refused or cannot be reached.
        """

        async def once() -> None:
            try:
                await self._client.batches.cancel(batch_id)
            except openai.APIStatusError as error:
                if error.status_code not in {400, 409}:  # what it says of a batch that has ended
                    raise

        await self._call(f"/batches/{batch_id}/cancel", once)

    async def download(self, file_id: str, target: Path) -> None:
        """Fetch a file to the disk, without holding it in memory.

        Raises:
            GoneError: The provider knows no such file.
            ProviderError: The provider refused or cannot be reached.
            DataError: The disk is full or refuses.
        """

        async def once() -> None:
            async with self._client.files.with_streaming_response.content(file_id) as response:
                try:
                    with replacing(target) as temporary, temporary.open("wb") as file:
                        async for piece in response.iter_bytes():
                            file.write(piece)
                except httpx2.HTTPError as error:
                    raise openai.APIConnectionError(request=response.http_request) from error
                except OSError as error:
                    raise DataError(
                        f"cannot write {target} ({error.strerror or error}); free space, then start the same run again"
                    ) from error

        await self._call(f"/files/{file_id}/content", once)

    async def forget(self, file_id: str) -> None:
        """Remove a file at the provider. It is a courtesy: when it fails, nothing is said."""
        with suppress(openai.APIError):
            await self._client.files.delete(file_id)

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    async def _find(self, mark: Mapping[str, str], since: float) -> Batch | None:
        async for batch in self._client.batches.list(limit=_PAGE):  # the newest come first
            if batch.created_at < since - CLOCK_SKEW_S:
                return None
            if mark.items() <= (batch.metadata or {}).items():
                return batch
        return None

    async def _call(self, path: str, once: Callable[[], Awaitable[T]]) -> T:
        retrying = tenacity.AsyncRetrying(
            retry=tenacity.retry_if_exception(is_transient),
            stop=tenacity.stop_after_attempt(ATTEMPTS),
            wait=self._pause,
            sleep=self._sleep,
            reraise=True,
        )

        async def turn() -> T:
            return await once()  # tenacity awaits what it can see to be a coroutine function, and a lambda is none

        try:
            return await retrying(turn)
        except openai.APIStatusError as error:
            raise self._refusal(error, path) from error
        except openai.APIConnectionError as error:
            cause = self.redact(str(error.__cause__ or error) or type(error.__cause__).__name__)
            raise UnreachableError(
                f"cannot reach {self._address} for its batches ({cause}); check --base-url and the network, then start the "
                "same run again: batches that are there go on"
            ) from error

    def _pause(self, state: tenacity.RetryCallState) -> float:
        wanted = min(LONGEST_PAUSE_S, 0.5 * 2**state.attempt_number) * (0.5 + self._jitter() / 2)
        error = state.outcome.exception() if state.outcome else None
        if isinstance(error, openai.APIStatusError):
            wanted = max(wanted, reply_of(error).wait_s or 0.0)
        return wanted

    def _refusal(self, error: openai.APIStatusError, path: str) -> Exception:
        status, said = error.status_code, self.redact(provider_message(error))
        if is_transient(error):
            return UnreachableError(
                f"{self._address} fails at {path} (HTTP {status}: {said}), asked {ATTEMPTS} times; start the same run again "
                "later: batches that are there go on"
            )
        if status == 404 and path not in {"/files", "/batches"}:
            return GoneError(said)
        fatal = self.fatal(status, str(error.code or ""), said, path)
        return fatal or ProviderError(
            f"{self._address} refuses {path} (HTTP {status}: {said}); mend that, then start the same run again"
        )

    def fatal(self, status: int | None, code: str, said: str, path: str) -> ProviderError | None:
        """What to tell the user when no request will have an answer; see `online.fatal_refusal`."""
        return fatal_refusal(status, code, said, address=self._address, path=path, model=self._model)
