"""A wrong setting is refused by the name of its variable, and no password is told."""

import traceback

import pytest

from tidegate.connections.etcd import EtcdServers
from tidegate.settings import Settings, SettingsError

SOUND = {
    "TIDEGATE_REGION": "dublin",
    "TIDEGATE_REDIS_URL": "redis://redis:6379/0",
    "TIDEGATE_STORE_URL": "unix:///run/redis.sock",
    "TIDEGATE_TOKEN_ISSUER": "https://issuer.test",
    "TIDEGATE_TOKEN_AUDIENCE": "api",
    "TIDEGATE_TOKEN_KEYS_FILE": "/keys/jwks.json",
    "TIDEGATE_IDENTITY_KEY_FILE": "/keys/identity.key",
    "TIDEGATE_IDEMPOTENCY_KEY_FILE": "/keys/idempotency.key",
    "TIDEGATE_RESULT_KEY_FILE": "/keys/result.key",
}


def refusal(**changed: str) -> SettingsError:
    with pytest.raises(SettingsError) as caught:
        Settings.from_environment(SOUND | changed)
    return caught.value


@pytest.mark.parametrize(
    "url",
    [
        "redis://redis",
        "redis://:pass%2Fword@redis:6379/15",
        "rediss://user:password@redis.test:6380?ssl_ca_certs=/ca.pem",
        "redis://[::1]:6379",
        "unix:///a%20b/redis.sock?db=2",
        "unix://:password@/run/redis.sock",
    ],
)
@pytest.mark.parametrize("name", ["TIDEGATE_REDIS_URL", "TIDEGATE_STORE_URL"])
def test_a_url_that_leads_somewhere_is_kept_as_it_is(name: str, url: str):
    assert getattr(Settings.from_environment(SOUND | {name: url}), name.removeprefix("TIDEGATE_").lower()) == url


@pytest.mark.parametrize(
    "url",
    [
        "redis+sentinel://a/regional",
        "redis+sentinel://user:pass%2Fword@a:1,b,[::1]:3/my%20region/2?sentinel_username=me&sentinel_password=hun%26ter2",
        "rediss+sentinel://a,b,c/regional?ssl_ca_certs=/ca.pem",
        "redis+cluster://:password@a:7000,b,[::1]",
        "rediss+cluster://a/?ssl_ca_certs=/ca.pem",
    ],
)
def test_several_servers_may_hold_a_region_but_not_the_store(url: str):
    """A commit touches keys of many slots."""
    assert Settings.from_environment(SOUND | {"TIDEGATE_REDIS_URL": url}).redis_url == url
    assert "ter2" not in str(refusal(TIDEGATE_STORE_URL=url))


@pytest.mark.parametrize("url", ["etcd://a", "etcd://user:pass%2Fword@a:2379,b,[::1]:3/", "etcds://a,b,c", "etcds://user:password@a/?"])
def test_etcd_may_be_the_store_but_not_hold_a_region(url: str):
    assert Settings.from_environment(SOUND | {"TIDEGATE_STORE_URL": url}).store_url.is_etcd
    assert "TIDEGATE_REDIS_URL" in str(refusal(TIDEGATE_REDIS_URL=url))


def test_a_url_of_etcd_is_read_decoded():
    servers = EtcdServers.read("etcd://me%40home:pass%2Cword@a:1,b,[::1]:3")

    assert (servers.members, servers.user, servers.password) == ((("a", 1), ("b", 2379), ("::1", 3)), "me@home", "pass,word")
    assert [str(member) for member in servers.members] == ["a:1", "b:2379", "[::1]:3"]


def test_settings_can_be_shown_without_their_passwords():
    urls = {"TIDEGATE_REDIS_URL": "redis://:hunter2@a", "TIDEGATE_STORE_URL": "etcd://user:hunter2@a"}

    assert "ter2" not in repr(Settings.from_environment(SOUND | urls))
    assert "ter2" not in repr(EtcdServers.read(urls["TIDEGATE_STORE_URL"]))


