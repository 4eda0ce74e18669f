"""A small server on loopback that speaks the chat completions API: answers in turn, and remembers what it was asked."""

import json
import threading
import time
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

Reply = str | tuple[int, str] | tuple[int, str, dict[str, str]]


@dataclass(frozen=True)
class Asked:
    path: str
    headers: dict[str, str]
    body: Any
    at_s: float


class Endpoint:
    """`replies` in order, the last one again and again; a number and a text are an error of that status."""

    def __init__(self, replies: list[Reply], raw: bytes | None = None) -> None:
        self.replies, self.raw = replies, raw
        self.requests: list[Asked] = []
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def answer(self, asked: Asked) -> tuple[int, bytes, dict[str, str]]:
        with self._lock:
            reply = self.replies[min(len(self.requests), len(self.replies) - 1)]
            self.requests.append(asked)
        if self.raw is not None:
            return 200, self.raw, {}
        if isinstance(reply, str):
            message = {"role": "assistant", "content": reply}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            return 200, json.dumps({"object": "chat.completion", "choices": [choice]}).encode(), {}
        error = {"error": {"message": reply[1], "type": "error", "code": reply[0]}}
        return reply[0], json.dumps(error).encode(), reply[2] if len(reply) == 3 else {}

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                asked = Asked(self.path, dict(self.headers.items()), json.loads(body), time.monotonic())
                status, data, headers = endpoint.answer(asked)
                self.send_response(status)
                for name, value in {**headers, "Content-Type": "application/json"}.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: object) -> None:
                """Nothing on stderr."""

        return Handler
