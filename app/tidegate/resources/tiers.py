"""The tier that the caller is on; wired by `application.py`."""

from falcon.asgi import Request, Response

from tidegate.resources.errors import RecordNotFoundError


class Tiers:
    """`GET /v1/tiers/{name}`: the caller's own tier; any other looks as if it did not exist."""

    async def on_get(self, req: Request, resp: Response, name: str) -> None:
        """Answer the tier with every default filled in."""
        tier = req.context.tier
        if name != tier.name:
            raise RecordNotFoundError("no such tier")
        resp.media = {"name": tier.name, "spec": tier.to_spec()}
        resp.cache_control = ("private", "no-store")
