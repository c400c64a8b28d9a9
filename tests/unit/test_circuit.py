"""When a lost Redis is asked; by a clock of the test's own."""

from tidegate.limits.circuit import RETRY_SECONDS, Circuit


class Clock:
    def __init__(self) -> None:
        self.now = 10.0

    def __call__(self) -> float:
        return self.now


def test_all_ask_until_it_opens():
    clock = Clock()
    circuit = Circuit(clock)

    for clock.now in (10.0, 11.0, 100.0):
        assert circuit.allows()


def test_while_open_one_asks_after_each_pause():
    clock = Clock()
    circuit = Circuit(clock)
    circuit.open()

    asked = []
    for quarter in range(13):
        clock.now = 10.0 + RETRY_SECONDS * quarter / 4
        asked += [quarter for _ in range(2) if circuit.allows()]

    assert asked == [4, 8, 12]


def test_all_ask_once_it_is_closed():
    circuit = Circuit(Clock())
    circuit.open()
    circuit.close()

    assert circuit.allows()
    assert circuit.allows()
