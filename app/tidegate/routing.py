"""The route table: HEAD wherever there is GET, and which responder answers a mutation; made by `application.py`."""

from collections.abc import Awaitable, Callable
from typing import Any

from falcon.routing import CompiledRouter

METHODS_WITHOUT_CONTENT = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})
"""A body of theirs means nothing (RFC 9110, 9.3), and is not read."""
SAFE_METHODS = METHODS_WITHOUT_CONTENT | {"QUERY"}
"""All others change something: those of WebDAV and of one's own, too."""

Responder = Callable[..., Awaitable[None]]


class Router(CompiledRouter):
    """Falcon's router, which also knows the responder of every mutation, and of GET where the resource is `cached`.

    `mutations` maps URI template and method to the responder. It is filled from what Falcon itself would call, suffixes included, so
    that no route of a resource can change something outside of a transaction. `cached` maps GET, and
    HEAD where GET answers it.

    Args:
        wrap: Put around every responder, if given.
    """

    def __init__(self, wrap: Callable[[Responder], Responder] | None = None) -> None:
        super().__init__()
        self._wrap = wrap
        self.mutations: dict[tuple[str, str], Responder] = {}
        self.cached: dict[tuple[str, str], Responder] = {}
        self._templates: set[str] = set()

    def map_http_methods(self, resource: object, **options: Any) -> dict[str, Any]:
        """The responders of a resource; HEAD is answered by GET's, and Falcon leaves the body out (RFC 9110, 9.1)."""
        responders: dict[str, Any] = dict(super().map_http_methods(resource, **options))
        if self._wrap:
            responders = {method: self._wrap(responder) for method, responder in responders.items()}
        if "GET" in responders:
            responders.setdefault("HEAD", responders["GET"])
        return responders

    def add_route(self, uri_template: str, resource: object, **options: Any) -> None:
        """Add a route, and note its mutations.

        Raises:
            ValueError: There is such a route already: Falcon would replace it without a word.
            TypeError: The router is to answer unknown methods with `on_request`, of which nobody knows whether they change something; or
                the resource has a truth of its own, and Falcon would serve one that is false without token, key and limits; or it is
                `public`, which leaves nobody to do a mutation or to keep an answer for; or it has a WebSocket, which no middleware of ours
                guards.
        """
        path = uri_template.strip("/")
        if path in self._templates:
            raise ValueError(f"{uri_template} is routed already")
        if self.options.default_to_on_request:
            raise TypeError("default_to_on_request is not supported: name the methods that a resource answers")
        if hasattr(type(resource), "__bool__") or hasattr(type(resource), "__len__"):
            raise TypeError(f"{uri_template}: a resource must not define __bool__ or __len__: while false, nothing would guard it")
        responders = self.map_http_methods(resource, **options)
        if "WEBSOCKET" in responders:
            raise TypeError(f"{uri_template}: WebSockets are not supported: nothing would guard them")
        mutations = responders.keys() - SAFE_METHODS
        if mutations and getattr(resource, "public", False):
            raise TypeError(f"{uri_template}: a public resource cannot answer {', '.join(sorted(mutations))}: a mutation needs a token")
        if hasattr(resource, "cached"):
            if getattr(resource, "public", False):
                raise TypeError(f"{uri_template}: answers of a public resource belong to no tenant, and cannot be kept in a lane")
            own = responders.get("GET")
            self.cached.update({(uri_template, method): own for method in ("GET", "HEAD") if own and responders[method] is own})
        self._templates.add(path)
        self.mutations.update({(uri_template, method): responders[method] for method in mutations})
        super().add_route(uri_template, resource, **options)
