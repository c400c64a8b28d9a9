"""Which access tokens are taken and which are refused, and that identity comes from verified claims alone."""

import base64
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from falcon.asgi import App, Request, Response
from falcon.testing import TestClient
from hypothesis import given
from hypothesis import strategies as st
from jwt.algorithms import get_default_algorithms

from tidegate.contract.errors import TidegateError
from tidegate.contract.tier import PartitionBy, Tier, Window
from tidegate.identity.errors import InvalidTokenError, TokenMissingError
from tidegate.identity.key_set import KeySet
from tidegate.identity.middleware import IdentityMiddleware, bearer_token
from tidegate.identity.principal import Principal
from tidegate.identity.pseudonym import Pseudonyms
from tidegate.identity.tokens import TokenVerifier

NOW = 1_800_000_000.0
ISSUER = "https://issuer.example"
AUDIENCE = "https://api.example"
CLAIMS: dict[str, Any] = {
    "iss": ISSUER,
    "sub": "user-1",
    "aud": AUDIENCE,
    "exp": int(NOW) + 600,
    "iat": int(NOW),
    "jti": "j-1",
    "client_id": "client-1",
    "tenant": "acme",
    "scope": "read write",
    "tier": "pro",
}
REQUIRED = sorted(CLAIMS)

PRIVATE: dict[str, Any] = {
    "RS256": rsa.generate_private_key(65537, 2048),
    "ES256": ec.generate_private_key(ec.SECP256R1()),
    "EdDSA": ed25519.Ed25519PrivateKey.generate(),
}
PRIVATE["PS256"] = PRIVATE["RS256"]
ALGORITHMS = get_default_algorithms()


def jwk(algorithm: str, **members: object) -> dict[str, Any]:
    public = ALGORITHMS[algorithm].to_jwk(PRIVATE[algorithm].public_key(), as_dict=True)
    public.pop("key_ops", None)
    return {**public, "kid": algorithm, "alg": algorithm, "use": "sig", **members}


