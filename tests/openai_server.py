"""A small OpenAI-compatible server on the loopback interface, for tests of the wire."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = Callable[[dict[str, Any]], dict[str, Any] | int]


def completion(text: str, finish_reason: str = "stop") -> dict[str, Any]:
    """The body of a chat completion."""
    return {
        "id": "c1",
        "object": "chat.completion",
        "created": 0,
        "model": "test",
        "choices": [
            {
                "index": 0,
                "finish_reason": finish_reason,
                "message": {"role": "assistant", "content": text},
            }
        ],
        "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
    }


def as_events(body: dict[str, Any]) -> bytes:
    """A completion as a stream of server-sent events, a word each."""
    (choice,) = body["choices"]
    words = choice["message"]["content"].split(" ")
    deltas = [
        {"role": "assistant", "content": words[0]},
        *({"content": f" {w}"} for w in words[1:]),
    ]
    chunks = [{"index": 0, "delta": delta, "finish_reason": None} for delta in deltas]
    chunks.append({"index": 0, "delta": {}, "finish_reason": choice["finish_reason"]})
    events = [
        json.dumps({**body, "object": "chat.completion.chunk", "usage": None, "choices": [chunk]})
        for chunk in chunks
    ]
    return "".join(f"data: {event}\n\n" for event in [*events, "[DONE]"]).encode()


@contextmanager
def openai_server(answer: Answer) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Serve `answer(request)`: a completion's body, or an HTTP status; yield URL and requests."""
    requests: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            requests.append(request)
            body = answer(request)
            status = body if isinstance(body, int) else 200
            if isinstance(body, int):
                kind, data = "application/json", b'{"error": {"message": "no"}}'
            elif request.get("stream"):
                kind, data = "text/event-stream", as_events(body)
            else:
                kind, data = "application/json", json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1", requests
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
