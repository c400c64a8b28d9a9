"""The ports that servers of the tests are given."""

from tests.ports import free_port


def test_no_port_is_given_twice():
    """Of so many among twenty thousand some would be alike."""
    given = [free_port() for _ in range(1_000)]

    assert len(set(given)) == len(given)
