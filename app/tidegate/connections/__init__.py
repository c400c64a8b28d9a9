"""How a Redis is reached: one server, the primary that Sentinels name, or the primaries of a Cluster; with deadlines and no second try.
And the URL of the consistent store, which may be etcd.

Imports the standard library and redis alone. Called by the settings and the wiring of the API and of the operator; capability rooms take
what is made here, and send it scripts.
"""
