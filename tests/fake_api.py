"""Pods of regions that only pretend, for edges to ask; called by the tests of edges."""

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread


class FakeApi(ThreadingHTTPServer):
    """A pod of a region's API, on any free port unless told: says whether it is `ready`, and answers everything else with `status`.

    With `loses_replies` it carries out what it is asked, and the connection breaks before it answers.
    """

    daemon_threads = True
    ready = True
    status = 200
    unavailable = ""
    loses_replies = False

    def __init__(self, region: str, port: int = 0, context: ssl.SSLContext | None = None) -> None:
        self.region = region
        self.served = 0
        self.posted: list[tuple[str, bytes]] = []
        self.marks: set[str] = set()
        super().__init__(("127.0.0.1", port), FakeAnswer)
        if context:
            # Shaken hands with in the thread of the connection, or one that doesn't would hold up all.
            self.socket = context.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)

    def handle_error(self, *_: object) -> None:
        """A connection that breaks is what some tests are about."""


class FakeAnswer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FakeApi

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.posted.append((self.headers["Idempotency-Key"], body))
        self.do_GET()

    def do_GET(self) -> None:
        self.server.marks.add(self.headers.get("CDN-Loop", ""))
        if self.path == "/readyz":
            self.send_response(200 if self.server.ready else 503)
        elif self.server.loses_replies:
            self.close_connection = True
            return
        else:
            self.server.served += 1
            self.send_response(self.server.status)
        self.send_header("Tidegate-Region", self.server.region)
        if self.server.unavailable:
            self.send_header("Tidegate-Unavailable", self.server.unavailable)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def serving(api: FakeApi) -> Iterator[FakeApi]:
    thread = Thread(target=api.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield api
    finally:
        api.shutdown()
        thread.join()
        api.server_close()
