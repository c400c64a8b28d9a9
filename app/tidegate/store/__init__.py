"""The consistent store: global, durable state that all regions share (results of mutations, credits, records). Imports its client and the
contract alone; `application.py` makes it, the idempotency room and the resources call it through the port in `base.py`."""
