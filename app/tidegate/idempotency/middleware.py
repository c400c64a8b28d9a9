"""Looks up what is known of a mutation before it is charged and carried out by `transaction.py`; placed by `application.py`."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from falcon.asgi import Request, Response

from tidegate.contract.errors import TidegateError
from tidegate.idempotency.fault_points import FaultPoint, Reached, go_on
from tidegate.idempotency.fingerprint import fingerprint
from tidegate.idempotency.journal import Journal
from tidegate.idempotency.key import effect_id, parse_key, storage_name
from tidegate.idempotency.measures import MutationMeasures, outcome_of
from tidegate.idempotency.mutation import Mutation, Responder

Prefetch = Callable[..., Sequence[str]]


class ReplayMiddleware:
    """Looks up what is known of a mutation, before the limits: a repetition costs no quota but that of repetitions (PIPE-3).

    Leaves the `Mutation` on `req.context.mutation`, None for a request that changes nothing, and `req.context.is_repetition`.
    A resource that knows which keys its handler will read says so in `prefetch(req, **params)`: they come with the look-up.

    Args:
        journal: Where results are.
        key: Secret of the storage names and effect ids; the same in all regions.
        mutations: The responder of each mutation, by URI template and method; whatever is not in it changes nothing.
        bare_keys: Take keys without quotes, too.
        measures: Where mutations are counted.
        reached: Told of fault points.
    """

    def __init__(
        self,
        journal: Journal,
        key: bytes,
        mutations: Mapping[tuple[str, str], Responder],
        *,
        bare_keys: bool = False,
        measures: MutationMeasures | None = None,
        reached: Reached = go_on,
    ) -> None:
        self._journal = journal
        self._key = key
        self._mutations = mutations
        self._bare_keys = bare_keys
        self._outcomes = (measures or MutationMeasures()).outcomes
        self._reached = reached

    async def process_resource(self, req: Request, resp: Response, resource: object, params: dict[str, Any]) -> None:
        """Look the mutation up.

        Raises:
            KeyMissingError: A mutation needs a key.
            KeyInvalidError: Its form is wrong.
            StoreUnavailableError: Nobody knows whether it was done.
        """
        req.context.mutation, req.context.is_repetition = None, False
        route = req.uri_template or ""
        responder = self._mutations.get((route, req.method))
        if resp.complete or responder is None:
            return
        lines = [value.decode("latin-1") for field, value in req.scope["headers"] if field == b"idempotency-key"]
        name = storage_name(self._key, req.context.principal, parse_key(lines, bare=self._bare_keys))
        prefetch: Prefetch | None = getattr(resource, "prefetch", None)
        try:
            found = await self._journal.look_up(name, prefetch(req, **params) if prefetch else ())
        except TidegateError as ex:
            self._outcomes[outcome_of(ex, is_claimed=False)] += 1
            raise
        self._reached(FaultPoint.LOOKED_UP)
        make_effect_id = partial(effect_id, self._key, name, req.method, route)
        tombstone_seconds = getattr(resource, "tombstone_seconds", 0)
        req.context.mutation = Mutation(name, _fingerprint(req), make_effect_id, responder, found, tombstone_seconds)
        req.context.is_repetition = found.record is not None


def _fingerprint(req: Request) -> bytes:
    content_type = req.content_type or ""
    return fingerprint(method=req.method, path=req.path, query=req.query_string, content_type=content_type, body=req.context.body)
