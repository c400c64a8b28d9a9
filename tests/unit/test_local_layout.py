"""Paths, ports and keys of a local run."""

import json
import os
import socket
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import jwt
import pytest
from jwt import PyJWK

from tidegate.local.errors import LocalRunError
from tidegate.local.keys import AUDIENCE, ISSUER, Grant, Keys
from tidegate.local.layout import Layout, redis_url
from tidegate.local.lock import StateLock
from tidegate.local.ports import check_ports


def test_ports_count_up_from_the_first(tmp_path: Path) -> None:
    """Edges on 8080 and 8090, APIs one above; the payment provider on 8100."""
    layout = Layout.at(tmp_path, tmp_path, 8080)

    assert [(r.name, r.edge_port, r.api_port) for r in layout.regions] == [("frankfurt", 8080, 8081), ("dublin", 8090, 8091)]
    assert layout.payments_port == 8100


def test_port_zero_takes_different_free_ports(tmp_path: Path) -> None:
    layout = Layout.at(tmp_path, tmp_path, 0)

    assert len({layout.payments_port, *(port for r in layout.regions for port in (r.edge_port, r.api_port))}) == 5
    check_ports(layout)


def test_a_taken_port_is_named_with_its_purpose_and_a_way_out(tmp_path: Path) -> None:
    layout = Layout.at(tmp_path, tmp_path, 0)
    port = layout.regions[0].api_port

    with socket.socket() as other:
        other.bind(("127.0.0.1", port))
        other.listen()

        with pytest.raises(LocalRunError) as caught:
            check_ports(layout)

    assert str(caught.value) == f"port {port} is taken (API of frankfurt): stop what listens there or choose others with --port"


def test_a_port_beyond_the_last_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LocalRunError, match="port 65536 does not exist"):
        check_ports(Layout.at(tmp_path, tmp_path, 65535))


@pytest.fixture
def short_path() -> Iterator[Path]:
    """Sockets bear no long paths, and pytest's own are long."""
    with tempfile.TemporaryDirectory() as directory:
        yield Path(directory)


def test_directories_belong_to_the_owner_alone(short_path: Path) -> None:
    layout = Layout.at(short_path / "state", short_path, 8080)

    layout.make_directories()

    assert {stat.S_IMODE(path.stat().st_mode) for path in (layout.state, layout.keys, layout.regions[0].directory)} == {0o700}


def test_a_directory_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    """Neither its mode nor its files are touched."""
    (tmp_path / "logs").mkdir(mode=0o755)
    (tmp_path / "logs/app.log").touch()
    mode = tmp_path.stat().st_mode

    with pytest.raises(LocalRunError, match="holds something else"):
        Layout.at(tmp_path, tmp_path, 8080).make_directories()

    assert tmp_path.stat().st_mode == mode
    assert (tmp_path / "logs/app.log").exists()


def test_a_directory_that_is_ours_is_taken_again(short_path: Path) -> None:
    for _ in range(2):
        Layout.at(short_path / "state", short_path, 8080).make_directories()


def test_a_path_that_supervisord_would_cut_off_is_refused(short_path: Path) -> None:
    with pytest.raises(LocalRunError, match="comment sign"):
        Layout.at(short_path / "a #b", short_path, 8080).make_directories()


def test_a_socket_path_too_long_is_refused_with_a_way_out(tmp_path: Path) -> None:
    layout = Layout.at(tmp_path / ("long-" * 20), tmp_path, 8080)

    with pytest.raises(LocalRunError, match=r"frankfurt/redis\.sock is too long: .* --state /tmp/tidegate"):
        layout.make_directories()

    assert not layout.state.exists()


def test_a_url_escapes_the_path_of_a_socket() -> None:
    assert redis_url(Path("/a b/50%/redis.sock")) == "unix:///a%20b/50%25/redis.sock"


def test_keys_are_made_once_and_kept_private(tmp_path: Path) -> None:
    first = {path.name: path.read_bytes() for path in _files(Keys(tmp_path / "keys"))}

    again = {path.name: path.read_bytes() for path in _files(Keys(tmp_path / "keys"))}

    assert first == again
    assert all(len(secret) >= 32 for secret in first.values())
    assert {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "keys").iterdir()} == {0o600}


def test_a_token_is_an_access_token_of_fifteen_minutes(tmp_path: Path) -> None:
    """TOK-1: RFC 9068 claims, signed with the key that the key set names."""
    keys = Keys(tmp_path)
    [jwk] = json.loads(keys.token_keys.read_bytes())["keys"]

    token = keys.mint(Grant("pro"), now=1_000)

    options = {"verify_exp": False, "verify_iat": False}
    claims = jwt.decode(token, PyJWK(jwk), algorithms=["ES256"], audience=AUDIENCE, issuer=ISSUER, options=options)
    header = jwt.get_unverified_header(token)
    assert (header["typ"], header["kid"]) == ("at+jwt", jwk["kid"])
    assert (claims["tier"], claims["tenant"], claims["client_id"], claims["exp"] - claims["iat"]) == ("pro", "acme", "demo", 900)
    assert "d" not in jwk


def test_a_spoilt_key_says_how_to_get_a_new_one(tmp_path: Path) -> None:
    (tmp_path / "issuer.pem").write_text("nonsense")

    with pytest.raises(LocalRunError, match=r"delete .* to have new ones made"):
        Keys(tmp_path)


def test_only_one_run_owns_a_directory(tmp_path: Path) -> None:
    first, second = StateLock(tmp_path), StateLock(tmp_path)
    first.acquire()

    with pytest.raises(LocalRunError, match=rf"already running in .* \(process {os.getpid()}\)"):
        second.acquire()

    first.release()
    second.acquire()
    second.release()


def _files(keys: Keys) -> tuple[Path, ...]:
    return keys.identity, keys.idempotency, keys.token_keys
