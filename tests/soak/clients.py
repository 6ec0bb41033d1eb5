"""The clients of the soak, and how each of their requests may end.

Every request ends in one outcome, and each episode names those it may have. Anything else is a failure.
"""

import base64
import collections
import contextlib
import http.client
import json
import os
import socket
import struct
import subprocess
import threading
import time
from pathlib import Path

from harness import HERD, Client
from processes import CAP, eventually

REFUSED = {"at_capacity", "queue_timeout"}
"""Of a pool that is busy."""


SLOW_READERS, SLOW_CHUNKS, STALL = 6, 100, 3.0
SLOW_LINE = "nobody-reads-this-" * 50
SLOW_KB = 24 << 10
"""A worker writes some ten megabytes a second for each reader that does not read. What others do meanwhile is less."""


class Unaccounted(Exception):
    """A request ended as none of its episode's outcomes."""


class Ledger:
    """What became of every request, and what the server has to agree with."""

    def __init__(self):
        self.lock = threading.Lock()
        self.outcomes = collections.Counter()
        self.created = collections.Counter()
        self.crashed = set()
        self.failures = []

    def note(self, episode, outcome):
        with self.lock:
            self.outcomes[f"{episode}: {outcome}"] += 1


class Visitor:
    """One source of episodes, with chance of its own."""

    def __init__(self, herd, ledger, random, name):
        self.herd, self.ledger, self.random, self.name = herd, ledger, random, name
        self.ids = [f"{name}-{n}" for n in range(4)]

    def session(self):
        """From a few, so that ids are used again while their session lives, and after."""
        return self.random.choice(self.ids)

    def run(self, episode):
        try:
            getattr(self, episode)()
        except Exception as error:  # Whatever it is, it is reported with its context and fails the run.
            with self.ledger.lock:
                self.ledger.failures.append(f"{self.name}, {episode}: {type(error).__name__}: {error}")

    def ask(self, episode, method, path, session, kind, body=None, headers=None, may=("ok",)):
        """One request on a connection of its own. Returns its outcome and its body."""
        connection = http.client.HTTPConnection("127.0.0.1", self.herd.port, timeout=2 * CAP)
        headers = {"X-Session-ID": session, "X-Herd-Worker": kind, **(headers or {})}
        answer, status, state = b"", None, None
        try:
            connection.request(method, path, body=body, headers=headers)
            response = connection.getresponse()
            status, state = response.status, response.getheader("X-Herd-Session-State")
            outcome = response.getheader("X-Herd-Error") or ("ok" if status < 300 else f"status {status}")
            answer = response.read()
        except (http.client.IncompleteRead, ConnectionError):
            outcome = "cut" if status else "cut before the head"
        finally:
            connection.close()
        if state == "created":
            with self.ledger.lock:
                self.ledger.created[session] += 1
        if outcome not in may:
            raise Unaccounted(f"{method} {path} of {session} ({kind}) ended as {outcome!r}, not {sorted(may)}: {answer[:300]!r}")
        self.ledger.note(episode, outcome)
        return outcome, answer

    def kind(self):
        return self.random.choice(["bare", "boxed"])

    def requests(self):
        """A value in a worker's memory, which is the same worker's until its session ends."""
        kind = self.kind()
        session, value = f"{self.session()}-{kind}", str(self.random.random()).encode()
        may = {"ok", *REFUSED}
        for _ in range(self.random.randint(1, 5)):
            if self.ask("requests", "PUT", "/v1/value", session, kind, value, may=may)[0] != "ok":
                return
            outcome, answer = self.ask("requests", "GET", "/v1/value", session, kind, may=may)
            if outcome == "ok" and answer != value:
                raise Unaccounted(f"{session} read {answer[:60]!r} and had written {value!r}")
        if self.random.random() < 0.5:
            stop(self.herd, session)

    def crashes(self):
        """A worker that exits, is killed, or dies of SIGSEGV while it answers."""
        kind, how = self.kind(), self.random.choice(["SEGV", "KILL", "TERM", "ABRT"])
        session = f"{self.name}-crash-{self.random.getrandbits(48):x}"
        may = {"ok", *REFUSED}
        if self.ask("crashes", "PUT", "/v1/value", session, kind, b"doomed", may=may)[0] != "ok":
            return
        # Again until it works: Rust's own handler takes a first SIGSEGV for a fault that will come again.
        body = json.dumps({"cmd": ["sh", "-c", f"while kill -{how} $PPID; do sleep 0.1; done"]})
        # TERM is a polite end to the runner: it finishes what it is at, so the command ends first.
        if how == "TERM":
            body = json.dumps({"cmd": ["sh", "-c", "kill -TERM $PPID"]})
        # The runner answers before the command has done anything: its answer's head may or may not have left herd.
        ends = {"cut", "cut before the head", "worker_crashed", "worker_connection_lost", "ok"}
        self.ask("crashes", "POST", "/v1/run", session, kind, body, may=ends)
        with self.ledger.lock:
            self.ledger.crashed.add(session)
        eventually(
            lambda: self.ask("crashes", "GET", "/v1/value", session, kind, may={"ok", "session_lost", "worker_crashed", "worker_connection_lost"})[0]
            == "session_lost",
            f"{session} is not lost after SIG{how}",
        )
        fresh = {"X-Herd-Session": "new"}
        if self.ask("crashes", "PUT", "/v1/value", session, kind, b"new", fresh, may=may)[0] == "ok":
            stop(self.herd, session)

    def bodies(self):
        """A mebibyte each way: at once, or in drips."""
        kind = self.kind()
        session, value = f"{self.session()}-{kind}", self.random.randbytes(1 << 20)
        pieces = iter([value[at : at + 65536] for at in range(0, len(value), 65536)]) if self.random.random() < 0.5 else value
        length = {"Content-Length": str(len(value))}
        may = {"ok", *REFUSED}
        # A refusal may come while the body is being sent, and the connection then closes under it.
        sent = {*may, "cut before the head"}
        outcome, _ = self.ask("bodies", "PUT", "/v1/value", session, kind, pieces, length, may=sent)
        if outcome == "ok":
            outcome, answer = self.ask("bodies", "GET", "/v1/value", session, kind, may=may)
            if outcome == "ok" and answer != value:
                raise Unaccounted(f"{session} read {len(answer)} other bytes than it had written")

    def slow(self):
        """Answers without an end, which nobody reads for a while and then slowly: herd may not take them in meanwhile."""
        kind = self.kind()
        session = f"{self.name}-slow-{self.random.getrandbits(48):x}"
        if self.ask("slow", "PUT", "/v1/value", session, kind, b"slow", may={"ok", *REFUSED})[0] != "ok":
            return
        before = resident(self.herd)
        with contextlib.ExitStack() as open_until_here:
            streams = [open_until_here.enter_context(self.command(session, kind, f"yes {SLOW_LINE}")) for _ in range(SLOW_READERS)]
            deadline = time.monotonic() + STALL
            while time.monotonic() < deadline:
                if (grown := resident(self.herd) - before) > SLOW_KB:
                    raise Unaccounted(f"herd has grown by {grown} kB beside {SLOW_READERS} answers that nobody reads")
                time.sleep(0.1)  # A look at what is not to happen.
            read_slowly(streams)
        self.ledger.note("slow", "read as far as wanted")
        stop(self.herd, session)

    def command(self, session, kind, script):
        """The answer to a command; its head is read, and nothing more."""
        stream = socket.socket()
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
        stream.settimeout(2 * CAP)
        stream.connect(("127.0.0.1", self.herd.port))
        body = json.dumps({"cmd": ["sh", "-c", script]})
        stream.sendall(
            f"POST /v1/run HTTP/1.1\r\nHost: soak\r\nX-Session-ID: {session}\r\nX-Herd-Worker: {kind}\r\n"
            f"Content-Length: {len(body)}\r\n\r\n{body}".encode()
        )
        head = read_head(stream)
        if not head.startswith(b"HTTP/1.1 200 "):
            raise Unaccounted(f"a command of {session} was answered {head!r}")
        return stream

    def capacity(self):
        """More sessions than a pool has workers: some queue, some are refused."""
        wait = {"X-Herd-Wait": "0"} if self.random.random() < 0.5 else {}
        session = f"{self.name}-tiny-{self.random.getrandbits(32):x}"
        outcome, _ = self.ask("capacity", "GET", "/", session, "tiny", headers=wait, may={"ok", *REFUSED})
        if outcome == "ok":
            stop(self.herd, session)

    def websockets(self):
        """An open stream is the session's life: it is closed, reset or just left, and its worker dies."""
        kind = self.kind()
        session = f"{self.name}-ws-{self.random.getrandbits(48):x}"
        stream = self.stream(session, kind)
        if stream is None:
            return
        with stream:
            for n in range(self.random.choice([0, 1, 50])):
                text = f"{session} {n}".encode()
                stream.sendall(frame(1, text))
                if (echo := read_frame(stream)) != text:
                    raise Unaccounted(f"{session} was echoed {echo!r} for {text!r}")
            how = self.random.choice(["close", "reset", "left", "stopped"])
            if how == "close":
                stream.sendall(frame(8, struct.pack("!H", 1000)))
                while stream.recv(4096):
                    pass
            elif how == "reset":
                stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            elif how == "stopped":
                stop(self.herd, session)
                while stream.recv(4096):
                    pass
        self.ledger.note("websockets", how)
        self.gone(session)

    def stream(self, session, kind):
        stream = socket.create_connection(("127.0.0.1", self.herd.port), timeout=2 * CAP)
        key = base64.b64encode(self.random.randbytes(16)).decode()
        stream.sendall(
            f"GET /v1/echo HTTP/1.1\r\nHost: soak\r\nX-Session-ID: {session}\r\nX-Herd-Worker: {kind}\r\nConnection: Upgrade\r\n"
            f"Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n".encode()
        )
        head = read_head(stream)
        fields = head.decode().lower()
        if " 101 " in fields.splitlines()[0]:
            with self.ledger.lock:
                self.ledger.created[session] += "x-herd-session-state: created" in fields
            return stream
        stream.close()
        code = next((line.split(": ")[1] for line in fields.splitlines() if line.startswith("x-herd-error")), None)
        if code not in REFUSED:
            raise Unaccounted(f"the handshake of {session} was answered {head!r}")
        self.ledger.note("websockets", code)
        return None

    def gone(self, session):
        """A session whose client has gone ends without being asked to."""
        eventually(
            lambda: session not in {s["id"] for s in sessions(self.herd)},
            lambda: f"{session} lives although its stream is gone: {[s for s in sessions(self.herd) if s['id'] == session]}",
        )

    def killed(self):
        """`kill -9` of a process that holds a session: over the control socket, or with a request under way."""
        kind = self.kind()
        session = f"{self.name}-kill-{self.random.getrandbits(48):x}"
        body = json.dumps({"cmd": ["sleep", "60"]})
        if self.random.random() < 0.5:
            command = [HERD, "hold", session, "--worker", kind, "--control-socket", self.herd.control]
        else:
            command = ["curl", "-sN", "-d", body, "-H", f"X-Session-ID: {session}", "-H", f"X-Herd-Worker: {kind}"]
            command += [f"http://127.0.0.1:{self.herd.port}/v1/run"]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as child:
            bound = lambda: any(s["id"] == session and s["state"] == "bound" for s in sessions(self.herd))
            with contextlib.suppress(AssertionError):
                eventually(lambda: bound() or child.poll() is not None, "not bound", CAP)
            was_bound = bound()
            child.kill()
        self.ledger.note("killed", "client killed" if was_bound else "client left the queue")
        # A hold's end is the session's; a plain request's leaves it to the ttl, or to somebody who stops it.
        if command[0] is HERD:
            self.gone(session)
        else:
            stop(self.herd, session)

    def browsers(self):
        """A real browser, closed or killed with its client."""
        session = f"{self.name}-browser-{self.random.getrandbits(32):x}"
        client = Client(self.herd, session)
        try:
            client.connected()
            if client.evaluate("6 * 7") != 42:
                raise Unaccounted(f"the browser of {session} cannot count")
            how = self.random.choice(["close", "kill"])
            client.close() if how == "close" else client.kill()
            self.ledger.note("browsers", how)
        finally:
            client.end()
        self.gone(session)


