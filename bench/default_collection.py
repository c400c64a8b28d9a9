"""Our worker with Python's own thresholds of garbage collection, to see what ours are worth; loaded by gunicorn for `servers.py`."""

from tidegate.server import worker

worker.settle_garbage_collection = lambda: None
DefaultCollectionWorker = worker.DrainingWorker
