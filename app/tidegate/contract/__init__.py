"""What the API and the operator agree on: tiers, their wire form, the Redis keys and the errors.

Imports the standard library alone; both sides call it.
"""
