"""Streams that say nothing from the beginning of the run to its end, and have to work then."""

import json

from clients import Unaccounted, Visitor, frame, read_frame, read_head, sessions

KINDS = ("resting", "resting-boxed")
STREAMS = 2 * len(KINDS)


class Resting:
    """For each kind a WebSocket, and an answer that has begun and whose next byte comes when it is asked for."""

    def __init__(self, herd, ledger, random):
        self.herd, self.ledger = herd, ledger
        self.visitor = Visitor(herd, ledger, random, "resting")
        self.sockets, self.answers = {}, {}
        for kind in KINDS:
            self.sockets[kind] = self.visitor.stream(f"{kind}-socket", kind)
            self.answers[kind] = self.begin(f"{kind}-answer", kind)
        self.pids = self.seen()

    def begin(self, session, kind):
        command = "echo begun; until [ -e asked ]; do sleep 1; done; echo ended"
        stream = self.visitor.command(session, kind, command)
        self.until(stream, b"begun")
        return stream

    def until(self, stream, text):
        said = b""
        while text not in said:
            part = stream.recv(4096)
            if not part:
                raise Unaccounted(f"a resting answer ended before {text!r}: {said!r}")
            said += part

    def seen(self):
        return {s["id"]: s["pid"] for s in sessions(self.herd) if s["id"].startswith("resting")}

    def wake(self):
        """Whether each is its worker's still, and the worker's the one that it was."""
        try:
            if (now := self.seen()) != self.pids or len(now) != STREAMS:
                raise Unaccounted(f"sessions and workers were {self.pids} and are {now}")
            for kind in KINDS:
                self.sockets[kind].sendall(frame(1, b"awake?"))
                if (echo := read_frame(self.sockets[kind])) != b"awake?":
                    raise Unaccounted(f"a WebSocket that rested echoed {echo!r}")
                body = json.dumps({"cmd": ["touch", "asked"]})
                self.visitor.ask("resting", "POST", "/v1/run", f"{kind}-answer", kind, body)
                self.until(self.answers[kind], b"ended")
                self.ledger.note("resting", "awake")
        except Exception as error:  # As in a visitor's episode.
            self.ledger.failures.append(f"resting: {type(error).__name__}: {error}")
        finally:
            for stream in [*self.sockets.values(), *self.answers.values()]:
                stream.close()
