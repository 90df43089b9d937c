"""S3 and GCS as servers in this process, with what they were asked, and faults on request."""

import itertools
import logging
import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import fsspec
import pytest

from parti_data.metrics import METRICS

_numbers = itertools.count()


class LocalStore:
    """A server of one of both, as an object store's protocol reaches it."""

    def __init__(self, protocol: str, options: dict):
        self.protocol, self.options, self._bucket = protocol, options, ""
        self.requests: list[str] = []
        """"GET /bucket/key?query" of every request for the newest bucket; of GCS its API's path."""
        self.fault: Callable[[str], str | None] = lambda request: None
        """Told each of them; a status such as "503 Slow Down" is answered instead of what was asked."""

    def new_bucket(self) -> str:
        """Make an empty bucket, and forget requests and faults; return its URL."""
        self.fault = lambda request: None
        self._bucket = f"bucket-{next(_numbers)}"
        fsspec.filesystem(self.protocol).mkdir(self._bucket)
        self.requests.clear()
        return f"{self.protocol}://{self._bucket}"

    def contents(self, url: str) -> dict[str, bytes]:
        """Return every object below a URL, by its relative name, but for those that tell the time of a run."""
        files = fsspec.filesystem(self.protocol, use_listings_cache=False)
        root = url.removeprefix(f"{self.protocol}://")
        paths = [path for path in sorted(files.find(root)) if not path.endswith(f"/{METRICS}")]
        return {path.removeprefix(f"{root}/"): files.cat_file(path) for path in paths}

    def upload(self, folder: object, url: str) -> None:
        """Copy the files of a folder below a URL."""
        root = Path(str(folder))
        for path in sorted(path for path in root.rglob("*") if path.is_file()):
            fsspec.filesystem(self.protocol).pipe_file(f"{url}/{path.relative_to(root)}", path.read_bytes())

    def environment(self) -> dict[str, str]:
        """Return the variables that point another process here."""
        return dict(os.environ) | {f"FSSPEC_{self.protocol}_{name}".upper(): it for name, it in self.options.items()}

    def hear(self, request: str) -> str | None:
        """Note a request for the newest bucket; return the status to answer instead of what it asks, if any."""
        if self._bucket not in request.split("?")[0].split("/"):  # parts of an upload that failed come late
            return None
        self.requests.append(request)
        return self.fault(request)

    def watch(self, application: Callable) -> Callable:
        """Return a WSGI application that answers as this one but for faults."""

        def answer(environ, start_response):
            query = environ["QUERY_STRING"]
            request = f"{environ['REQUEST_METHOD']} {environ['PATH_INFO']}" + (f"?{query}" if query else "")
            if status := self.hear(request):
                environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
                body = f"<Error><Code>{status[4:].replace(' ', '')}</Code><Message>made up</Message></Error>".encode()
                body = b"" if request.startswith("HEAD") else body
                start_response(status, [("Content-Length", str(len(body)))])
                return [body]
            return application(environ, start_response)

        return answer

    def watch_handler(self, handler: type) -> type:
        """Return a handler of `http.server` that answers as this one but for faults."""

        hear = self.hear

        class Watched(handler):
            def parse_request(self) -> bool:
                is_whole = super().parse_request()
                status = hear(f"{self.command} {self.path}") if is_whole else None
                if status:
                    self.send_error(int(status[:3]), status[4:])
                return is_whole and not status

        return Watched


@pytest.fixture(scope="session")
def s3_server() -> Iterator[LocalStore]:
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    options = {"endpoint_url": f"http://{host}:{port}", "key": "key", "secret": "secret"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(fsspec.config.conf, "s3", options)
        store = LocalStore("s3", options)
        server._server.app = store.watch(server._server.app)
        yield store
    server.stop()


@pytest.fixture(scope="session")
def gcs_server() -> Iterator[LocalStore]:
    from gcp_storage_emulator.server import create_server

    server = create_server("127.0.0.1", 0, in_memory=True)
    server.start()
    httpd = server._api._httpd
    httpd.handle_error = lambda *_: None  # a client that hangs up is no error
    options = {"endpoint_url": f"http://127.0.0.1:{httpd.server_port}", "token": "anon"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(fsspec.config.conf, "gs", options)
        store = LocalStore("gs", options)
        handler = httpd.RequestHandlerClass
        httpd.RequestHandlerClass = partial(store.watch_handler(handler.func), *handler.args)
        yield store
    server.stop()


@pytest.fixture
def s3(s3_server) -> LocalStore:
    """The S3 server without requests and faults."""
    s3_server.new_bucket()
    return s3_server


@pytest.fixture(params=["s3", "gs"])
def store(request) -> LocalStore:
    """Either server, without requests and faults."""
    server = request.getfixturevalue({"s3": "s3_server", "gs": "gcs_server"}[request.param])
    server.new_bucket()
    return server
