"""A worker that speaks HTTP/2 with prior knowledge and nothing else. It answers everything with 200, or with 500 while the
file `unwell` is there, and adds a byte to the file `asked` for each request. Arguments: port, directory of the files."""

import os
import socket
import sys
import threading

port, files = sys.argv[1:]
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, SETTINGS, PING = 0, 1, 4, 6
ACK, END_STREAM, END_HEADERS = 1, 1, 4
# Of HPACK's static table (RFC 7541 appendix A).
STATUS_200, STATUS_500 = b"\x88", b"\x8e"


def frame(kind, flags, stream, payload=b""):
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def serve(to):
    with to, to.makefile("rb") as reader:
        if reader.read(len(PREFACE)) != PREFACE:
            return
        to.sendall(frame(SETTINGS, 0, 0))
        while head := reader.read(9):
            kind, flags, stream = head[3], head[4], int.from_bytes(head[5:], "big")
            payload = reader.read(int.from_bytes(head[:3], "big"))
            if kind in (SETTINGS, PING) and not flags & ACK:
                to.sendall(frame(kind, ACK, 0, payload if kind == PING else b""))
            elif kind == HEADERS:
                with open(os.path.join(files, "asked"), "ab") as asked:
                    asked.write(b".")
                unwell = os.path.exists(os.path.join(files, "unwell"))
                answer = frame(HEADERS, END_HEADERS, stream, STATUS_500 if unwell else STATUS_200)
                to.sendall(answer + frame(DATA, END_STREAM, stream, b"ok"))


listener = socket.create_server(("127.0.0.1", int(port)), backlog=100)
while True:
    threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
