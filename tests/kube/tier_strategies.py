"""Hypothesis strategies for tier specs, valid and spoiled; called by the parity test."""

from collections.abc import Iterator
from copy import deepcopy
from typing import Any

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy
from tests.kube.tiers import Json

Place = tuple[Any, Any]

SECONDS_OF = {"h": 3600, "m": 60, "s": 1}
METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"]

names = st.from_regex(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", fullmatch=True)
odd_names = st.sampled_from(["", "a" * 63, "a" * 64, "a.b", "-a", "a-", "A", "ü", "a\n", "9"])


@st.composite
def durations(draw: DrawFn, *, least: int, most: int) -> str:
    """A duration between two numbers of seconds, written in one of the ways there are."""
    seconds = draw(st.integers(least, most))
    written = {
        "h": f"{seconds // 3600}h{seconds % 3600}s",
        "m": f"{seconds % 60}s{seconds // 60}m",
        "s": f"{seconds:05}s",
    }
    fitting = [text for unit, text in written.items() if seconds // SECONDS_OF[unit] <= 99999]
    return draw(st.sampled_from(fitting))


def optional(**fields: SearchStrategy[Any]) -> SearchStrategy[Json]:
    """An object with any of the fields."""
    return st.fixed_dictionaries({}, optional=fields)


windows = st.fixed_dictionaries(
    {
        "name": st.from_regex(r"[a-z]([-a-z0-9]{0,30}[a-z0-9])?", fullmatch=True),
        "limit": st.integers(1, 9007199254740991) | st.integers(1, 1000).map(float),
        "period": durations(least=1, most=744 * 3600),
    },
    optional={"unit": st.sampled_from(["Requests", "Cost", "RequestBytes", "ResponseBytes"])},
)
costs = st.fixed_dictionaries(
    {"path": st.from_regex(r"/[A-Za-z0-9._~{}/-]{0,40}", fullmatch=True), "cost": st.integers(0, 1000000)},
    optional={"methods": st.lists(st.sampled_from(METHODS), min_size=1, max_size=6, unique=True)},
)
waits = durations(least=0, most=60) | st.integers(0, 60000).map("{}ms".format)
sizes = st.integers(16, 999999).map("{}Mi".format) | st.integers(1, 1024).map("{}Gi".format)
queues = optional(maxWait=waits, maxDepth=st.integers(0, 100000))
dedicated = st.fixed_dictionaries({"lane": st.just("Dedicated"), "memory": sizes})
lanes = dedicated | optional(lane=st.sampled_from(["None", "Shared"]))
freshness = optional(ttl=durations(least=1, most=86400), staleWhileRevalidate=durations(least=0, most=86400))
specs = st.fixed_dictionaries(
    {"windows": st.lists(windows, min_size=1, max_size=8, unique_by=lambda window: window["name"])},
    optional={
        "displayName": st.text(min_size=1, max_size=63),
        "enforcement": st.sampled_from(["Enforce", "Shadow"]),
        "partitionBy": st.sampled_from(["Token", "Tenant"]),
        "costs": st.lists(costs, max_size=16),
        "admission": optional(weight=st.integers(1, 1000), maxInFlight=st.integers(1, 10000), queue=queues),
        "cache": st.builds(lambda lane, fresh: lane | fresh, lanes, freshness),
        "idempotency": optional(retention=durations(least=86400, most=744 * 3600)),
        "degradation": optional(onStoreLoss=st.sampled_from(["Local", "Open", "Closed"])),
    },
)

odd_integers = [-1, 0, 1, 2, 1000, 1001, 10001, 100001, 1000001, 2**31, 2**53 - 1, 2**53, 2**63, 2**64, 10**30]
odd_floats = [0.0, -0.0, 1.0, 1.5, 1e3, 1.0000000001, -1.0, float(2**53 - 1), float(2**53), 1e20, 1e300]
bounds = ["0s", "1s", "60s", "61s", "60000ms", "60001ms", "24h", "24h1s", "744h", "743h60m", "744h1s"]
odd_forms = ["1h1m1s1ms", "99999h99999h99999h", "100000s", "1s1s1s1s", "1ms1ms1ms1ms1ms", "1.5h", "-1s", "1d", "1us", "1H"]
odd_sizes = ["15Mi", "16Mi", "1024Gi", "1025Gi", "016Mi", "999999Mi", "1000000Mi", "16MiB", "16"]
odd_choices = ["None", "none", "Dedicated", "Shared", "Shadow", "Cost", "GET", "get", "Local"]
odd_letters = [" ", "x", "1 s", "1s\n", "a\n", "a-", "é" * 63, "😀" * 64, "１s", "/é", "\0"]
odd_lengths = ["a" * 32, "a" * 33, "/" * 256, "/" * 257]
odd_numbers = st.sampled_from([*odd_integers, *odd_floats])
odd_texts = st.just("") | st.sampled_from([*bounds, *odd_forms, *odd_sizes, *odd_choices, *odd_letters, *odd_lengths])
odd_values = st.sampled_from([None, True, False, {}, [], [None], {"name": "x"}]) | odd_numbers | odd_texts

# Values of the same type lie nearer to the bounds of a rule than any others.
alike = {int: odd_numbers, str: odd_texts}


@st.composite
def spoiled(draw: DrawFn) -> object:
    """A valid spec in which one to three places were changed; it may be valid still."""
    root = {"spec": draw(specs)}
    for _ in range(draw(st.sampled_from([1, 1, 1, 2, 3]))):
        if found := list(places(root)):
            spoil(draw, *draw(st.sampled_from(found)))
    return root.get("spec")


def places(container: Any) -> Iterator[Place]:
    """Every place below an object or a list that holds a value."""
    for key, value in container.items() if isinstance(container, dict) else enumerate(container):
        yield container, key
        if isinstance(value, dict | list):
            yield from places(value)


def spoil(draw: DrawFn, container: Any, key: Any) -> None:
    """Change one place: another value, no value, an unknown neighbour, or the same value again."""
    deed = draw(st.sampled_from(["replace", "replace", "replace", "remove", "add", "repeat"]))
    odd = deepcopy(draw(alike.get(type(container[key]), odd_values) | odd_values))
    if deed == "replace":
        container[key] = odd
    elif deed == "remove":
        del container[key]
    elif deed == "add" and isinstance(container, dict):
        container["unknown"] = odd
    elif deed == "repeat" and isinstance(container[key], list):
        container[key] = deepcopy(container[key] * draw(st.integers(2, 9)))
    elif isinstance(container, list):
        container.append(deepcopy(container[key]) if deed == "repeat" else odd)
