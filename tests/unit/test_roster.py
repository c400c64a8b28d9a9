"""When the number of workers that share a limit changes; by a clock of the test's own."""

from tidegate.tiers.regional import SILENT_MILLISECONDS
from tidegate.tiers.roster import JOINED_SECONDS, SETTLED_SECONDS, Roster


def heard(*numbers: int) -> Roster:
    """A roster that heard these numbers, one a second; the first one for long enough."""
    roster = Roster()
    for at, number in enumerate(numbers[:1] * 2 + numbers):
        roster.hear(number, at - JOINED_SECONDS)
    return roster


def test_a_smaller_number_is_believed_no_sooner_than_a_silent_worker_is_dropped():
    assert SETTLED_SECONDS * 1000 >= SILENT_MILLISECONDS


def test_workers_that_start_together_have_no_share_before_they_know_of_one_another():
    """Each hears of those before it."""
    rosters = [Roster() for _ in range(4)]
    for number, roster in enumerate(rosters, start=1):
        roster.hear(number, number / 10)
    for roster in rosters:
        roster.hear(4, JOINED_SECONDS)

    assert [roster.workers for roster in rosters] == [0, 0, 0, 0]
    for roster in rosters:
        roster.hear(4, JOINED_SECONDS + 0.5)
    assert [roster.workers for roster in rosters] == [4, 4, 4, 4]


def test_a_worker_that_was_interrupted_as_it_joined_waits_anew():
    roster = Roster()
    roster.hear(3, 0.0)
    roster.interrupt()
    roster.hear(3, JOINED_SECONDS)

    assert roster.workers == 0


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
