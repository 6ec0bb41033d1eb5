"""server.py --port PORT | --socket PATH: a worker of nothing but Python's own http.server.

GET /bytes/N sends N bytes, PUT /digest answers the SHA-256 of what it is sent, GET /whoami tells what the worker can say of
itself, GET /reach/HOST/PORT tries to connect, and a WebSocket on /echo gets its messages back.
"""

import base64
import hashlib
import http.server
import json
import os
import socket
import socketserver
import sys

CHUNK = bytes(range(256)) * 256


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = False  # there is no such thing on a UNIX socket

    def answer(self, body, kind="application/json"):
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        match self.path.split("/")[1:]:
            case ["bytes", count]:
                self.send_response(200)
                self.send_header("Content-Length", count)
                self.end_headers()
                left = int(count)
                while left:
                    left -= self.wfile.write(CHUNK[:left])
            case ["whoami"]:
                self.answer(json.dumps(self.whoami()).encode())
            case ["reach", host, port]:
                try:
                    socket.create_connection((host, int(port)), timeout=5).close()
                    self.answer(b'"reached"')
                except OSError as error:
                    self.answer(json.dumps(error.strerror or str(error)).encode())
            case ["echo"]:
                self.echo()
            case _:
                self.answer(b"{}")

    def do_PUT(self):
        digest, left = hashlib.sha256(), int(self.headers["Content-Length"])
        while left:
            part = self.rfile.read(min(left, 1 << 16))
            digest.update(part)
            left -= len(part)
        self.answer(digest.hexdigest().encode(), "text/plain")

    @staticmethod
    def whoami():
        return {
            "uid": os.getuid(),
            "gid": os.getgid(),
            "groups": os.getgroups(),
            "pid": os.getpid(),
            "processes": sorted(int(name) for name in os.listdir("/proc") if name.isdigit()),
            "home": os.environ["HOME"],
            "cwd": os.getcwd(),
            "root": sorted(os.listdir("/")),
            "interfaces": sorted(name for _, name in socket.if_nameindex()),
            "variables": sorted(os.environ),
            "descriptors": sorted(int(name) for name in os.listdir("/proc/self/fd"))[:-1],
        }

    def echo(self):
        """RFC 6455, as far as a client of one's own goes: whole masked messages."""
        key = self.headers["Sec-WebSocket-Key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
        self.send_response(101)
        self.send_header("Upgrade", "websocket")
        self.send_header("Connection", "Upgrade")
        self.send_header("Sec-WebSocket-Accept", base64.b64encode(hashlib.sha1(key.encode()).digest()).decode())
        self.end_headers()
        self.close_connection = True
        while head := self.rfile.read(2):
            length = head[1] & 0x7F
            extended = self.rfile.read({126: 2, 127: 8}.get(length, 0))
            length = int.from_bytes(extended) if extended else length
            mask = self.rfile.read(4)
            body = self.rfile.read(length)
            # XOR of whole numbers: a loop over megabytes would be all this measures.
            pad = (mask * (length // 4 + 1))[:length]
            plain = (int.from_bytes(body) ^ int.from_bytes(pad)).to_bytes(length)
            self.wfile.write(bytes([head[0], head[1] & 0x7F]) + extended + plain)

    def log_message(self, *_):
        pass


class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 128


class UnixServer(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True
    request_queue_size = 128

    def get_request(self):
        connection, _ = super().get_request()
        return connection, ("herd", 0)


match sys.argv[1:]:
    case ["--port", port]:
        server = Server(("127.0.0.1", int(port)), Handler)
    case ["--socket", path]:
        server = UnixServer(path, Handler)
server.serve_forever()
