"""A stand-in for the server of W&B on the loopback: it answers what its client asks, badly on request."""

import gzip
import json
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

RUN = {"id": "UnVuOng=", "name": "x", "displayName": "x", "description": "", "config": "{}", "historyLineCount": 0,
       "sweepName": "", "project": {"id": "p", "name": "cl_framework", "entity": {"id": "e", "name": "me"}}}


class Server(ThreadingHTTPServer):
    """Counts requests and keeps the lines of history that it was sent."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, *, status=200, delay=0.0, dies_after=None):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.status, self.delay, self.dies_after = status, delay, dies_after
        self.n_requests, self.history, self.is_dead = 0, [], False

    @property
    def address(self):
        """Where it listens."""
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request, client_address):
        """A client that has hung up is no news."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        """Nothing is printed."""

    def do_GET(self):
        self._reply({})

    def do_PUT(self):
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self._reply({})

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        server = self.server
        server.n_requests += 1
        if server.dies_after is not None and server.n_requests > server.dies_after:
            server.is_dead = True
        if server.is_dead:
            self.connection.close()
            return
        if server.delay:
            time.sleep(server.delay)
        asked = json.loads(gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body)
        if "file_stream" in self.path and server.status == 200:
            lines = asked.get("files", {}).get("wandb-history.jsonl", {}).get("content", [])
            server.history += [json.loads(line) for line in lines]
        self._reply(self._answer(asked))

    def _answer(self, asked):
        query = asked.get("query", "")
        if "upsertBucket" in query:
            return {"data": {"upsertBucket": {"bucket": RUN, "inserted": True}}}
        if "createRunFiles" in query:
            files = [{"name": name, "uploadUrl": f"{self.server.address}/put/{name}"}
                     for name in asked["variables"]["files"]]
            return {"data": {"createRunFiles": {"runID": "x", "uploadHeaders": [], "files": files}}}
        if "viewer" in query:
            return {"data": {"viewer": {"id": "v", "entity": "me", "username": "me", "flags": "{}",
                                        "teams": {"edges": []}}}}
        if "createArtifact" in query:
            return {"errors": [{"message": "no artifacts here"}]}
        return {"data": {"model": {"bucket": None}, "serverInfo": {"features": []}, "project": None}}

    def _reply(self, answer):
        data = json.dumps(answer).encode()
        self.send_response(self.server.status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@contextmanager
def serving(**how):
    """A server that lives as long as the block."""
    server = Server(**how)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
