"""The route table: HEAD wherever there is GET, and which responder answers a mutation; made by `application.py`."""

from collections.abc import Awaitable, Callable
from typing import Any

from falcon.routing import CompiledRouter

MUTATING_METHODS = frozenset({"POST", "PUT", "PATCH", "DELETE"})

Responder = Callable[..., Awaitable[None]]


class Router(CompiledRouter):
    """Falcon's router, which also knows the responder of every mutation.

    `mutations` maps URI template and method to the responder. It is filled from what Falcon itself would call, suffixes included, so
    that no route of a resource can change something outside of a transaction.
    """

    def __init__(self) -> None:
        super().__init__()
        self.mutations: dict[tuple[str, str], Responder] = {}

    def map_http_methods(self, resource: object, **options: Any) -> dict[str, Any]:
        """The responders of a resource; HEAD is answered by GET's, and Falcon leaves the body out (RFC 9110, 9.1)."""
        responders: dict[str, Any] = dict(super().map_http_methods(resource, **options))
        if "GET" in responders:
            responders.setdefault("HEAD", responders["GET"])
        return responders

    def add_route(self, uri_template: str, resource: object, **options: Any) -> None:
        """Add a route, and note its mutations.

        Raises:
            ValueError: A method that is none of HTTP's, or one of several names for its responder.
        """
        responders = self.map_http_methods(resource, **options)
        self.mutations.update({(uri_template, method): responders[method] for method in MUTATING_METHODS & responders.keys()})
        super().add_route(uri_template, resource, **options)
