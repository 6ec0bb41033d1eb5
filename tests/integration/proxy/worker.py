"""A worker that behaves as the path asks. Arguments: port or path of a UNIX socket, then name=value settings."""

import json
import os
import socket
import sys
import threading
import time

where, settings = sys.argv[1], dict(pair.split("=", 1) for pair in sys.argv[2:])
released = threading.Event()
progress = {"sent": 0, "received": 0, "stalled": False}
MIB = b"x" * (1 << 20)


def head(status, *fields):
    lines = [f"HTTP/1.1 {status}", *fields, "", ""]
    return "\r\n".join(lines).encode()


def send_json(to, value, *fields):
    body = json.dumps(value).encode()
    to.sendall(head("200 OK", "Content-Type: application/json", f"Content-Length: {len(body)}", *fields) + body)


def send_all(to, count):
    """Sends mebibytes; a peer that takes nothing for a while is noted in `progress`."""
    to.settimeout(0.5)
    for _ in range(count):
        rest = memoryview(MIB)
        while rest:
            try:
                sent = to.send(rest)
            except TimeoutError:
                progress["stalled"] = True
                continue
            rest = rest[sent:]
            progress["sent"] += sent
    to.settimeout(None)


def serve(to):
    stream = to.makefile("rb")
    while line := stream.readline():
        method, target, _ = line.decode().split(" ")
        fields = []
        while (line := stream.readline().decode().rstrip("\r\n")) != "":
            fields.append(line.split(": ", 1))
        named = {name.lower(): value for name, value in fields}
        path = target.split("?")[0]
        length = int(named.get("content-length", 0))
        if path == "/health":
            to.sendall(head(settings.get("health", "200 OK"), "Content-Length: 0"))
        elif path == "/die":
            print("the worker is about to die", flush=True)
            os._exit(7)
        elif path == "/half":
            to.sendall(head("200 OK", "Content-Length: 1000") + b"0123456789")
        elif path == "/half-chunked":
            to.sendall(head("200 OK", "Transfer-Encoding: chunked") + b"a\r\n0123456789\r\n")
        elif path == "/half-without-length":
            to.sendall(head("200 OK") + b"0123456789")
        elif path == "/wait":
            to.sendall(head("200 OK", "Transfer-Encoding: chunked") + b"1\r\n.\r\n")
            released.wait()
            to.sendall(b"0\r\n\r\n")
        elif path == "/release":
            released.set()
            send_json(to, "released")
        elif path == "/progress":
            send_json(to, progress)
        elif path == "/source":
            to.sendall(head("200 OK", f"Content-Length: {100 << 20}"))
            send_all(to, 100)
        elif path == "/sink":
            released.wait()
            while progress["received"] < length:
                progress["received"] += len(stream.read1(min(1 << 20, length - progress["received"])))
            send_json(to, progress)
        elif path == "/json/version":
            own = named["host"]
            send_json(to, {"webSocketDebuggerUrl": f"ws://{own}/devtools/browser/1", "host": own})
        else:
            body = stream.read(length)
            send_json(
                to,
                {
                    "kind": settings.get("kind", ""),
                    "pid": os.getpid(),
                    "method": method,
                    "target": target,
                    "fields": fields,
                    "body": body.decode(),
                },
            )


print("the worker has begun", flush=True)
if "announce" in settings:
    # Once only: the next worker listens at once.
    first = not os.path.exists(settings["announce"])
    with open(settings["announce"] + ".new", "w") as file:
        file.write(where)
    os.rename(settings["announce"] + ".new", settings["announce"])
    if first:
        threading.Event().wait()
while "wait_for" in settings and not os.path.exists(settings["wait_for"]):
    time.sleep(0.005)
if where.isdigit():
    listener = socket.create_server(("127.0.0.1", int(where)), backlog=600)
else:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(where)
    listener.listen(600)


def end_when(path):
    while not os.path.exists(path):
        time.sleep(0.005)
    os._exit(5)


if "end_when" in settings:
    threading.Thread(target=end_when, args=(settings["end_when"],), daemon=True).start()
while True:
    threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
