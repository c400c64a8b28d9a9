"""The consistent store: global, durable state that all regions share (results of mutations, credits, records). Imports its clients, the
contract and how a server is reached; `application.py` makes it, the idempotency room and the resources call its port in `base.py`."""
