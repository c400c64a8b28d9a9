"""Answers what the store holds under a key, as it was written; called by the resources of entries that never change."""

from falcon.asgi import Response

from tidegate.resources.errors import RecordNotFoundError
from tidegate.store.base import ConsistentStore


async def answer_stored(resp: Response, store: ConsistentStore, key: str, kind: str) -> None:
    """Put the JSON under `key` into the response.

    Raises:
        RecordNotFoundError: There is none; `kind` is its name for people.
        StoreUnavailableError: The store did not answer.
    """
    found = (await store.read([key], or_stale=True)).get(key)
    if found is None:
        raise RecordNotFoundError(f"no such {kind}")
    resp.data, resp.content_type = found.value, "application/json"
