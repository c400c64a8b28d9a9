"""What may be kept and served, as pure functions; hishel, an HTTP cache of its own, is the second opinion."""

import uuid
from email.utils import formatdate

import http_sf
import pytest
from hishel import CacheMiss, CacheOptions, FromCache, Headers, IdleClient, Request, Response, StoreAndUse
from hishel import Entry as HishelEntry
from hypothesis import given
from hypothesis import strategies as st

from tidegate.cache.directives import MOST_SECONDS, read_directives, seconds_of
from tidegate.cache.entry import Entry, decode, encode
from tidegate.cache.freshness import Terms, Verdict, Wish, is_public, jittered, judge, may_stand_in, outward, terms_of, within
from tidegate.cache.policy import CachePolicy
from tidegate.cache.status import CacheStatus
from tidegate.contract.tier import Cache, Lane

NOW = 1_800_000_000.0
LONG = Cache(Lane.SHARED, 0, MOST_SECONDS, MOST_SECONDS)
NAMES = ["max-age", "s-maxage", "no-store", "no-cache", "private", "public", "must-revalidate", "stale-while-revalidate", "immutable", "x"]
ARGUMENTS = ["", "=0", "=5", "=60", '="60"', "=-1", "=abc", "=99999999999", "=", '="a, b"', "=1.5"]
fields = st.lists(st.builds(str.__add__, st.sampled_from(NAMES), st.sampled_from(ARGUMENTS)), max_size=4).map(", ".join)
text = st.text(st.characters(codec="latin-1"), max_size=40)


def entry(fresh: float = 60, stale: int = 0, error: int = 0, age: float = 0) -> Entry:
    return Entry({}, b"", NOW - age, fresh, stale, error, 0.0)


def terms(cache_control: str, status: int = 200, cache: Cache = LONG, **headers: str) -> Terms | str:
    named = {name.replace("_", "-"): value for name, value in headers.items()} | ({"cache-control": cache_control} if cache_control else {})
    return terms_of(status, named, 0, cache=cache, policy=CachePolicy(stale_if_error_seconds=MOST_SECONDS), now=NOW)


@given(fields | text)
def test_nothing_is_kept_that_hishel_would_not_keep_nor_for_longer(field: str) -> None:
    """CACHE-1, with the opt-in of a route in the place of an explicit `public`: RFC 9111, 3 and 4.2.1, of an answer of this moment."""
    found = terms(field)
    if isinstance(found, str):
        return
    asked, options = Request("GET", "https://api/x"), CacheOptions(shared=True)
    theirs = Response(200, Headers({"cache-control": field, "date": formatdate(usegmt=True)}))

    assert isinstance(CacheMiss(options=options, request=asked).next(theirs), StoreAndUse)
    if "max-age" in read_directives(field) or "s-maxage" in read_directives(field):
        assert isinstance(IdleClient(options=options).next(asked, [HishelEntry(uuid.uuid4(), asked, theirs)]), FromCache)


@given(fields | text)
def test_no_field_breaks_the_reader(field: str) -> None:
    given_ = read_directives(field)

    assert all(name == name.lower() for name in given_)
    assert all(0 <= (seconds_of(given_, name) or 0) <= MOST_SECONDS for name in given_)
    Wish.read(field)
    outward({"cache-control": field})


@pytest.mark.parametrize(
    ("field", "seconds"),
    [
        ("max-age=60", 60),
        ('MAX-AGE="60"', 60),
        ("max-age = 7", 7),
        ('max-age="60', 0),
        ('max-age=60"', 0),
        ('max-age=""60""', 0),
        ("max-age=60, max-age=5", 5),
        ("max-age", 0),
        ("max-age=-1", 0),
        ("max-age=" + "9" * 10_000, MOST_SECONDS),
        ('x="max-age=5"', None),
        ("s-maxage=5", None),
        ("max-age=\u0665", 0),
    ],
)
def test_seconds_are_read_strictly_and_saturate(field: str, seconds: int | None) -> None:
    """CACHE-5: 31 bits; what is no number is 0, the strictest."""
    assert seconds_of(read_directives(field), "max-age") == seconds


def test_the_tiers_ttl_bounds_what_the_handler_says() -> None:
    short = Cache(Lane.SHARED, 0, 10, 3)

    assert terms("", cache=short) == Terms(0, 10, 3, MOST_SECONDS)
    assert terms("max-age=60, stale-while-revalidate=60, stale-if-error=7", cache=short) == Terms(0, 10, 3, 7)
    assert terms("max-age=4, stale-while-revalidate=1", cache=short) == Terms(0, 4, 1, MOST_SECONDS)
    assert terms("max-age=60, s-maxage=5", cache=short) == Terms(0, 5, 0, 0)
    assert terms("must-revalidate", cache=short) == Terms(0, 10, 0, 0)


@pytest.mark.parametrize(
    ("age", "found"), [("3", 3), ("3, 5", 5), ("5,3", 5), ("", "age"), ("3;", "age"), ("-3", "age"), ("99999999999", "expired")]
)
def test_of_several_ages_the_greatest_counts_and_garbage_is_not_kept(age: str, found: int | str) -> None:
    assert terms("max-age=60", age=age) == (found if isinstance(found, str) else Terms(found, 60, MOST_SECONDS, MOST_SECONDS))