def segment(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def signed(header: bytes, payload: bytes, algorithm: str = "EdDSA", key: Any = None) -> str:
    text = f"{segment(header)}.{segment(payload)}"
    return f"{text}.{segment(ALGORITHMS[algorithm].sign(text.encode(), key or PRIVATE[algorithm]))}"


def token(claims: dict[str, Any] | None = None, *, algorithm: str = "EdDSA", **header: object) -> str:
    full = {"typ": "at+jwt", "alg": algorithm, "kid": algorithm, **header}
    kept = {name: value for name, value in full.items() if value is not None}
    return signed(json.dumps(kept).encode(), json.dumps(claims or CLAIMS).encode(), algorithm)


@pytest.fixture(scope="module")
def key_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("keys") / "jwks.json"
    path.write_text(json.dumps({"keys": [jwk(algorithm) for algorithm in ("RS256", "PS256", "ES256", "EdDSA")]}))
    return path


@pytest.fixture(scope="module")
def verifier(key_file: Path) -> TokenVerifier:
    return TokenVerifier(KeySet(key_file), issuer=ISSUER, audience=AUDIENCE)


def refusal(verifier: TokenVerifier, text: str, now: float = NOW) -> str:
    with pytest.raises(InvalidTokenError) as caught:
        verifier.verify(text, now)
    return str(caught.value)


@pytest.mark.parametrize("algorithm", ["RS256", "PS256", "ES256", "EdDSA"])
def test_a_token_signed_by_a_key_of_the_set_speaks_for_its_claims(verifier: TokenVerifier, algorithm: str) -> None:
    """TOK-1, TOK-2."""
    principal = verifier.verify(token(algorithm=algorithm), NOW)

    assert principal == Principal(ISSUER, "acme", "client-1", "user-1", "pro", frozenset({"read", "write"}), int(NOW) + 600)


@pytest.mark.parametrize("typ", ["at+jwt", "AT+JWT", "application/at+jwt"])
def test_the_type_may_be_written_as_a_media_type(verifier: TokenVerifier, typ: str) -> None:
    assert verifier.verify(token(typ=typ), NOW).tenant == "acme"


def test_an_audience_among_several_is_taken(verifier: TokenVerifier) -> None:
    assert verifier.verify(token(CLAIMS | {"aud": ["https://other.example", AUDIENCE]}), NOW).tenant == "acme"


def test_keys_named_by_the_token_itself_are_ignored(verifier: TokenVerifier) -> None:
    """TOK-2: neither fetched nor believed."""
    stranger = ed25519.Ed25519PrivateKey.generate()
    own = ALGORITHMS["EdDSA"].to_jwk(stranger.public_key(), as_dict=True)
    header = {"typ": "at+jwt", "alg": "EdDSA", "kid": "EdDSA", "jwk": own, "jku": "http://127.0.0.1:1/", "x5u": "file:///x", "x5c": ["MII"]}
    forged = signed(json.dumps(header).encode(), json.dumps(CLAIMS).encode(), key=stranger)

    assert "signature" in refusal(verifier, forged)
    assert verifier.verify(token(jwk=own, jku="http://127.0.0.1:1/", x5u="file:///x", x5c=["MII"]), NOW).tenant == "acme"


@pytest.mark.parametrize("claim", REQUIRED)
def test_a_token_without_a_required_claim_is_refused(verifier: TokenVerifier, claim: str) -> None:
    """TOK-1."""
    claims = {name: value for name, value in CLAIMS.items() if name != claim}

    assert f"missing required field `{claim}`" in refusal(verifier, token(claims))


@pytest.mark.parametrize("claim", REQUIRED)
@pytest.mark.parametrize("value", [None, True, 1.5, {}, [1], "a\n", "a\x00", "\ud800"], ids=repr)
def test_a_required_claim_of_another_type_is_refused(verifier: TokenVerifier, claim: str, value: object) -> None:
    """TOK-1: a lone surrogate would break every later step that writes UTF-8."""
    refusal(verifier, token(CLAIMS | {claim: value}))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"iss": "https://issuer.example/"}, "iss is not our issuer"),
        ({"aud": "https://api.example.evil"}, "aud does not name us"),
        ({"aud": []}, "aud does not name us"),
        ({"exp": int(NOW) + 901}, "exp is not"),
        ({"exp": int(NOW)}, "exp is not"),
        ({"exp": int(NOW) - 30, "iat": int(NOW) - 600}, "expired"),
        ({"iat": int(NOW) + 31}, "iat is in the future"),
        ({"nbf": int(NOW) + 31}, "nbf is in the future"),
        ({"nbf": "1"}, "claims: "),
        ({"cnf": {"jkt": "x"}}, "claims: "),
        ({"tenant": ""}, "claims: "),
    ],
    ids=str,
)
def test_a_token_not_meant_for_us_now_is_refused(verifier: TokenVerifier, change: dict[str, Any], reason: str) -> None:
    """TOK-1, TOK-5, TOK-9."""
    assert reason in refusal(verifier, token(CLAIMS | change))


