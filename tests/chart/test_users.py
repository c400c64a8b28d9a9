"""Who may do what at the servers of Redis that the chart installs."""

import base64
import hashlib
import re

import pytest
import yaml
from tests.chart.rendering import ROOT, Helm, Json, find, render

DOCUMENTED = {"api": "docs/redis.md", "operator": "docs/redis.md", "support": "docs/redis.md", "store": "docs/store.md"}


def rules(user: str) -> str:
    """What the line to paste lets a user do, after its password."""
    found = re.search(rf"^ACL SETUSER tidegate-{user} reset on >PASSWORD (.*)$", (ROOT / DOCUMENTED[user]).read_text(), re.MULTILINE)
    assert found
    return found[1]


def line(user: str, password: str) -> str:
    """The user as the server's configuration has it, with a hash of the password."""
    return f"user tidegate-{user} reset on #{hashlib.sha256(password.encode()).hexdigest()} {rules(user)}\n"


@pytest.fixture
def secret(rendered: list[Json]) -> dict[str, str]:
    """What servers and clients are told."""
    return {key: base64.b64decode(value).decode() for key, value in find(rendered, "Secret", "tidegate-redis")["data"].items()}


def test_each_role_has_a_user_of_its_own_at_a_regions_server_and_the_default_user_has_nothing(secret: dict[str, str]) -> None:
    """Who has read an API pod's password publishes no tiers, and may not look for other identities."""
    passwords = {user: secret[f"dublin.{user}.password"] for user in ("api", "operator", "support")}

    assert secret["dublin.conf"] == "user default reset\n" + "".join(line(user, password) for user, password in passwords.items())
    assert len({*passwords.values(), secret["frankfurt.api.password"]}) == 4


def test_each_role_is_told_its_own_url(secret: dict[str, str]) -> None:
    server = "tidegate-redis-dublin:6379/0"

    urls = {
        "api": secret["dublin.url"],
        "operator": yaml.safe_load(secret["regions.yaml"])["dublin"],
        "support": secret["dublin.support.url"],
    }

    assert urls == {user: f"redis://tidegate-{user}:{secret[f'dublin.{user}.password']}@{server}" for user in urls}


def test_the_bundled_store_has_a_user_of_few_commands(secret: dict[str, str]) -> None:
    password = secret["store.store.password"]

    assert secret["store.conf"] == "user default reset\n" + line("store", password)
    assert secret["store.url"] == f"redis://tidegate-store:{password}@tidegate-store:6379/0"


def test_who_renders_with_a_seed_gets_servers_and_clients_that_start_again_with_the_users(helm: Helm) -> None:
    """There nobody can see that the servers were started with one password for all."""
    seed = "0123456789abcdef0123456789abcdef"
    documents = render(helm, "--set", f"keys.existingSecret=mine,redis.passwordSeed={seed}")
    annotations = find(documents, "StatefulSet", "tidegate-redis-dublin")["spec"]["template"]["metadata"]["annotations"]

    assert annotations["checksum/passwords"] == hashlib.sha256(f"{seed}/users".encode()).hexdigest()[:8]
