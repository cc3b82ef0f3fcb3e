"""A W&B server on this machine, as far as a run needs one to begin; it can go away in the midst of the run."""

from __future__ import annotations

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Server(ThreadingHTTPServer):
    """Answers what wandb asks when a run begins, until it is asked to ``/hang`` or to ``/refuse``.

    Attributes:
        asked: Names of the questions, in order.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.asked: list[str] = []
        self.gone = threading.Event()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *_: Any) -> None:
        pass

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
        operation = json.loads(body) if self.path == "/graphql" else {}
        name = operation.get("operationName", self.path.rpartition("/")[2])
        self.server.asked.append(name)
        if name in ("hang", "refuse"):
            self.server.gone.set()
            self.answer({})
            if name == "refuse":
                self.server.socket.close()
            return
        if self.server.gone.is_set():
            time.sleep(3600)
        self.answer(_answer(name, operation.get("variables") or {}))

    do_GET = do_PUT = do_POST

    def answer(self, told: Any) -> None:
        body = json.dumps(told).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def _answer(name: str, variables: dict[str, Any]) -> dict[str, Any]:
    entity = {"id": "RW50aXR5", "name": "me"}
    if name == "Viewer":
        return {"data": {"viewer": {**entity, "entity": "me", "username": "me", "flags": "{}", "teams": {"edges": []}}}}
    if name == "UpsertBucket":
        run = {"id": "UnVu", "name": variables["name"], "displayName": "a run", "description": "", "config": "{}"}
        project = {"id": "UHJvamVjdA==", "name": variables["project"], "entity": entity}
        told = {**run, "sweepName": None, "historyLineCount": 0, "project": project}
        return {"data": {"upsertBucket": {"bucket": told, "inserted": True}}}
    if name == "RunResumeStatus":
        return {"data": {"model": None}}
    if name == "file_stream":
        return {}
    return {"data": None, "errors": [{"message": f"no {name} here"}]}
