"""Whether the ports of a run are free, asked before anything starts; called by `run.py`."""

import errno
import socket

from tidegate.local.errors import LocalRunError
from tidegate.local.layout import Layout


def check_ports(layout: Layout) -> None:
    """Try each port of the run.

    Raises:
        LocalRunError: One is taken, or may not be used; the text names it and its purpose.
    """
    for region in layout.regions:
        for port, purpose in ((region.edge_port, "edge"), (region.api_port, "API")):
            _check(port, f"{purpose} of {region.name}")
    _check(layout.payments_port, "payment provider")


def _check(port: int, purpose: str) -> None:
    with socket.socket() as probe:
        # As the servers do: a port whose last connections are still closing is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OverflowError as ex:
            raise LocalRunError(f"port {port} does not exist ({purpose}): choose others with --port") from ex
        except OSError as ex:
            if ex.errno == errno.EADDRINUSE:
                raise LocalRunError(f"port {port} is taken ({purpose}): stop what listens there or choose others with --port") from ex
            raise LocalRunError(f"port {port} cannot be used ({purpose}): {ex.strerror}; choose others with --port") from ex