def test_the_issuers_clock_may_be_thirty_seconds_off(verifier: TokenVerifier) -> None:
    """TOK-5."""
    behind = token(CLAIMS | {"exp": int(NOW) - 29, "iat": int(NOW) - 600})
    ahead = token(CLAIMS | {"iat": int(NOW) + 30, "nbf": int(NOW) + 30})

    assert verifier.verify(behind, NOW).tenant == verifier.verify(ahead, NOW).tenant == "acme"


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        ({"typ": "JWT"}, "typ"),
        ({"typ": None}, "typ"),
        ({"typ": 1}, "typ"),
        ({"alg": "none"}, "alg"),
        ({"alg": "eddsa"}, "alg"),
        ({"alg": "HS256"}, "alg"),
        ({"alg": "RSA1_5"}, "alg"),
        ({"alg": None}, "alg"),
        ({"alg": "ES256"}, "kid EdDSA is a key for EdDSA"),
        ({"kid": None}, "kid"),
        ({"kid": "unknown"}, "unknown kid unknown"),
        ({"kid": "a" * 129}, "kid is not"),
        ({"kid": "../../etc/passwd"}, "kid is not"),
        ({"kid": "a\n"}, "kid is not"),
        ({"kid": "RS256"}, "kid RS256 is a key for RS256"),
        ({"crit": ["exp"]}, "crit"),
        ({"crit": ["b64"], "b64": False}, "crit"),
        ({"crit": []}, "crit"),
        ({"zip": "DEF"}, "zip"),
        ({"b64": False}, "signature"),
    ],
    ids=str,
)
def test_a_header_that_is_not_an_access_tokens_is_refused(verifier: TokenVerifier, header: dict[str, Any], reason: str) -> None:
    """TOK-2, TOK-3, CVE-2026-32597 (`crit`), CVE-2026-48522 and following."""
    assert reason in refusal(verifier, token(**header))


