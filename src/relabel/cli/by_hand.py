"""Files that a person must fetch from a page: what can be done without them."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

from relabel.errors import NotAtHandError


@contextmanager
def or_by_code(taxonomy: str, options: str) -> Generator[None]:
    """Say of scores for which a file must be fetched by hand that those by O*NET code need none.

    Args:
        taxonomy: The taxonomy of the scores.
        options: The options that ask for O*NET codes instead.

    Raises:
        NotAtHandError: As it was raised within, with that advice where it helps.
    """
    try:
        yield
    except NotAtHandError as error:
        if error.why or taxonomy == "onet-soc":  # a file that can be fetched, and could not be
            raise
        raise NotAtHandError(f"{error}; or go by O*NET code, which needs no such file: {options}") from error
