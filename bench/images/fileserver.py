"""`python -m bench.images.fileserver DIR`: serves a directory on loopback, for `images`.

A process of its own, which hands files to the kernel (sendfile), so that neither downloader waits
for Python. Prints its port, then a line for each request. `?rate=N` makes it send at N bytes a
second. Ends with its stdin.
"""

import os
import socket
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

_SLICE_S = 0.01


class _Handler(BaseHTTPRequestHandler):
    """Answers GET with a file, its length and an ETag."""

    protocol_version = "HTTP/1.1"
    directory: Path

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        print("GET", url.path, self.headers.get("If-None-Match", "-"), flush=True)
        path = self.directory / Path(url.path).name
        rate = parse_qs(url.query).get("rate")
        with path.open("rb") as file:
            info = os.fstat(file.fileno())
            etag = f'"{info.st_size}-{info.st_mtime_ns}"'
            if self.headers.get("If-None-Match") == etag:
                self.send_response(304)
                self.end_headers()
                return
            self.send_response(200)
            self.send_header("Content-Length", str(info.st_size))
            self.send_header("ETag", etag)
            self.end_headers()
            self.wfile.flush()
            if rate is None:
                self.connection.sendfile(file)
            else:
                _send_slowly(self.connection, file.fileno(), info.st_size, int(rate[0]))

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        """Print nothing: `do_GET` prints the line."""


def _send_slowly(connection: socket.socket, fd: int, size_bytes: int, rate: int) -> None:
    """Send a file at `rate` bytes a second, on the average of each moment."""
    begin = time.monotonic()
    sent = 0
    while sent < size_bytes:
        due = min(int((time.monotonic() - begin + _SLICE_S) * rate), size_bytes)
        while sent < due:
            sent += os.sendfile(connection.fileno(), fd, sent, due - sent)
        time.sleep(_SLICE_S)


def main(directory: Path) -> None:
    """Serve until stdin ends."""
    _Handler.directory = directory
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    print(server.server_address[1], flush=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    sys.stdin.read()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
