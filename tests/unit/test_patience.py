"""How long a client says that it waits, and is told to wait."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate.admission.patience import preferred_wait_seconds, retry_after_seconds


@pytest.mark.parametrize(
    ("prefer", "seconds"),
    [
        (None, math.inf),
        ("", math.inf),
        ("wait=10", 10),
        ("respond-async, wait=3", 3),
        ("Wait = 4; foo", 4),
        ('wait="5"', 5),
        ("wait=2, wait=9", 2),
        ("wait=0", 0),
        ("wait=-1", math.inf),
        ("wait=1.5", math.inf),
        ("wait=soon", math.inf),
        ("await=1", math.inf),
        ("wait=" + "9" * 400, math.inf),
    ],
)
def test_the_wait_that_a_client_prefers_is_read(prefer: str | None, seconds: float):
    assert preferred_wait_seconds(prefer) == seconds


@given(st.none() | st.floats(0, 1e9))
def test_a_client_is_told_to_wait_at_least_as_long_as_it_would_have_to(wait_seconds: float | None):
    told = retry_after_seconds(wait_seconds)

    assert max(1, min(60, wait_seconds or 0)) <= told <= 91


def test_clients_that_are_refused_together_are_told_different_times():
    assert {retry_after_seconds(0.5) for _ in range(200)} == {1, 2}
    assert len({retry_after_seconds(20) for _ in range(200)}) > 5
