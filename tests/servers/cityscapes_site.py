"""A server on loopback that answers as the Cityscapes site does, and fails as told.

with CityscapesSite({3: archive_path}) as site: ...  # site.url, site.username, site.password
python tests/servers/cityscapes_site.py ARCHIVE      # from a shell; prints the settings to export
"""

import argparse
import hashlib
import http.server
import json
import os
import re
import secrets
import socket
import struct
import sys
import threading
import time
import urllib.parse
from collections import deque
from dataclasses import dataclass, field
from email.utils import formatdate
from pathlib import Path
from typing import Self

PAGE = b"<!DOCTYPE html><html><head><title>Cityscapes</title></head><body>Please log in.</body></html>"


@dataclass(frozen=True)
class Fault:
    """What happens to one request; unset fields leave the answer as it is."""

    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes | None = None  # with a status, or 200, in place of the true answer
    content_type: str = "text/html"
    ignore_range: bool = False
    chunked: bool = False  # no Content-Length
    drop_after: int | None = None  # bytes of the body, then the connection breaks
    stall_after: int | None = None  # bytes of the body, then silence
    piece: int = 1 << 20
    pause_s: float = 0.0  # after each piece
    start_shift: int = 0  # a 206 from another place than asked
    expire: bool = False  # forget all sessions, then answer
    call: object = None  # called before the answer


