"""moto's S3 server on loopback, in a thread of this process, that fails requests when told to."""

import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server

BUCKET = "experiments"
CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "AKIAEXAMPLEOFATEST01",
    "AWS_SECRET_ACCESS_KEY": "secret/of/a/test+not+of+an+account+0001",
    "AWS_EC2_METADATA_DISABLED": "true",
}


class _Quiet(WSGIRequestHandler):
    def log_request(self, *arguments: Any) -> None:
        pass


@dataclass
class S3Server:
    """`requests`: "PUT /bucket/key?query" of each, in order; a copy on the server is a COPY.

    `disturb` says of a request what happens to it: "" nothing, "busy" 503 (clients try again), "refuse" 403 (they do
    not), "lose" it is done and then answered with 403.
    """

    port: int = 0
    requests: list[str] = field(default_factory=list)
    disturb: Callable[[str], str] = lambda request: ""
    delay_s: float = 0.0

    def uri(self, folder: str) -> str:
        return f"s3://{BUCKET}/{folder}?scheme=http&endpoint_override=127.0.0.1:{self.port}&region=us-east-1"

    def __enter__(self) -> "S3Server":
        application = DomainDispatcherApplication(create_backend_app)

        def answer(environment: dict, start_response: Callable) -> Any:
            query = environment.get("QUERY_STRING", "")
            method = "COPY" if "HTTP_X_AMZ_COPY_SOURCE" in environment else environment["REQUEST_METHOD"]
            request = f"{method} {environment['PATH_INFO']}" + (f"?{query}" if query else "")
            self.requests.append(request)
            time.sleep(self.delay_s)
            how = self.disturb(request)
            if not how:
                return application(environment, start_response)
            if how == "lose":
                b"".join(application(environment, lambda *arguments: None))
            else:
                environment["wsgi.input"].read(int(environment.get("CONTENT_LENGTH") or 0))
            status, code = ("503 Slow Down", "SlowDown") if how == "busy" else ("403 Forbidden", "AccessDenied")
            start_response(status, [("Content-Type", "application/xml")])
            return [f"<Error><Code>{code}</Code><Message>injected</Message></Error>".encode()]

        self._server = make_server("127.0.0.1", 0, answer, threaded=True, request_handler=_Quiet)
        self.port = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        os.environ.update(CREDENTIALS)
        from pyarrow.fs import FileSystem

        filesystem, _ = FileSystem.from_uri(self.uri("") + "&allow_bucket_creation=true")
        filesystem.create_dir(BUCKET)
        return self

    def __exit__(self, *exception: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        for name in CREDENTIALS:
            os.environ.pop(name, None)
