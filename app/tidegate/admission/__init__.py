"""When does a request run: a fixed or adaptive number of seats per worker, and a fair queue of identities before them.

Imports the contract alone; `fair_queue.py` and `gradient.py` do no I/O and read no clock, `seats.py` speaks asyncio, and only
`middleware.py` speaks Falcon. Called by `application.py`, which wires it, by `problems.py` for refusals and by `metrics.py` for its counts.
What it promises, and how that was measured: docs/admission.md.
"""
