"""A payment provider, reached over HTTP: the reference for effects outside of the store. Imports its client and the contract alone;
`application.py` makes it, and the payments resource calls it through the port in `provider.py`."""
