"""RateLimitTier objects, and a small client for them; called by the tests of this folder."""

import json
from dataclasses import dataclass
from typing import Any

from kubernetes import client

Json = dict[str, Any]
KIND = {"group": "tidegate.dev", "version": "v1alpha1", "plural": "ratelimittiers"}
TIMEOUT_SECONDS = 10


class Refused(Exception):
    """The API server refused the object; the message is the server's, and `fields` are those at fault (none for unknown ones)."""

    def __init__(self, status: Json) -> None:
        super().__init__(status["message"])
        causes = status.get("details", {}).get("causes", [])
        # What CEL cannot look at, as the rest of the object is invalid, is told without a field.
        self.fields = {cause["field"] for cause in causes} - {"<nil>"}


@dataclass(frozen=True)
class TierClient:
    """Creates, reads, edits and deletes tiers of one namespace, with unknown fields refused."""

    api: client.ApiClient
    namespace: str

    def create(self, name: str, spec: object, *, dry_run: bool = False) -> Json:
        """Create a tier and return it as stored. Raises Refused."""
        kind = {"apiVersion": "tidegate.dev/v1alpha1", "kind": "RateLimitTier"}
        body = {**kind, "metadata": {"name": name}, "spec": spec}
        options = {"field_validation": "Strict", **({"dry_run": "All"} if dry_run else {})}
        try:
            return dict(self._objects.create_namespaced_custom_object(**self._where, **options, body=body))
        except client.ApiException as ex:
            if ex.status not in (400, 422):
                raise
            raise Refused({"message": str(ex), **json.loads(ex.body or "{}")}) from ex

    def edit(self, name: str, **spec: object) -> Json:
        """Replace fields of a tier's spec and return the tier as stored."""
        patched = self._objects.patch_namespaced_custom_object(**self._where, name=name, body={"spec": spec})
        return dict(patched)

    def patch_status(self, name: str, status: Json) -> Json:
        """Replace fields of a tier's status, as the operator would."""
        body = {"status": status}
        return dict(self._objects.patch_namespaced_custom_object_status(**self._where, name=name, body=body))

    def read(self, name: str) -> Json:
        """The tier as the server holds it."""
        return dict(self._objects.get_namespaced_custom_object(**self._where, name=name))

    def names(self) -> set[str]:
        """Names of the tiers that exist."""
        return {tier["metadata"]["name"] for tier in self._list()}

    def versions(self) -> dict[str, str]:
        """What each tier's every write changes, by name."""
        return {tier["metadata"]["name"]: tier["metadata"]["resourceVersion"] for tier in self._list()}

    def all_ready(self) -> bool:
        """Whether every tier's newest generation is enforced everywhere, as its status says."""
        return all(is_ready(tier) for tier in self._list())

    def is_ready(self, name: str) -> bool:
        """Whether that holds for one tier."""
        return is_ready(self.read(name))

    def _list(self) -> list[Json]:
        return list(self._objects.list_namespaced_custom_object(**self._where)["items"])

    def delete(self, name: str) -> None:
        """Ask for a tier's deletion; a finalizer may hold it for a while."""
        self._objects.delete_namespaced_custom_object(**self._where, name=name)

    @property
    def _objects(self) -> Any:
        # The client declares every custom object an `object`; Any spares a cast at each call.
        return client.CustomObjectsApi(self.api)

    @property
    def _where(self) -> Json:
        return {**KIND, "namespace": self.namespace, "_request_timeout": TIMEOUT_SECONDS}


def window(**changes: object) -> Json:
    """A valid window, with changes."""
    return {"name": "minute", "limit": 600, "period": "1m", **changes}


def spec(**changes: object) -> Json:
    """The smallest valid spec, with changes."""
    return {"windows": [window()], **changes}


def limited(limit: int) -> Json:
    """A spec with one window of an hour."""
    return spec(windows=[window(limit=limit, period="1h")])


def condition(tier: Json, kind: str) -> Json:
    """One condition of a tier; empty while it isn't there."""
    found = [entry for entry in tier.get("status", {}).get("conditions", []) if entry["type"] == kind]
    return dict(found[0]) if found else {}


def is_ready(tier: Json) -> bool:
    """Whether its status says that its newest generation is enforced everywhere."""
    ready = condition(tier, "Ready")
    return ready.get("status") == "True" and ready["observedGeneration"] == tier["metadata"]["generation"]
