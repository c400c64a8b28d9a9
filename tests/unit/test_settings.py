"""A wrong setting is refused by the name of its variable, and no password is told."""

import traceback

import pytest

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
def test_a_url_that_leads_somewhere_is_kept_as_it_is(url: str):
    assert Settings.from_environment(SOUND | {"TIDEGATE_STORE_URL": url}).store_url == url


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
        "unix://",
        "unix://run/hunter2.sock",
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


@pytest.mark.parametrize("name", [name for name in SOUND if name.endswith("_FILE")])
def test_a_path_of_nothing_is_refused(name: str):
    """It would be the working directory."""
    assert name in str(refusal(**{name: ""}))


@pytest.mark.parametrize("name", SOUND)
def test_a_missing_variable_is_named(name: str):
    with pytest.raises(SettingsError, match=name):
        Settings.from_environment({other: value for other, value in SOUND.items() if other != name})