class CityscapesSite:
    """Packages by id; `faults[path]` are used up one a request, then all is well. An `anonymous` site asks for no login,
    and has the packages at /NAME, too.

    `requests` lists (method, path, Range header or None, status).
    """

    def __init__(
        self, packages: dict[int, Path], username: str = "ada", password: str = "pass word&§9", anonymous: bool = False
    ):
        self.packages = packages
        self.username, self.password = username, password
        self.anonymous = anonymous
        self.etags: dict[int, str] | None = {}
        self.md5s: dict[int, str] = {}
        self.send_dates = True
        self.rate_bytes_s: float | None = None
        self.faults: dict[str, deque[Fault]] = {}
        self.always: dict[str, Fault] = {}
        self.requests: list[tuple[str, str, str | None, int]] = []
        self.sent_bytes = 0
        self.sessions: set[str] = set()
        self.stopping = threading.Event()
        self.lock = threading.Lock()
        site = self

        class Handler(_Handler):
            pass

        Handler.site = site
        self._server = _Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopping.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def fail(self, path: str, *faults: Fault) -> None:
        """Let the next requests of `path` ("/login", "/downloads/", "/md5-sum/", "/file-handling/") fail."""
        self.faults.setdefault(path, deque()).extend(faults)

    def count(self, path: str, method: str = "GET") -> int:
        return sum(1 for request in self.requests if request[:2] == (method, path))

    def md5(self, package: int) -> str:
        if package not in self.md5s:
            with self.packages[package].open("rb") as file:
                self.md5s[package] = hashlib.file_digest(file, "md5").hexdigest()
        return self.md5s[package]

    def replace(self, package: int, path: Path) -> None:
        """Another file under the same id, as after an update of the dataset."""
        with self.lock:
            self.packages[package] = path
            self.md5s.pop(package, None)
            if self.etags is not None:
                self.etags[package] = f'"{self.md5(package)}"'


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, request: object, client_address: object) -> None:
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    site: CityscapesSite

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        self._answer("GET", b"")

    def do_POST(self) -> None:
        self._answer("POST", self.rfile.read(int(self.headers.get("Content-Length", 0))))

    def _answer(self, method: str, form: bytes) -> None:
        site = self.site
        url = urllib.parse.urlsplit(self.path)
        self.query = urllib.parse.parse_qs(url.query, keep_blank_values=True)
        self.route = url.path
        key = f"{method} {url.path}" if f"{method} {url.path}" in site.faults else url.path
        with site.lock:
            waiting = site.faults.get(key)
            self.fault = waiting.popleft() if waiting else site.always.get(url.path, Fault())
        if callable(self.fault.call):
            self.fault.call()
        if self.fault.expire:
            site.sessions.clear()
        if self.fault.body is not None or (self.fault.status or 200) not in (200, 206):
            body = self.fault.body if self.fault.body is not None else PAGE
            self._reply(self.fault.status or 200, body, {"Content-Type": self.fault.content_type, **self.fault.headers})
        elif url.path == "/login" and method == "GET":
            self._reply(200, PAGE, {"Content-Type": "text/html"})
        elif url.path == "/login":
            fields = urllib.parse.parse_qs(form.decode())
            want = {"username": [site.username], "password": [site.password], "submit": ["Login"]}
            if fields == want:
                token = secrets.token_hex(8)
                site.sessions.add(token)
                self._reply(302, b"", {"Location": "/downloads/", "Set-Cookie": f"PHPSESSID={token}; path=/"})
            else:
                # A careless page, that shows what was typed: none of it may reach a message.
                self._reply(200, PAGE + form, {"Content-Type": "text/html"})
        elif not self._is_known():
            self._reply(302, b"", {"Location": "/login"})
        elif url.path == "/downloads/" and "list" in self.query:
            packages = [
                {"name": path.name, "packageID": str(number), "size": f"{path.stat().st_size / 1e6:.0f}MB"}
                for number, path in site.packages.items()
            ]
            self._reply(200, json.dumps(packages).encode(), {"Content-Type": "application/json"})
        elif url.path == "/md5-sum/" and (number := self._package()) is not None:
            text = f"{site.md5(number)}  {site.packages[number].name}\n"
            self._reply(200, text.encode(), {"Content-Type": "text/plain"})
        elif (url.path == "/file-handling/" or site.anonymous) and (number := self._package()) is not None:
            self._send_file(number)
        else:
            self._reply(404, PAGE, {"Content-Type": "text/html"})

    def _is_known(self) -> bool:
        found = re.search(r"PHPSESSID=(\w+)", self.headers.get("Cookie", ""))
        return self.site.anonymous or (bool(found) and found[1] in self.site.sessions)

    def _package(self) -> int | None:
        named = [n for n, path in self.site.packages.items() if self.route == f"/{path.name}"]
        number = int(self.query.get("packageID", named or ["0"])[0])
        return number if number in self.site.packages else None

    def _note(self, status: int) -> None:
        self.site.requests.append((self.command, self.route, self.headers.get("Range"), status))

    def _reply(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self._note(status)
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _send_file(self, number: int) -> None:
        site, fault = self.site, self.fault
        path = site.packages[number]
        size = path.stat().st_size
        modified = formatdate(path.stat().st_mtime, usegmt=True)
        etag = site.etags.get(number, f'"{site.md5(number)}"') if site.etags is not None else None
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        condition = self.headers.get("If-Range")
        start = int(asked[1]) if asked and not fault.ignore_range else 0
        partial = bool(asked) and not fault.ignore_range and (condition is None or condition in (etag, modified))
        if partial and start >= size:
            self._reply(416, b"", {"Content-Range": f"bytes */{size}"})
            return
        start = start + fault.start_shift if partial else 0
        status = 206 if partial else 200
        self._note(status)
        self.send_response(status)
        self.send_header("Content-Type", "application/zip")
        if etag is not None:
            self.send_header("ETag", etag)
        if site.send_dates:
            self.send_header("Last-Modified", modified)
        if partial:
            self.send_header("Content-Range", f"bytes {start}-{size - 1}/{size}")
        if fault.chunked:
            self.send_header("Transfer-Encoding", "chunked")
        else:
            self.send_header("Content-Length", str(size - start))
        for name, value in fault.headers.items():
            self.send_header(name, value)
        self.end_headers()
        with path.open("rb") as file:
            if fault == Fault() and site.rate_bytes_s is None:
                self.wfile.flush()
                offset = start
                while offset < size and (sent := os.sendfile(self.connection.fileno(), file.fileno(), offset, 1 << 22)):
                    offset += sent
                return
            file.seek(start)
            self._send_slowly(file.read())

    def _send_slowly(self, body: bytes) -> None:
        site, fault = self.site, self.fault
        ends = [end for end in (fault.drop_after, fault.stall_after) if end is not None]
        end = min([len(body), *ends])
        piece = min(fault.piece, 1 << 16) if site.rate_bytes_s else fault.piece
        for start in range(0, end, piece):
            part = body[start : min(start + piece, end)]
            self.wfile.write(b"%x\r\n%s\r\n" % (len(part), part) if fault.chunked else part)
            self.wfile.flush()
            site.sent_bytes += len(part)
            if site.stopping.wait(fault.pause_s + (len(part) / site.rate_bytes_s if site.rate_bytes_s else 0)):
                return
        if fault.stall_after is not None:
            site.stopping.wait(30)
        if fault.drop_after is not None:
            # An abortive close: the client sees a reset, not a tidy end.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close_connection = True
            self.connection.close()
        elif fault.chunked:
            self.wfile.write(b"0\r\n\r\n")


def main() -> None:
    parser = argparse.ArgumentParser(description="Serve an archive as the Cityscapes site does, on loopback.")
    parser.add_argument("archive", type=Path)
    parser.add_argument("--rate-mb-s", type=float)
    options = parser.parse_args()
    with CityscapesSite({3: options.archive}, password="let-me-in") as site:
        site.rate_bytes_s = options.rate_mb_s * 1e6 if options.rate_mb_s else None
        print(f"export CITYSCAPES_URL={site.url} CITYSCAPES_USERNAME={site.username} CITYSCAPES_PASSWORD=let-me-in")
        sys.stdout.flush()
        while True:
            time.sleep(3600)


if __name__ == "__main__":
    main()
