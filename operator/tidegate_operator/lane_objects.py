"""The Kubernetes objects that make one dedicated cache lane in one region, without I/O; applied by `lanes.py`.

A lane is an evicting Valkey of its own: nothing is on its disk, nothing else may connect, and it is gone with its tier.
"""

from base64 import b64encode
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from tidegate.contract.codec import TierDocument
from tidegate.contract.lanes import lane_password
from tidegate_operator.lane_site import LaneSite

Manifest = dict[str, Any]

PORT = 6379
USER = "tidegate-lane"
RULES = "~tg:1:cache:* +evalsha +script|load +time +hget +hset +hdel +hlen +pttl +pexpire +unlink +scan"
"""What the scripts of `tidegate.cache` and the purge need."""
LANE, TIER, REGION = "tidegate.dev/lane", "tidegate.dev/tier", "tidegate.dev/region"
"""Labels: the name of the lane, which its pods are selected by, and whose it is."""
HEADROOM_MEBIBYTES, HEADROOM_DIVISOR = 32, 4
"""Memory of a pod above `maxmemory`: the server itself, and a fourth for what its allocator cannot give back (docs/cache.md)."""
LONGEST_TIER = 17
"""Characters of a tier's name within that of its lane: with a region of 20, 52 in all, as a StatefulSet's pods carry its name and a hash
in one label of 63."""


@dataclass(frozen=True, slots=True)
class LaneOrder:
    """A lane that is wanted.

    Args:
        document: The tier.
        region: Name of the region.
        site: What all lanes share.
        secret: What passwords follow from.
    """

    document: TierDocument
    region: str
    site: LaneSite
    secret: bytes

    @property
    def name(self) -> str:
        """Of all its objects."""
        return f"{_stem(self.site, self.document)}-{self.region}"

    @property
    def labels(self) -> dict[str, str]:
        """Of all its objects and its pod."""
        return self.site.labels | {LANE: self.name, TIER: self.document.tier.name, REGION: self.region}

    @property
    def selector(self) -> dict[str, str]:
        """What tells its pod from all others, also from that of a lane of the same tier before it was made again."""
        return {LANE: self.name}

    def objects(self) -> tuple[Manifest, ...]:
        """All of it, in the order of a change: nobody connects before the policy is there, and a server reads the Secret once."""
        users = _users(lane_password(self.secret, self.document))
        return (self._network_policy(), self._service(), self._secret(users), self._stateful_set(users))

    def _secret(self, users: str) -> Manifest:
        return self._object("v1", "Secret") | {"type": "Opaque", "data": {"valkey.conf": b64encode(users.encode()).decode()}}

    def _network_policy(self) -> Manifest:
        clients = {"podSelector": {"matchLabels": self.site.regions[self.region].clients}}
        spec = {
            "podSelector": {"matchLabels": self.selector},
            # Nothing is said of egress, so there is none; an empty list would be dropped by the server, and look like a change each time.
            "policyTypes": ["Ingress", "Egress"],
            "ingress": [{"from": [clients], "ports": [{"protocol": "TCP", "port": PORT}]}],
        }
        return self._object("networking.k8s.io/v1", "NetworkPolicy") | {"spec": spec}

    def _service(self) -> Manifest:
        ports = [{"name": "redis", "port": PORT, "targetPort": "redis", "protocol": "TCP"}]
        return self._object("v1", "Service") | {"spec": {"selector": self.selector, "ports": ports}}

    def _stateful_set(self, users: str) -> Manifest:
        # The server reads its users once: other ones roll the pod.
        annotations = {"tidegate.dev/users": sha256(users.encode()).hexdigest()[:16]}
        spec = {
            "serviceName": self.name,
            "replicas": 1,
            # A pod that never gets ready is replaced as well when its template changes.
            "podManagementPolicy": "Parallel",
            "selector": {"matchLabels": self.selector},
            "template": {"metadata": {"labels": self.labels, "annotations": annotations}, "spec": self._pod()},
        }
        return self._object("apps/v1", "StatefulSet") | {"spec": spec}

    def _pod(self) -> Manifest:
        return self.site.regions[self.region].pod | {
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "containers": [self._container()],
            "volumes": [{"name": "users", "secret": {"secretName": self.name}}],
        }

    def _container(self) -> Manifest:
        mebibytes = self.document.tier.cache.memory_mebibytes
        memory = {"memory": f"{mebibytes + HEADROOM_MEBIBYTES + mebibytes // HEADROOM_DIVISOR}Mi"}
        resources = self.site.container.get("resources", {})
        answers = {"tcpSocket": {"port": "redis"}}
        return self.site.container | {
            "name": "lane",
            "command": ["valkey-server", "/etc/valkey/valkey.conf"],
            "args": [
                *("--save", "", "--appendonly", "no"),
                *("--maxmemory", f"{mebibytes}mb", "--maxmemory-policy", "allkeys-lfu"),
            ],
            "ports": [{"name": "redis", "containerPort": PORT, "protocol": "TCP"}],
            "startupProbe": answers | {"periodSeconds": 1, "failureThreshold": 30},
            "readinessProbe": answers | {"periodSeconds": 5},
            "livenessProbe": answers | {"periodSeconds": 10},
            # Equal, so that what was promised is there, and a lane that needs more is what is ended.
            "resources": {kind: resources.get(kind, {}) | memory for kind in ("requests", "limits")},
            "volumeMounts": [{"name": "users", "mountPath": "/etc/valkey", "readOnly": True}],
        }

    def _object(self, version: str, kind: str) -> Manifest:
        owner = {
            "apiVersion": "tidegate.dev/v1alpha1",
            "kind": "RateLimitTier",
            "name": self.document.tier.name,
            "uid": self.document.uid,
            # Without blockOwnerDeletion: where that is checked, it would need `update` on the tiers' finalizers.
            "controller": True,
        }
        metadata = {"name": self.name, "labels": self.labels, "ownerReferences": [owner]}
        return {"apiVersion": version, "kind": kind, "metadata": metadata}


def lane_address(site: LaneSite, document: TierDocument) -> str:
    """Where workers find the lane of a tier in their `{region}`, without the password."""
    return f"redis://{USER}@{_stem(site, document)}-{{region}}:{PORT}"


def _stem(site: LaneSite, document: TierDocument) -> str:
    # The uid keeps a tier that is made again from its predecessor's objects, which may be there for another while.
    identity = "|".join([*(f"{name}={value}" for name, value in sorted(site.labels.items())), document.uid])
    short = document.tier.name[:LONGEST_TIER].rstrip("-")
    return f"lane-{short}-{sha256(identity.encode()).hexdigest()[:8]}"


def _users(password: str) -> str:
    # Of the password there is only a hash: workers derive it, and nobody else needs it.
    hashed = sha256(password.encode()).hexdigest()
    return f"user default reset\nuser {USER} reset on #{hashed} {RULES}\n"
