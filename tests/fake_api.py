"""Pods of regions that only pretend, for edges to ask; called by the tests of edges."""

from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread


class FakeApi(ThreadingHTTPServer):
    """A pod of a region's API, on any free port unless told: says whether it is `ready`, and answers everything else with `status`."""

    daemon_threads = True
    ready = True
    status = 200
    unavailable = ""

    def __init__(self, region: str, port: int = 0) -> None:
        self.region = region
        self.served = 0
        super().__init__(("127.0.0.1", port), FakeAnswer)


class FakeAnswer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FakeApi

    def do_GET(self) -> None:
        if self.path == "/readyz":
            self.send_response(200 if self.server.ready else 503)
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
