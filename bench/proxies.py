"""Configurations of the proxies in `http.py`: Envoy with its local limiter, Traefik with its own and with Redis, and an upstream for both.

Both count by token, in one bucket each; Envoy and Traefik's local one in the memory of that process alone.
"""

from typing import Any

from bench.stage import IDENTITIES

Json = dict[str, Any]
LIMIT = 10**6
"""A second, and as a burst."""
_FILTERS = "type.googleapis.com/envoy.extensions.filters"


def envoy(listeners: list[Json], *upstream_ports: int) -> Json:
    """An Envoy with these listeners."""
    endpoints = [{"endpoint": {"address": _address(port)}} for port in upstream_ports]
    assignment = {"cluster_name": "upstream", "endpoints": [{"lb_endpoints": endpoints}]}
    cluster = {"name": "upstream", "type": "STATIC", "connect_timeout": "1s", "load_assignment": assignment}
    return {"static_resources": {"listeners": listeners, "clusters": [cluster]}}


def upstream(port: int) -> Json:
    """A listener that answers by itself."""
    return _listener(port, {"direct_response": {"status": 200, "body": {"inline_string": '{"status":"ok"}'}}}, [])


def plain(port: int) -> Json:
    """A listener that passes everything on."""
    return _listener(port, {"route": {"cluster": "upstream"}}, [])


def limited(port: int) -> Json:
    """A listener that limits each token."""
    always = {"default_value": {"numerator": 100, "denominator": "HUNDRED"}}
    bucket = {"max_tokens": LIMIT, "tokens_per_fill": LIMIT, "fill_interval": "1s"}
    by_token = {"request_headers": {"header_name": "authorization", "descriptor_key": "token"}}
    limit = {
        "@type": f"{_FILTERS}.http.local_ratelimit.v3.LocalRateLimit",
        "stat_prefix": "local",
        "filter_enabled": always,
        "filter_enforced": always,
        "token_bucket": bucket,
        "rate_limits": [{"actions": [by_token]}],
        # No value: one bucket for each that comes.
        "descriptors": [{"entries": [{"key": "token"}], "token_bucket": bucket}],
        "max_dynamic_descriptors": 2 * IDENTITIES,
        "always_consume_default_token_bucket": False,
    }
    return _listener(port, {"route": {"cluster": "upstream"}}, [{"name": "envoy.filters.http.local_ratelimit", "typed_config": limit}])


def capped(port: int, per_second: int) -> Json:
    """A listener that passes so many a second on, whoever asks."""
    always = {"default_value": {"numerator": 100, "denominator": "HUNDRED"}}
    limit = {
        "@type": f"{_FILTERS}.http.local_ratelimit.v3.LocalRateLimit",
        "stat_prefix": "local",
        "filter_enabled": always,
        "filter_enforced": always,
        # A quarter of a second of it as a burst.
        "token_bucket": {"max_tokens": per_second // 4, "tokens_per_fill": per_second // 4, "fill_interval": "0.25s"},
    }
    return _listener(port, {"route": {"cluster": "upstream"}}, [{"name": "envoy.filters.http.local_ratelimit", "typed_config": limit}])


def traefik(port: int, upstream_port: int, redis: str) -> tuple[Json, Json]:
    """Static and dynamic configuration: `/plain`, `/local` and `/redis`."""
    rate = {"average": LIMIT, "burst": LIMIT, "sourceCriterion": {"requestHeaderName": "Authorization"}}
    middlewares = {"local": {"rateLimit": rate}, "redis": {"rateLimit": {**rate, "redis": {"endpoints": [redis]}}}}
    routers = {
        name: {"rule": f"PathPrefix(`/{name}`)", "service": "upstream", **({"middlewares": [name]} if name in middlewares else {})}
        for name in ("plain", *middlewares)
    }
    services = {"upstream": {"loadBalancer": {"servers": [{"url": f"http://127.0.0.1:{upstream_port}"}]}}}
    dynamic = {"http": {"routers": routers, "middlewares": middlewares, "services": services}}
    static = {
        "entryPoints": {"web": {"address": f"127.0.0.1:{port}"}},
        "global": {"checkNewVersion": False, "sendAnonymousUsage": False},
        "log": {"level": "FATAL"},
    }
    return static, dynamic


def _address(port: int) -> Json:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def _listener(port: int, action: Json, filters: list[Json]) -> Json:
    router = {"name": "envoy.filters.http.router", "typed_config": {"@type": f"{_FILTERS}.http.router.v3.Router"}}
    hosts = [{"name": "all", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, **action}]}]
    manager = {
        "@type": f"{_FILTERS}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "http",
        "route_config": {"virtual_hosts": hosts},
        "http_filters": [*filters, router],
    }
    chain = {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}
    return {"name": f"port-{port}", "address": _address(port), "filter_chains": [chain]}
