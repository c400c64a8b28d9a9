"""When the number of workers that share a limit changes; by a clock of the test's own."""

from tidegate.tiers.regional import SILENT_MILLISECONDS
from tidegate.tiers.roster import SETTLED_SECONDS, Roster


def heard(*numbers: int, step: float = 1.0) -> Roster:
    roster = Roster()
    for at, number in enumerate(numbers):
        roster.hear(number, at * step)
    return roster


def test_a_smaller_number_is_believed_no_sooner_than_a_silent_worker_is_dropped():
    assert SETTLED_SECONDS * 1000 >= SILENT_MILLISECONDS


def test_it_grows_at_once():
    assert [heard().workers, heard(2).workers, heard(2, 3).workers] == [0, 2, 3]


def test_it_shrinks_to_the_largest_number_of_the_last_ten_seconds():
    assert heard(8, *[1, 2, 3, 3, 3, 3, 3, 3, 3, 2]).workers == 8
    assert heard(8, *[1, 2, 3, 3, 3, 3, 3, 3, 3, 2, 2]).workers == 3


def test_a_region_that_fills_again_within_that_time_changes_nothing():
    """A Redis that comes back empty hears of its workers one after the other."""
    assert heard(8, 1, 3, 7, 8, *[7] * 9).workers == 8


def test_what_was_heard_before_an_interruption_does_not_count():
    roster = heard(8, *[1] * 9)
    roster.interrupt()
    roster.hear(1, 20.0)
    roster.hear(1, 29.9)

    assert roster.workers == 8
    roster.hear(1, 30.0)
    assert roster.workers == 1
