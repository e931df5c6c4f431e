"""The web server of the vote: POST / with vote=NAME, GET /result. Standard library only."""

import http.server
import socket
import urllib.parse

CHOICES = ("cats", "dogs")


def redis(*words):
    """Sends one command and returns its answer: a status, a number or a bulk string."""
    with socket.create_connection(("redis", 6379), timeout=30) as s:
        message = b"*%d\r\n" % len(words)
        for w in words:
            message += b"$%d\r\n%s\r\n" % (len(w.encode()), w.encode())
        s.sendall(message)
        with s.makefile("rb") as f:
            line = f.readline().strip()
            if line[:1] == b"$":
                n = int(line[1:])
                return f.read(n + 2)[:-2].decode() if n >= 0 else ""
            if line[:1] == b"-":
                raise RuntimeError(line.decode())
            return line[1:].decode()


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self, code, text):
        body = text.encode()
        self.send_response(code)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        if self.path == "/healthz":
            return self.answer(200, redis("PING") + "\n")
        if self.path == "/result":
            return self.answer(200, redis("GET", "result") + "\n")
        self.answer(200, "%s serves; vote for one of: %s\n" % (socket.gethostname(), " ".join(CHOICES)))

    def do_POST(self):
        form = urllib.parse.parse_qs(self.rfile.read(int(self.headers.get("Content-Length", 0))).decode())
        choice = form.get("vote", [""])[0]
        if choice not in CHOICES:
            return self.answer(400, "vote for one of: %s\n" % " ".join(CHOICES))
        redis("LPUSH", "votes", choice)
        self.answer(200, "thank you\n")

    def log_message(self, *args):
        pass


http.server.ThreadingHTTPServer(("", 80), Handler).serve_forever()