@pytest.mark.parametrize(
    "url",
    [
        "",
        "redis",
        "redis:6379",
        "http://:hunter2@redis",
        "redis://",
        "redis://:hunter2@/0",
        "redis://:hunter2@redis:port",
        "redis://:hunter2@redis:65536",
        "redis://:hunter2@redis/cache",
        "redis://:hunter2@[redis",
        "redis://:hun/ter2@redis",
        "redis://:hunter2@redis?db=x",
        "redis://:hunter2@redis?hunter2=1",
        "rediss://:hunter2@redis?ssl_cert_reqs=hunter2",
        "redis://:hunter2@redis?decode_responses=true",
        "redis://:hunter2@redis?retry=3",
        "unix://",
        "unix://run/hunter2.sock",
        "redis+sentinel://:hunter2@a",
        "redis+sentinel://:hunter2@a/",
        "redis+sentinel://:hunter2@a/regional/cache",
        "redis+sentinel://:hunter2@a/regional/0/1",
        "redis+sentinel://:hunter2@a,/regional",
        "redis+sentinel://:hun/ter2@a/regional",
        "redis+sentinel://:hun@ter2@a/regional",
        "redis+sentinel://:hunter2@a/regional?hunter2=1",
        "redis+sentinel://:hunter2@a/regional?sentinel_password",
        "redis+cluster://:hunter2@",
        "redis+cluster://:hunter2@a:65536",
        "redis+cluster://:hunter2@a:port,b",
        "redis+cluster://:hunter2@a/regional",
        "redis+cluster://:hunter2@a//1",
        "redis+cluster://:hunter2@a?db=1",
        "redis+cluster://a?sentinel_password=hunter2",
        "rediss+cluster://:hunter2@a?ssl_cert_reqs=hunter2",
        "redis+other://:hunter2@a",
        "unix+cluster://:hunter2@a",
        "etcd://",
        "etcd:hunter2",
        "etcd://:hunter2@a",
        "etcd://hunter2@a",
        "etcd://user:hun/ter2@a",
        "etcd://user:hun@ter2@a",
        "etcd://user:hunter2@a:port",
        "etcd://user:hunter2@a:65536",
        "etcd://user:hunter2@a,",
        "etcd://user:hunter2@a/0",
        "etcd://user:hunter2@a?ca=/ca.pem",
        "etcds://user:hunter2@a?hunter2",
        "etcds://user:hunter2@a?hunter2=1",
        "etcds://user:hunter2@a?ca=",
        "etcds://user:hunter2@a?ca=/a&ca=/b",
        "etcds://user:hunter2@a?cert=/tls.crt",
        "etcds://user:hunter2@a?ca=/does/not/exist",
        "etcds://user:hunter2@a?ca=%00",
    ],
)
@pytest.mark.parametrize("name", ["TIDEGATE_REDIS_URL", "TIDEGATE_STORE_URL"])
def test_any_other_url_is_refused_without_a_word_of_it(name: str, url: str):
    error = refusal(**{name: url})

    assert name in str(error)
    assert "Expected" in str(error)
    assert "ter2" not in "".join(traceback.format_exception(error))


@pytest.mark.parametrize("value", ["inf", "nan", "-1", "61", "soon", ""])
@pytest.mark.parametrize("name", ["REDIS_TIMEOUT_SECONDS", "DECISION_TIMEOUT_SECONDS", "STORE_TIMEOUT_SECONDS", "DRAIN_SECONDS"])
def test_a_time_out_of_reason_is_refused(name: str, value: str):
    name = f"TIDEGATE_{name}"

    assert name in str(refusal(**{name: value}))


@pytest.mark.parametrize("value", ["0", "257", "1.5", ""])
def test_a_number_of_shards_out_of_reason_is_refused(value: str):
    assert "TIDEGATE_LIMITS_SHARDS" in str(refusal(TIDEGATE_LIMITS_SHARDS=value))


@pytest.mark.parametrize("name", [name for name in SOUND if name.endswith("_FILE")])
def test_a_path_of_nothing_is_refused(name: str):
    """It would be the working directory."""
    assert name in str(refusal(**{name: ""}))


@pytest.mark.parametrize("name", SOUND)
def test_a_missing_variable_is_named(name: str):
    with pytest.raises(SettingsError, match=name):
        Settings.from_environment({other: value for other, value in SOUND.items() if other != name})


def test_the_least_seats_are_no_more_than_the_most():
    assert Settings.from_environment(SOUND | {"TIDEGATE_MINIMUM_SEATS": "8", "TIDEGATE_SEATS": "8"}).minimum_seats == 8
    assert str(refusal(TIDEGATE_MINIMUM_SEATS="9", TIDEGATE_SEATS="8")) == "9 is more than the 8 seats - at TIDEGATE_MINIMUM_SEATS"
