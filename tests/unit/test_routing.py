"""Which requests are mutations."""

import pytest

from tidegate.cache.policy import CachePolicy
from tidegate.routing import Router


class Resource:
    async def on_get(self, req, resp): ...

    async def on_post(self, req, resp): ...

    async def on_move(self, req, resp): ...

    async def on_patch_item(self, req, resp): ...


def test_every_method_but_the_safe_ones_is_a_mutation():
    """IDEM-1: those of WebDAV too, and responders with a suffix."""
    router, resource = Router(), Resource()
    router.add_route("/x", resource, _asgi=True)
    router.add_route("/x/{id}", resource, suffix="item", _asgi=True)

    assert router.mutations == {
        ("/x", "POST"): resource.on_post,
        ("/x", "MOVE"): resource.on_move,
        ("/x/{id}", "PATCH"): resource.on_patch_item,
    }


@pytest.mark.parametrize("again", ["/x", "//x", "/x/"])
def test_a_route_is_not_replaced_without_a_word(again: str):
    router = Router()
    router.add_route("/x", Resource(), _asgi=True)

    with pytest.raises(ValueError, match="routed already"):
        router.add_route(again, Resource(), _asgi=True)


class Empty(Resource):
    def __len__(self):
        return 0


class Unsure(Resource):
    def __bool__(self):
        return True


@pytest.mark.parametrize("resource", [Empty(), Unsure()])
def test_a_resource_with_a_truth_of_its_own_is_refused(resource: Resource):
    """Falcon runs no middleware for one that is false, be it only for a moment: it would be served without a token."""
    with pytest.raises(TypeError, match="__bool__ or __len__"):
        Router().add_route("/x", resource, _asgi=True)


class Public(Resource):
    public = True


def test_a_mutation_of_a_public_resource_is_refused():
    """IDEM-4: its result would be nobody's."""
    router = Router()

    with pytest.raises(TypeError, match="MOVE, POST"):
        router.add_route("/x", Public(), _asgi=True)

    assert router.mutations == {}


def test_a_websocket_is_refused():
    class Socket:
        async def on_websocket(self, req, ws): ...

    with pytest.raises(TypeError, match="WebSocket"):
        Router().add_route("/x", Socket(), _asgi=True)


def test_responders_of_unknown_methods_are_refused():
    """Nobody knows whether they change something."""
    router = Router()
    router.options.default_to_on_request = True

    with pytest.raises(TypeError):
        router.add_route("/x", Resource(), _asgi=True)


class Kept:
    cached = CachePolicy()

    async def on_get(self, req, resp): ...

    async def on_post(self, req, resp): ...


class KeptWithHead(Kept):
    async def on_head(self, req, resp): ...


class KeptInPublic:
    cached, public = CachePolicy(), True

    async def on_get(self, req, resp): ...


def test_get_of_a_cached_resource_is_known_and_head_where_get_answers_it():
    router = Router()
    router.add_route("/a", Kept(), _asgi=True)
    router.add_route("/b", KeptWithHead(), _asgi=True)

    assert set(router.cached) == {("/a", "GET"), ("/a", "HEAD"), ("/b", "GET")}


def test_answers_of_a_public_resource_are_not_kept():
    with pytest.raises(TypeError, match="no tenant"):
        Router().add_route("/a", KeptInPublic(), _asgi=True)