@pytest.mark.parametrize(("seconds_ago", "age", "found"), [(0, "", 0), (20, "3", 20), (20, "30", 30), (-20, "3", 3), (60, "0", "expired")])
def test_who_says_when_it_made_an_answer_is_no_younger_than_that(seconds_ago: int, age: str, found: int | str) -> None:
    """RFC 9111, 4.2.3: `Age` and `Date` may contradict one another."""
    given_ = {"age": age} if age else {}

    assert terms("max-age=60", date=formatdate(NOW - seconds_ago, usegmt=True), **given_) == (
        found if isinstance(found, str) else Terms(found, 60, MOST_SECONDS, MOST_SECONDS)
    )


@given(text | st.builds("{}, {:02} Jan {} {}:00:00 {}".format, st.sampled_from(["Mon", "Xxx"]), *[st.integers(-1, 40)] * 3, text))
def test_no_date_breaks_the_reader(date: str) -> None:
    """What is none was long ago for `Expires`, and says nothing as `Date`."""
    assert isinstance(terms("", expires=date), Terms | str)
    assert isinstance(terms("max-age=60", date=date), Terms | str)


@pytest.mark.parametrize(
    ("field", "is_told"),
    [
        ("public", True),
        ("Public, max-age=5", True),
        ("public, private", False),
        ("no-store, public", False),
        ('x="public"', False),
        ("", False),
    ],
)
def test_only_what_says_public_and_nothing_to_the_contrary_is_for_caches_beyond_us(field: str, is_told: bool) -> None:
    assert is_public(field) == is_told
    assert (outward({"cache-control": field}) == {}) == is_told


@given(st.floats(0, 1e9), st.floats(0, 1e9), st.integers(0, 10**9), st.integers(0, 10**9))
def test_an_entry_is_fresh_then_stale_then_gone(age: float, fresh: float, stale: int, error: int) -> None:
    kept = entry(fresh, stale, error, age)
    verdict, ttl = judge(kept, Wish(), NOW), kept.ttl(NOW)

    assert (verdict is Verdict.FRESH) == (ttl > 0)
    assert (verdict is Verdict.STALE) == (ttl <= 0 and -ttl < stale)
    assert may_stand_in(kept, Wish(), NOW) == (-ttl < error)
    assert not may_stand_in(kept, Wish.read("no-cache"), NOW)


def test_whoever_wants_a_young_answer_gets_no_stale_one() -> None:
    assert judge(entry(60, 30, age=61), Wish(), NOW) is Verdict.STALE
    assert judge(entry(60, 30, age=61), Wish.read("max-age=100"), NOW) is Verdict.EXPIRED
    assert judge(entry(60, age=30), Wish.read("max-age=30"), NOW) is Verdict.FRESH
    assert judge(entry(60, age=31), Wish.read("max-age=30"), NOW) is Verdict.UNWANTED
    assert judge(entry(60, age=31), Wish.read("min-fresh=30"), NOW) is Verdict.UNWANTED


@given(st.floats(0, 1e6), st.integers(0, 10**6), st.integers(0, 10**6), st.integers(0, 10**6))
def test_what_is_kept_is_bounded_by_what_its_tier_says_now(fresh: float, stale: int, ttl: int, stale_while_revalidate: int) -> None:
    bounded = within(entry(fresh, stale, 7), Cache(Lane.SHARED, 0, ttl, stale_while_revalidate))

    assert (bounded.fresh_seconds, bounded.stale_seconds, bounded.error_seconds) == (min(fresh, ttl), min(stale, stale_while_revalidate), 7)


def test_a_clock_that_is_behind_makes_nobody_younger_than_new() -> None:
    assert (entry(60, age=-100).age(NOW), entry(60, age=-100).ttl(NOW)) == (0, 60)


@given(st.floats(0.1, 1e6))
def test_jitter_never_lengthens_a_lifetime(seconds: float) -> None:
    assert 0.9 * seconds <= jittered(seconds) <= seconds


@given(st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=3), st.binary(max_size=20))
def test_an_entry_is_read_as_it_was_written_and_garbage_is_none(headers: dict[str, str], body: bytes) -> None:
    kept = Entry(headers, body, NOW, 1.5, 2, 3, 0.25)

    assert decode(encode(kept)) == kept
    assert decode(b"\x00" + body) is None


@given(st.booleans(), st.booleans(), st.integers(-1000, 1000) | st.none(), st.sampled_from(["", "uri-miss", "stale", "bypass"]))
def test_cache_status_is_a_structured_field(stored: bool, collapsed: bool, ttl: int | None, forwarded: str) -> None:
    """RFC 9211."""
    status = CacheStatus("Shared", forwarded, ttl, stored, collapsed, "lane-down")

    ((lane, parameters),) = http_sf.parse(status.text(200).encode(), tltype="list")

    assert str(lane) == "Shared"
    # An answer that was kept, and nobody was asked; what somebody was asked in vain is no hit.
    assert ("hit" in parameters) == (not forwarded and ttl is not None)
    assert ("fwd-status" in parameters) == (bool(forwarded) and ttl is None)
    assert parameters.get("ttl") == ttl
    assert (parameters.get("stored"), parameters.get("collapsed")) == (stored or None, collapsed or None)
