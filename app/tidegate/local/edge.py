"""The Envoy bootstrap of a region's edge: own region first, the others behind it; a pure function, called by `programs.py`."""

from collections.abc import Sequence
from typing import Any

from tidegate.local.layout import Region

Json = dict[str, Any]

_TYPES = "type.googleapis.com/envoy.extensions"
_CLUSTER = "api"


def bootstrap(own: Region, regions: Sequence[Region]) -> Json:
    """Configuration of the edge of region `own`: a listener on its edge port, the APIs of all `regions` behind it."""
    return {
        # No admin interface: nobody on this machine may drain or reconfigure an edge.
        "static_resources": {"listeners": [_listener(own.edge_port)], "clusters": [_cluster(own, regions)]},
        "overload_manager": {
            "resource_monitors": [
                _typed(
                    "envoy.resource_monitors.global_downstream_max_connections",
                    "resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig",
                    max_active_downstream_connections=10_000,
                )
            ]
        },
    }


def _typed(name: str, kind: str, **fields: Any) -> Json:
    return {"name": name, "typed_config": {"@type": f"{_TYPES}.{kind}", **fields}}


def _address(port: int) -> Json:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def _listener(port: int) -> Json:
    manager = _typed(
        "envoy.filters.network.http_connection_manager",
        "filters.network.http_connection_manager.v3.HttpConnectionManager",
        stat_prefix="edge",
        route_config=_routes(),
        http_filters=[_typed("envoy.filters.http.router", "filters.http.router.v3.Router", suppress_envoy_headers=True)],
        use_remote_address=True,
        normalize_path=True,
        server_header_transformation="PASS_THROUGH",
        stream_idle_timeout="60s",
        request_headers_timeout="10s",
        common_http_protocol_options={"idle_timeout": "300s", "headers_with_underscores_action": "REJECT_REQUEST"},
        local_reply_config=_own_answers(),
    )
    return {"name": "edge", "address": _address(port), "filter_chains": [{"filters": [manager]}]}


def _own_answers() -> Json:
    """What the edge itself says, when no region answers, has the form of every other error (ERR-1)."""
    problem = {
        "type": "about:blank",
        "title": "The edge could not serve this request",
        "status": "%RESPONSE_CODE%",
        "instance": "urn:uuid:%REQ(X-REQUEST-ID)%",
        "detail": "No region answered in time, or the request is not one that the edge passes on.",
    }
    unavailable = {"comparison": {"op": "GE", "value": {"default_value": 502, "runtime_key": "edge.unavailable"}}}
    return {
        "mappers": [{"filter": {"status_code_filter": unavailable}, "headers_to_add": [_field("Retry-After", "1")]}],
        "body_format": {"json_format": problem, "content_type": "application/problem+json"},
    }


def _field(name: str, value: str) -> Json:
    return {"header": {"key": name, "value": value}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}


def _routes() -> Json:
    route = {"cluster": _CLUSTER, "timeout": "15s", "retry_policy": _retries()}
    return {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, "route": route}]}]}


def _retries() -> Json:
    """To another region at once. A POST may be sent again: its idempotency key makes the second a replay."""
    return {
        "retry_on": "connect-failure,refused-stream,reset,retriable-headers",
        # A region that cannot decide says so; while the store that all share is away, no other region would do better.
        "retriable_headers": [{"name": "tidegate-unavailable", "string_match": {"exact": "region"}}],
        "num_retries": 3,
        "per_try_timeout": "4s",
        "retry_host_predicate": [
            _typed("envoy.retry_host_predicates.previous_hosts", "retry.host.previous_hosts.v3.PreviousHostsPredicate")
        ],
        "host_selection_retry_max_attempts": 3,
        "retry_priority": _typed(
            "envoy.retry_priorities.previous_priorities",
            "retry.priority.previous_priorities.v3.PreviousPrioritiesConfig",
            update_frequency=1,
        ),
        "retry_back_off": {"base_interval": "0.005s", "max_interval": "0.05s"},
    }


def _cluster(own: Region, regions: Sequence[Region]) -> Json:
    protocol = {
        "@type": f"{_TYPES}.upstreams.http.v3.HttpProtocolOptions",
        "explicit_http_config": {"http_protocol_options": {}},
        # Below the workers' 75 s, or the edge would use a connection that its worker is closing.
        "common_http_protocol_options": {"idle_timeout": "60s"},
        "outlier_detection": {"error_matcher": {"and_match": {"rules": [_has_failed(), {"not_match": _is_overloaded()}]}}},
    }
    return {
        "name": _CLUSTER,
        "type": "STATIC",
        "connect_timeout": "0.5s",
        "load_assignment": {"cluster_name": _CLUSTER, "endpoints": _endpoints(own, regions)},
        # By default a change of health within a second of the last one waits for that second: a region that fails again would be kept.
        "common_lb_config": {"healthy_panic_threshold": {"value": 50}, "update_merge_window": "0s"},
        "health_checks": [_health_check()],
        "close_connections_on_host_health_failure": True,
        "outlier_detection": _ejection(),
        # The default of 3 concurrent retries would refuse most of what was in flight when a region dies.
        "circuit_breakers": {"thresholds": [{"max_retries": 1024}]},
        "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": protocol},
    }


def _endpoints(own: Region, regions: Sequence[Region]) -> list[Json]:
    return [
        {
            "priority": int(region != own),
            "locality": {"region": region.name},
            "lb_endpoints": [{"endpoint": {"address": _address(region.api_port)}}],
        }
        for region in sorted(regions, key=lambda region: region != own)
    ]


def _health_check() -> Json:
    return {
        # A dead region refuses at once. A busy machine may be late: two late answers would take its last region out.
        "timeout": "1s",
        "interval": "0.25s",
        "no_traffic_interval": "0.25s",
        "unhealthy_threshold": 2,
        "healthy_threshold": 1,
        "http_health_check": {"path": "/readyz"},
    }


def _has_failed() -> Json:
    return {"http_response_headers_match": {"headers": [{"name": ":status", "range_match": {"start": 500, "end": 600}}]}}


def _is_overloaded() -> Json:
    """A region that serves as many as it can: the rest must not be served by the other, or both would be overloaded."""
    return {"http_response_headers_match": {"headers": [{"name": "tidegate-unavailable", "string_match": {"exact": "capacity"}}]}}


def _ejection() -> Json:
    return {
        "consecutive_5xx": 10,
        "consecutive_gateway_failure": 3,
        "interval": "0.25s",
        "base_ejection_time": "1s",
        "max_ejection_time": "5s",
        "max_ejection_percent": 100,
        # A share of requests is ejected by default; one host a region leaves no share to keep.
        "enforcing_consecutive_gateway_failure": 100,
        # By default the next passed health check, a quarter of a second later, would take the region back.
        "successful_active_health_check_uneject_host": False,
    }
