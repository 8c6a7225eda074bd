#!/usr/bin/env python3
"""Serves files as one repository of a model hub, for pods of the test cluster, which has no way out.

    hub.py ADDRESS PORT OWNER/NAME FILE...

The two paths of the hub's API that a fetch needs: the list with sizes and checksums, and the files, with ranges.
Every request is a line on standard output, so that a test can see what was fetched and what was not fetched twice.
"""
import hashlib
import json
import os
import re
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "0123456789abcdef0123456789abcdef01234567"
CHUNK_BYTES = 1 << 20

address, port, repository, paths = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4:]
files = {os.path.basename(path): path for path in paths}


def listing():
    siblings = []
    for name, path in sorted(files.items()):
        with open(path, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        size = os.path.getsize(path)
        siblings.append({"rfilename": name, "size": size, "lfs": {"sha256": digest, "size": size, "pointerSize": 130}})
    return json.dumps({"sha": COMMIT, "siblings": siblings}).encode()


LISTING = listing()


class Hub(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        path = self.path.split("?")[0]
        if path == f"/api/models/{repository}/revision/main":
            self.head(200, len(LISTING))
            self.wfile.write(LISTING)
            return
        prefix = f"/{repository}/resolve/{COMMIT}/"
        file = files.get(path[len(prefix) :]) if path.startswith(prefix) else None
        if file is None:
            self.head(404, 0, {"x-error-code": "EntryNotFound"})
            return
        size = os.path.getsize(file)
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        first = int(asked[1]) if asked else 0
        ranged = {"Content-Range": f"bytes {first}-{size - 1}/{size}"} if asked else {}
        self.head(206 if asked else 200, size - first, ranged)
        with open(file, "rb") as body:
            body.seek(first)
            while chunk := body.read(CHUNK_BYTES):
                self.wfile.write(chunk)

    def head(self, status, length, more=None):
        self.send_response(status)
        for name, value in {"Content-Length": str(length), **(more or {})}.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, form, *values):
        print(f"{self.client_address[0]} {self.headers.get('Range', '-')} {form % values}", flush=True)


ThreadingHTTPServer((address, port), Hub).serve_forever()
