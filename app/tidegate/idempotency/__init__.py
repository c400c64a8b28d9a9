"""Paid once: a retried mutation gets its first result, and a result is stored with the data that it changed or not at all. Imports the
store's port, `Principal` and the contract; `application.py` places its two middleware before the limits and around the handlers."""
