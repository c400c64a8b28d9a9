"""The tiers that a worker enforces: loaded from the region's Redis, swapped whole when they change, kept on disk for a start without Redis.

Imports the contract and, in its adapters, redis; no other room. `application.py` runs `TierSource`; the identity
step asks it for a tier by name.
"""