@pytest.mark.parametrize("kid", ["RS256", "EdDSA"])
def test_a_public_key_is_no_hmac_secret(verifier: TokenVerifier, kid: str) -> None:
    """CVE-2022-29217: key confusion."""
    forms = (serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    secrets = [PRIVATE[kid].public_key().public_bytes(*forms), json.dumps(jwk(kid)).encode()]
    header = json.dumps({"typ": "at+jwt", "alg": "HS256", "kid": kid}).encode()

    for secret in secrets:
        assert "alg is not" in refusal(verifier, signed(header, json.dumps(CLAIMS).encode(), "HS256", secret))


def test_an_unsigned_token_is_refused(verifier: TokenVerifier) -> None:
    header, payload, _ = token(alg="none").split(".")

    assert "three base64url segments" in refusal(verifier, f"{header}.{payload}.")


@pytest.mark.parametrize(
    "header",
    [
        b'{"typ":"at+jwt","alg":"EdDSA","alg":"EdDSA","kid":"EdDSA"}',
        b'{"typ":"at+jwt","alg":"EdDSA","kid":"EdDSA","x":{"a":1,"a":2}}',
        b'{"typ":"at+jwt","alg":"EdDSA","kid":"EdDSA","x":NaN}',
        '{"typ":"at+jwt","alg":"EdDSA","kid":"EdDSA"}'.encode("utf-16"),
        b'\xef\xbb\xbf{"typ":"at+jwt","alg":"EdDSA","kid":"EdDSA"}',
        b'["at+jwt"]',
        b"[" * 3000,
        b"not json",
        b"\xff",
    ],
    ids=lambda header: repr(header[:60]),
)
def test_a_header_that_parsers_could_read_differently_is_refused(verifier: TokenVerifier, header: bytes) -> None:
    """TOK-3."""
    assert "the header" in refusal(verifier, signed(header, json.dumps(CLAIMS).encode()))


def test_a_claim_that_is_given_twice_is_refused(verifier: TokenVerifier) -> None:
    header = json.dumps({"typ": "at+jwt", "alg": "EdDSA", "kid": "EdDSA"}).encode()
    payload = json.dumps(CLAIMS).encode().replace(b"{", b'{"tenant": "other", ', 1)

    assert refusal(verifier, signed(header, payload)) == "claims: has a member twice"


def respelled(text: str) -> list[str]:
    """The same token with unused low bits set in its last character, which many decoders ignore."""
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    return [text[:-1] + alphabet[alphabet.index(text[-1]) + more] for more in (1, 2, 3)]


@pytest.mark.parametrize(
    "spell",
    [
        lambda text: text + "=",
        lambda text: text + "==",
        lambda text: text.replace(".", "=.", 1),
        lambda text: text + "\n",
        lambda text: " " + text,
        lambda text: text + ".",
        lambda text: text + ".a.b",
        lambda text: text.rsplit(".", 1)[0],
        lambda text: text.replace(".", "..", 1),
        lambda text: text + "A",
        lambda text: text + "é",
        lambda text: json.dumps({"payload": text.split(".")[1], "signatures": []}),
        lambda text: "",
    ],
)
def test_any_other_spelling_of_a_token_is_refused(verifier: TokenVerifier, spell: Callable[[str], str]) -> None:
    """TOK-3: PyJWT alone would take the padded ones."""
    good = token()
    verifier.verify(good, NOW)

    refusal(verifier, spell(good))


def test_unused_bits_of_a_signature_must_be_zero(verifier: TokenVerifier) -> None:
    """TOK-4: 64 bytes leave four unused bits, or one signature would have sixteen spellings."""
    for spelling in respelled(token()):
        assert refusal(verifier, spelling) == "a segment is not canonical base64url"


def test_a_token_of_more_than_eight_kibibytes_is_refused(verifier: TokenVerifier) -> None:
    assert "longer than 8192" in refusal(verifier, token(CLAIMS | {"extra": "x" * 6200}))


def test_a_changed_payload_is_refused(verifier: TokenVerifier) -> None:
    header, _, signature = token().split(".")
    payload = segment(json.dumps(CLAIMS | {"tier": "enterprise"}).encode())

    assert "signature" in refusal(verifier, f"{header}.{payload}.{signature}")


@given(text=st.text(max_size=200) | st.from_regex(r"[A-Za-z0-9_-]{1,40}(\.[A-Za-z0-9_-]{0,40}){0,4}", fullmatch=True))
def test_no_text_raises_anything_but_a_refusal(verifier: TokenVerifier, text: str) -> None:
    refusal(verifier, text)


@given(payload=st.binary(max_size=200))
def test_no_signed_payload_raises_anything_but_a_refusal(verifier: TokenVerifier, payload: bytes) -> None:
    refusal(verifier, signed(b'{"typ":"at+jwt","alg":"EdDSA","kid":"EdDSA"}', payload))


def test_all_tokens_with_the_same_identity_share_one_pseudonym(verifier: TokenVerifier) -> None:
    """TOK-4: ECDSA signatures differ each time, and so may times, token ids and the order of members."""
    texts = {token(algorithm="ES256") for _ in range(3)}
    texts |= {token(CLAIMS | {"jti": "j-2", "exp": int(NOW) + 10}), token(dict(reversed(CLAIMS.items())), algorithm="RS256")}
    pseudonyms = Pseudonyms(b"k" * 32)

    tids = {pseudonyms.tids(verifier.verify(text, NOW).partition(PartitionBy.TOKEN)) for text in texts}

    assert len(texts) == 5
    assert len(tids) == 1


def test_a_verified_token_is_remembered_until_it_expires(key_file: Path) -> None:
    verifier = TokenVerifier(KeySet(key_file), issuer=ISSUER, audience=AUDIENCE)
    text = token()
    principal = verifier.verify(text, NOW)

    assert verifier.verify(text, NOW + 599) is principal
    assert verifier.verify(text, NOW + 600) is not principal
    assert refusal(verifier, text, NOW + 630) == "expired"


def test_the_least_recently_used_token_is_forgotten_first(key_file: Path) -> None:
    verifier = TokenVerifier(KeySet(key_file), issuer=ISSUER, audience=AUDIENCE, memo_tokens=2)
    texts = [token(CLAIMS | {"jti": str(number)}) for number in range(3)]
    first, second = verifier.verify(texts[0], NOW), verifier.verify(texts[1], NOW)
    verifier.verify(texts[0], NOW)
    verifier.verify(texts[2], NOW)

    assert verifier.verify(texts[0], NOW) is first
    assert verifier.verify(texts[1], NOW) is not second


def test_a_token_of_a_withdrawn_key_is_refused_though_it_was_remembered(tmp_path: Path) -> None:
    """TOK-6: a rotated key file takes effect within a second."""
    path, seconds = tmp_path / "jwks.json", [0.0]
    path.write_text(json.dumps({"keys": [jwk("EdDSA")]}))
    verifier = TokenVerifier(KeySet(path, clock=lambda: seconds[0]), issuer=ISSUER, audience=AUDIENCE)
    old, new = token(), token(algorithm="ES256")
    verifier.verify(old, NOW)
    path.write_text(json.dumps({"keys": [jwk("ES256")]}))

    seconds[0] = 1.0

    assert verifier.verify(new, NOW).tenant == "acme"
    assert refusal(verifier, old) == "unknown kid EdDSA"


@pytest.mark.parametrize("field", ["Bearer abc", "bearer abc", "BEARER  abc "])
def test_the_scheme_is_bearer_in_any_case(field: str) -> None:
    assert bearer_token(field) == "abc"


@pytest.mark.parametrize("field", [None, "", "Basic abc", "Bearerabc", "abc"])
def test_a_request_without_a_bearer_token_is_told_so(field: str | None) -> None:
    with pytest.raises(TokenMissingError):
        bearer_token(field)


class Echo:
    """Answers with the identity that the middleware found."""

    async def on_get(self, req: Request, resp: Response) -> None:
        resp.media = [req.context.principal.tenant, req.context.tier.name, req.context.tids]


class Probe:
    public = True

    async def on_get(self, req: Request, resp: Response) -> None:
        resp.media = hasattr(req.context, "principal")


class OneTier:
    """Knows one tier, counted by tenant."""

    def tier(self, name: str) -> Tier:
        return Tier(name, (Window("minute", 1, 60),), partition_by=PartitionBy.TENANT)


@pytest.fixture
def client(key_file: Path) -> TestClient:
    verifier = TokenVerifier(KeySet(key_file), issuer=ISSUER, audience=AUDIENCE)
    app: App[Request, Response] = App(middleware=[IdentityMiddleware(verifier, Pseudonyms(b"k" * 32), OneTier())])
    app.add_route("/echo", Echo())
    app.add_route("/probe", Probe())
    app.add_error_handler(TidegateError, refuse)
    return TestClient(app)


async def refuse(req: Request, resp: Response, error: Exception, params: dict[str, Any]) -> None:
    resp.status, resp.media = 401, type(error).__name__


def current_token(**claims: object) -> str:
    now = int(time.time())
    return token(CLAIMS | {"iat": now, "exp": now + 600} | claims)


def test_the_step_hands_on_principal_tier_and_pseudonym(client: TestClient) -> None:
    """VEC-1: of a tier that counts by tenant, two clients of a tenant share the pseudonym."""
    texts = [current_token(), current_token(client_id="client-2"), current_token(tenant="other")]

    answers = [client.simulate_get("/echo", headers={"Authorization": f"Bearer {text}"}).json for text in texts]

    assert [answer[:2] for answer in answers] == [["acme", "pro"], ["acme", "pro"], ["other", "pro"]]
    assert answers[0][2] == answers[1][2] != answers[2][2]


def test_a_request_without_identity_reaches_public_resources_alone(client: TestClient) -> None:
    assert client.simulate_get("/probe").json is False
    assert client.simulate_get("/echo").json == "TokenMissingError"
    assert client.simulate_get("/echo", headers={"Authorization": "Bearer x"}).json == "InvalidTokenError"


def test_two_authorization_fields_are_refused_even_if_equal(client: TestClient) -> None:
    fields = [("Authorization", f"Bearer {current_token()}")]

    assert client.simulate_get("/echo", headers=fields).json[0] == "acme"
    assert client.simulate_get("/echo", headers=fields * 2).json == "InvalidTokenError"


def test_no_refusal_quotes_the_token(verifier: TokenVerifier) -> None:
    """LOG-1."""
    secret = "canary-5f1c"
    texts = [token(CLAIMS | {claim: [secret]}) for claim in REQUIRED] + [token(typ=secret), token(alg=secret), token(kid=secret + "/")]

    assert not [text for text in texts if secret in refusal(verifier, text)]
