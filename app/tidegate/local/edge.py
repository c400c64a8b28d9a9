"""The Envoy bootstrap of a region's edge: `edge.yaml`, which the chart uses too, with the ports of a run; called by `programs.py`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from tidegate.local.layout import Region

Json = dict[str, Any]

TEMPLATE = Path(__file__).with_name("edge.yaml")
"""What is the same wherever an edge runs."""


def bootstrap(own: Region, regions: Sequence[Region]) -> Json:
    """Configuration of the edge of region `own`: a listener on its edge port, the APIs of all `regions` behind it."""
    config: Json = yaml.safe_load(TEMPLATE.read_text())
    (listener,), (cluster,) = config["static_resources"].values()
    listener["address"] = _address(own.edge_port)
    cluster["type"] = "STATIC"
    cluster["load_assignment"] = {"cluster_name": cluster["name"], "endpoints": _endpoints(own, regions)}
    return config


def _endpoints(own: Region, regions: Sequence[Region]) -> list[Json]:
    return [
        {
            "priority": int(region != own),
            "locality": {"region": region.name},
            "lb_endpoints": [{"endpoint": {"address": _address(region.api_port)}}],
        }
        for region in sorted(regions, key=lambda region: region != own)
    ]


def _address(port: int) -> Json:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}
