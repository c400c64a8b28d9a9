"""How a worker serves: gunicorn's configuration, the worker that drains, and the HTTP protocol with its bounds.

Imports settings and telemetry; knows nothing of what is served. gunicorn loads it, by the name of `gunicorn_config`.
"""
