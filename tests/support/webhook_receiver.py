"""A receiver of webhooks on loopback: it answers by script and keeps what it was sent."""

import json
import threading
from collections import deque
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from k2lib.lifecycle import Closing

Body = dict[str, Any]


class Receiver(Closing):
    """Answers with `answers`, one a request, then with 200; `accepted` is what it took.

    Nothing is answered before `may_answer` is set, which it is unless a test clears it.
    """

    def __init__(self, *answers: int) -> None:
        self.may_answer = threading.Event()
        self.may_answer.set()
        self.accepted: list[Body] = []
        self.asked = 0
        self._answers = deque(answers)
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self._server.server_port}/hook"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def said(self) -> list[tuple[str, str, str]]:
        """Return alert, subject and status of what it took, in order."""
        alerts = [alert for body in self.accepted for alert in body["alerts"]]
        return [(*_name_and_subject(alert), alert["status"]) for alert in alerts]

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                status = receiver._take(self.rfile.read(int(self.headers["Content-Length"])))
                receiver.may_answer.wait()
                self.send_response(status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                """Say nothing."""

        return Handler

    def _take(self, sent: bytes) -> int:
        self.asked += 1
        status = self._answers.popleft() if self._answers else 200
        if status == 200:
            self.accepted.append(json.loads(sent))
        return status


def _name_and_subject(alert: Body) -> tuple[str, str]:
    return alert["labels"]["alertname"], alert["labels"]["subject"]
