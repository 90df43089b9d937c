"""Hugging Face's hub as a server in this process: one data set's files, as its file system asks for them."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

REPOSITORY = "someone/tokens"
URL = f"hf://datasets/{REPOSITORY}"


class StandInHub:
    """The files of `datasets/someone/tokens`, by name, which tests may change, and what was asked."""

    def __init__(self):
        self.files: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.failures: list[int] = []
        """Statuses that the next requests for a file's bytes are answered with."""
        self.endpoint = ""


@contextmanager
def serve_hub() -> Iterator[StandInHub]:
    """Yield a hub that answers while the block runs."""
    hub = StandInHub()

    class Answer(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            hub.requests.append(f"GET {self.path}")
            if self.path.startswith(f"/api/datasets/{REPOSITORY}/tree/main"):
                self._json([{"type": "file", "path": name, "size": len(content), "oid": "0" * 40}
                            for name, content in sorted(hub.files.items())])  # fmt: skip
            elif self.path.startswith(f"/api/datasets/{REPOSITORY}"):
                self._json({"id": REPOSITORY, "_id": "0", "sha": "0" * 40, "private": False, "siblings": [],
                            "downloads": 0, "likes": 0, "tags": []})  # fmt: skip
            elif self.path.startswith(f"/datasets/{REPOSITORY}/resolve/main/"):
                self._file(self.path.rpartition("/")[2])
            else:
                self._send(404, b"")

        def _file(self, name: str) -> None:
            content = hub.files.get(name)
            if hub.failures:
                return self._send(hub.failures.pop(0), b"")
            if content is None:
                return self._send(404, b"", [("X-Error-Code", "EntryNotFound")])
            start, _, end = self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")
            part = content[int(start) : int(end or len(content)) + 1]
            self._send(206, part, [("Content-Range", f"bytes {start}-{int(start) + len(part) - 1}/{len(content)}")])

        def _json(self, value: object) -> None:
            self._send(200, json.dumps(value).encode(), [("Content-Type", "application/json")])

        def _send(self, status: int, body: bytes, headers: list[tuple[str, str]] | None = None) -> None:
            self.send_response(status)
            for name, value in [*(headers or []), ("Content-Length", str(len(body)))]:
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        hub.endpoint = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield hub
        server.shutdown()
        thread.join()
