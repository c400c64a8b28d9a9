"""`Principal`: whom a verified token speaks for; made by `tokens.py`, read by every later step of a request."""

from dataclasses import dataclass

from tidegate.contract.tier import PartitionBy


@dataclass(frozen=True, slots=True)
class Principal:
    """The identity that a token's claims state; nothing in it comes from the token's text (TOK-4).

    Args:
        issuer: Claim `iss`.
        tenant: Claim `tenant`: the customer.
        client_id: Claim `client_id`: the customer's program.
        subject: Claim `sub`.
        tier: Claim `tier`: the name of a tier, which may be unknown here.
        scopes: The words of claim `scope`.
        expires_at: Claim `exp`, seconds since the epoch.
    """

    issuer: str
    tenant: str
    client_id: str
    subject: str
    tier: str
    scopes: frozenset[str]
    expires_at: int

    def partition(self, by: PartitionBy) -> str:
        """The name under which usage is counted: of the customer's program, or of the customer as a whole."""
        parts = [self.issuer, self.tenant]
        if by is PartitionBy.TOKEN:
            parts.append(self.client_id)
        # Lengths in front, so that no choice of claims can imitate another identity's.
        return "|".join(f"{len(part)}:{part}" for part in parts)
