"""The harness' cache of answers, in which each model with its policy has a table of its own.

The harness keys answers by requests alone, so that one file would hand a base's answers to a blend.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ..models.identity import difference, digest
from .harness import logger

IDENTITY = "blendin identity"
"""A key beside the hashes of requests."""


def keep_apart(cache: Any, identity: Mapping[str, Any]) -> None:
    """Has a cache read and write in the table of whoever has this identity.

    Args:
        cache: the `SqliteDict` of the harness' `CachingLM`.
        identity: all that answers depend on but the requests, as JSON.

    Raises:
        ValueError: the harness' cache is of another kind, or a server that describes itself alike
            has answered otherwise.
    """
    from sqlitedict import SqliteDict

    if not isinstance(cache, SqliteDict) or not hasattr(cache, "tablename"):
        raise ValueError(
            f"the harness' cache is a {type(cache).__name__}, in which blendin cannot keep the "
            "answers of different models apart: leave --use_cache out"
        )
    if len(cache):
        logger.warning(
            "%s has answers that do not say which model gave them: none of them is used",
            cache.filename,
        )
    own: dict[str, Any] = json.loads(json.dumps(identity))
    table = f"blendin-{digest(_without_answers(own))}"
    SqliteDict(cache.filename, tablename=table).close()  # makes it
    cache.tablename = table
    noted = cache.get(IDENTITY)
    if noted is None:
        cache[IDENTITY] = own
    elif found := difference("model", noted, own):
        raise ValueError(
            f"{cache.filename} has answers of another model ({found}): name another file with "
            "--use_cache, or delete it"
        )


def _without_answers(value: Any) -> Any:
    """What is compared exactly: answers of servers differ with their company."""
    if not isinstance(value, dict):
        return value
    return {name: _without_answers(each) for name, each in value.items() if name != "answer"}
