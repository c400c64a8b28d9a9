"""When a lost Redis is asked; by a clock of the test's own."""

from tidegate.limits.circuit import RETRY_SECONDS, Circuit


def test_all_ask_until_it_opens():
    circuit = Circuit()

    assert all(circuit.allows(float(now)) for now in range(5))


def test_while_open_one_asks_after_each_pause():
    circuit = Circuit()
    circuit.open(10.0)

    answers = [circuit.allows(10.0 + RETRY_SECONDS * quarters / 4) for quarters in range(13) for _ in range(2)]

    asked = [number // 2 for number, is_allowed in enumerate(answers) if is_allowed]
    assert asked == [4, 8, 12]


def test_all_ask_once_it_is_closed():
    circuit = Circuit()
    circuit.open(10.0)
    circuit.close()

    assert circuit.allows(10.0)
    assert circuit.allows(10.0)
