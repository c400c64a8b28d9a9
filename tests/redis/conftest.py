"""What an API worker needs besides servers: keys of a local run, tokens signed with them, and its settings."""

from pathlib import Path

import pytest

from tidegate.local.keys import AUDIENCE, ISSUER, Grant, Keys


class Issuer:
    """Mints tokens, and names the files and claims that a worker must be told."""

    def __init__(self, directory: Path) -> None:
        self._keys = Keys(directory)
        self.environment = {
            "TIDEGATE_TOKEN_ISSUER": ISSUER,
            "TIDEGATE_TOKEN_AUDIENCE": AUDIENCE,
            "TIDEGATE_TOKEN_KEYS_FILE": str(self._keys.token_keys),
            "TIDEGATE_IDENTITY_KEY_FILE": str(self._keys.identity),
            "TIDEGATE_IDEMPOTENCY_KEY_FILE": str(self._keys.idempotency),
        }

    def mint(self, tier: str, *, tenant: str = "acme", client: str = "demo") -> str:
        return self._keys.mint(Grant(tier, tenant, client))


@pytest.fixture
def issuer(tmp_path: Path) -> Issuer:
    return Issuer(tmp_path / "keys")
