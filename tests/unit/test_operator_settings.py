"""The operator's settings: what is wrong is said by the variable's name, and never with a password."""

import json
from pathlib import Path

import pytest

from tidegate_operator.errors import SettingsError
from tidegate_operator.settings import Settings


def settings(path: Path, text: str) -> Settings:
    path.write_text(text)
    return Settings.from_environment({"TIDEGATE_OPERATOR_REGIONS_FILE": str(path)})


def test_each_region_of_the_file_gets_a_publisher(tmp_path: Path) -> None:
    urls = {
        "frankfurt": "redis://:s%2Fecret@localhost:6379/0",
        "dublin": "unix:///run/redis.sock",
        "tokyo": "redis+sentinel://a,b/regional",
        "oslo": "rediss+cluster://a,b",
    }
    own = settings(tmp_path / "regions.yaml", json.dumps(urls))

    assert [publisher.region for publisher in own.publishers()] == list(urls)


@pytest.mark.parametrize(
    "url",
    [
        "http://:secret@localhost",
        "redis://:secret/secret@localhost:6379/0",
        "redis://:secret#secret@localhost:6379/0",
        "redis://:secret@localhost:99999/0",
        "redis://:secret@localhost/0?db=secret",
        "redis://:secret@localhost/0?password=secret&secret=1",
        "redis://:secret@localhost/0?encoding=secret",
        "rediss://:secret@localhost/0?ssl_cert_reqs=secret",
        "[secret]",
        "redis+sentinel://:secret@localhost",
        "redis+cluster://:secret@localhost/1",
    ],
)
def test_a_url_that_is_none_of_a_redis_is_refused_without_its_password(tmp_path: Path, url: str) -> None:
    own = settings(tmp_path / "regions.yaml", f"frankfurt: {url!r}")

    with pytest.raises(SettingsError) as caught:
        own.publishers()

    assert str(caught.value).startswith(f"TIDEGATE_OPERATOR_REGIONS_FILE {tmp_path}/regions.yaml: the URL of frankfurt ")
    assert "secret" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


@pytest.mark.parametrize("text", ["", "[]", "secret: [", "SECRET: redis://:secret@localhost"])
def test_a_file_that_names_no_regions_is_refused_without_its_text(tmp_path: Path, text: str) -> None:
    with pytest.raises(SettingsError) as caught:
        settings(tmp_path / "regions.yaml", text).publishers()

    assert str(caught.value).startswith("TIDEGATE_OPERATOR_REGIONS_FILE ")
    assert "secret" not in str(caught.value)


def test_a_wrong_variable_is_named() -> None:
    environment = {"TIDEGATE_OPERATOR_REGIONS_FILE": "regions.yaml"}

    for name, value in {"TIDEGATE_OPERATOR_LOG_LEVEL": "loud", "TIDEGATE_OPERATOR_LOGLEVEL": "info"}.items():
        with pytest.raises(SettingsError, match=name):
            Settings.from_environment({**environment, name: value})


@pytest.mark.parametrize(("content", "said"), [(None, "No such file"), ("short", "holds 5 bytes, at least 32 are needed")])
def test_a_key_of_lanes_that_cannot_be_used_is_refused_without_its_text(tmp_path: Path, content: str | None, said: str) -> None:
    key = tmp_path / "lane.key"
    if content:
        key.write_text(content)
    own = Settings(regions_file=tmp_path, lane_key_file=str(key))

    with pytest.raises(SettingsError, match=said) as caught:
        own.lane_secret()

    assert str(caught.value).startswith(f"TIDEGATE_OPERATOR_LANE_KEY_FILE {key}: ")
    assert "short" not in str(caught.value)


def test_without_a_site_no_lanes_are_made(tmp_path: Path) -> None:
    assert Settings(regions_file=tmp_path).lane_site() is None
