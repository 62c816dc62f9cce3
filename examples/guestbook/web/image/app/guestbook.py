"""A page that counts its visits in Redis. It speaks Redis' protocol itself: two commands need no library."""

import html
import os
import socket
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

REDIS = (os.environ.get("REDIS_HOST", "redis"), int(os.environ.get("REDIS_PORT", "6379")))
TITLE = os.environ.get("TITLE", "Guestbook")


def redis(*words: str) -> str:
    """One command to Redis; answers its first line without the type mark."""
    with socket.create_connection(REDIS, timeout=2) as connection:
        command = f"*{len(words)}\r\n" + "".join(f"${len(w.encode())}\r\n{w}\r\n" for w in words)
        connection.sendall(command.encode())
        line = connection.makefile("rb").readline().decode().strip()
    if line.startswith("-"):
        raise OSError(line[1:])
    return line[1:]


class Page(BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/health":
            return self.answer(200, "ok\n", "text/plain")
        try:
            visits = redis("INCR", "visits") if self.path == "/" else None
        except OSError as error:
            return self.answer(503, f"Redis at {REDIS[0]} does not answer: {error}\n", "text/plain")
        if visits is None:
            return self.answer(404, "There is only one page here: /\n", "text/plain")
        host = html.escape(socket.gethostname())
        self.answer(200, f"<!doctype html><title>{html.escape(TITLE)}</title><h1>{html.escape(TITLE)}</h1>"
                         f"<p>Visit number <b id=visits>{visits}</b>, served by {host}.</p>\n", "text/html; charset=utf-8")

    def answer(self, status, text, kind):
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, text, *values):
        print(self.address_string(), text % values)


class Server(ThreadingHTTPServer):
    address_family = socket.AF_INET6


if __name__ == "__main__":
    print(f"listening on port 8000, counting in Redis at {REDIS[0]}:{REDIS[1]}")
    Server(("::", 8000), Page).serve_forever()
