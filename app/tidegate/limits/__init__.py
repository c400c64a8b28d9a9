"""May this request pass: the usage vector of every identity, decided in regional Redis, and the RateLimit fields that say so.

Imports the contract and connections; only `redis.py`, its channels and `inspection.py` speak Redis, and only `middleware.py` speaks
Falcon. Called by `application.py`, which wires it, by `problems.py` for the fields of a refusal and by the usage resource for a look at
the vector.
"""
