"""Tidegate's API: stateless Falcon service; each folder is one capability, `application.py` wires them together."""