class Control(http.client.HTTPConnection):
    def __init__(self, path):
        super().__init__("localhost", timeout=CAP)
        self.path = str(path)

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(CAP)
        self.sock.connect(self.path)


def control(herd, path, method="GET", may=(200,)):
    connection = Control(herd.control)
    try:
        connection.request(method, path)
        response = connection.getresponse()
        body = response.read()
        if response.status not in may:
            raise Unaccounted(f"the control API answered {response.status} to {method} {path}: {body[:300]!r}")
        return json.loads(body)
    finally:
        connection.close()


def sessions(herd, query=""):
    return control(herd, f"/v1/sessions{query}")["sessions"]


def stop(herd, session):
    """Ends it, if it has not ended meanwhile."""
    control(herd, f"/v1/sessions/{session}", "DELETE", may=(200, 404))


def read_head(stream):
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        part = stream.recv(1)
        if not part:
            raise Unaccounted(f"a head was cut: {head!r}")
        head += part
    return head


def read_slowly(streams):
    """Some of each endless answer, in small pieces and in turn: all of it is as it was written."""
    answers = [[stream.makefile("rb", buffering=4096), b""] for stream in streams]
    for _ in range(SLOW_CHUNKS):
        for answer in answers:
            size = int(answer[0].readline(), 16)
            answer[1] += answer[0].read(size)
            answer[0].read(2)
        time.sleep(0.02)
    written = SLOW_LINE + "\n"
    for _, body in answers:
        *whole, _ = body.split(b"\n")
        said = "".join(json.loads(line)["data"] for line in whole)
        if not said or said != (written * (len(said) // len(written) + 1))[: len(said)]:
            raise Unaccounted(f"an endless answer of {len(said)} bytes is not what the worker wrote")


def resident(herd):
    """Its memory in kilobytes."""
    status = Path(f"/proc/{herd.child.pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS:"))


def frame(opcode, payload):
    mask = os.urandom(4)
    size = bytes([0x80 | len(payload)]) if len(payload) < 126 else b"\xfe" + struct.pack("!H", len(payload))
    return bytes([0x80 | opcode]) + size + mask + bytes(b ^ mask[n % 4] for n, b in enumerate(payload))


def read_frame(stream):
    def exactly(n):
        got = b""
        while len(got) < n:
            part = stream.recv(n - len(got))
            if not part:
                raise Unaccounted("a stream was cut that nobody ended")
            got += part
        return got

    _, size = exactly(2)
    return exactly(size if size < 126 else struct.unpack("!H", exactly(2))[0])
