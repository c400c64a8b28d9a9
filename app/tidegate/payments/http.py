"""A payment provider over HTTP; made by `application.py`.

`POST /charges` with `{"amount", "currency"}` answers 201 and the charge, or 402 for a refusal; `GET /charges/EFFECT_ID` answers 200 and
the charge, or 404. Both bring the fields `Idempotency-Key` (the effect id) and `Fencing-Token`.
"""

from collections.abc import Mapping

import aiohttp
import msgspec

from tidegate.payments.errors import ChargeDeclinedError, ProviderUnavailableError
from tidegate.payments.provider import Charge

MAXIMUM_REPLY_BYTES = 65_536


class HttpPaymentProvider:
    """A `PaymentProvider` at `url`.

    Args:
        url: Its address, without a path of its own.
        timeout_seconds: Deadline of a call. No call is ever repeated here: the outcome of one that failed is unknown, and is reconciled.
    """

    def __init__(self, url: str, *, timeout_seconds: float) -> None:
        self._url = url.rstrip("/")
        self._timeout = aiohttp.ClientTimeout(total=timeout_seconds)
        self._opened: aiohttp.ClientSession | None = None

    async def charge(self, amount: int, currency: str, *, effect_id: str, fencing: int) -> Charge:
        """Take money.

        Raises:
            ChargeDeclinedError: The provider refused.
            ProviderUnavailableError: It did not answer as it must.
        """
        content = msgspec.json.encode({"amount": amount, "currency": currency})
        status, reply = await self._call("POST", "/charges", _fields(effect_id, fencing), content)
        if status == 402:
            raise ChargeDeclinedError("the payment provider declined the charge")
        if status != 201:
            raise ProviderUnavailableError(f"the payment provider answered a charge with status {status}")
        charge = _charge(reply)
        if (charge.amount, charge.currency) != (amount, currency):
            raise ProviderUnavailableError("the payment provider answered with another charge than it was asked for")
        return charge

    async def find(self, *, effect_id: str, fencing: int) -> Charge | None:
        """Look for a charge.

        Raises:
            ProviderUnavailableError: It did not answer as it must.
        """
        status, reply = await self._call("GET", f"/charges/{effect_id}", _fields(effect_id, fencing))
        if status == 404:
            return None
        if status != 200:
            raise ProviderUnavailableError(f"the payment provider answered a question with status {status}")
        return _charge(reply)

    async def close(self) -> None:
        """Close its connections."""
        if self._opened:
            await self._opened.close()

    def _session(self) -> aiohttp.ClientSession:
        if self._opened is None:
            # Not before: it belongs to the running event loop.
            self._opened = aiohttp.ClientSession(timeout=self._timeout, cookie_jar=aiohttp.DummyCookieJar())
        return self._opened

    async def _call(self, method: str, path: str, headers: Mapping[str, str], content: bytes | None = None) -> tuple[int, bytes]:
        try:
            async with self._session().request(method, self._url + path, headers=headers, data=content, allow_redirects=False) as response:
                reply = b""
                # In parts, as they arrive: `read` gives the first of them, not all.
                async for part in response.content.iter_chunked(MAXIMUM_REPLY_BYTES):
                    reply += part
                    if len(reply) > MAXIMUM_REPLY_BYTES:
                        raise ProviderUnavailableError(f"the payment provider answered with more than {MAXIMUM_REPLY_BYTES} bytes")
                return response.status, reply
        except (aiohttp.ClientError, TimeoutError, OSError) as ex:
            raise ProviderUnavailableError(f"the payment provider did not answer: {type(ex).__name__}") from ex


def _fields(effect_id: str, fencing: int) -> dict[str, str]:
    return {"Idempotency-Key": effect_id, "Fencing-Token": str(fencing), "Content-Type": "application/json"}


def _charge(reply: bytes) -> Charge:
    try:
        return msgspec.json.decode(reply, type=Charge)
    except msgspec.MsgspecError as ex:
        raise ProviderUnavailableError("the payment provider answered with something that is no charge") from ex
