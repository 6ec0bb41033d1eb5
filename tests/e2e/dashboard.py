"""What tests of the dashboard need: a Chromium that tells what went wrong on its pages, `herd dashboard`, and an API that is
only pretended, for what a real herd cannot be made to say."""

import contextlib
import http.client
import http.server
import itertools
import json
import os
import socket
import subprocess
import threading
import time
import urllib.parse
from datetime import datetime, timedelta, timezone

from harness import HERD
from processes import CAP, eventually

CHROMIUM = next(
    path
    for path in (os.environ.get("CHROMIUM", ""), "/usr/lib/chromium/chromium", "/usr/bin/chromium")
    if os.access(path, os.X_OK)
)

VIOLATIONS = "document.addEventListener('securitypolicyviolation', e => console.error('CSP: ' + e.violatedDirective + ' ' + e.blockedURI))"


class Looked:
    """A page, and everything its browser complained about."""

    def __init__(self, browser, url, **context):
        self.context = browser.new_context(**{"viewport": {"width": 1280, "height": 800}, **context})
        self.page = self.context.new_page()
        self.complaints = []
        self.page.on("console", lambda m: m.type in ("error", "warning") and self.complaints.append(m.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.add_init_script(VIOLATIONS)
        self.page.set_default_timeout(CAP * 1000)
        self.page.goto(url)

    def live(self):
        self.page.wait_for_selector("#connection[data-is=live]")
        return self

    def ids(self, of="sessions"):
        return [cell.strip() for cell in self.page.locator(f"#panel-{of} .row:visible .id").all_text_contents()]

    def until(self, expression, argument=None):
        self.page.wait_for_function(expression, arg=argument)

    def shows(self, text):
        self.page.get_by_text(text, exact=False).first.wait_for(state="visible")

    def screenshot(self, name):
        """For people: HERD_E2E_SHOTS names a directory."""
        if directory := os.environ.get("HERD_E2E_SHOTS"):
            self.page.screenshot(path=os.path.join(directory, f"{name}.png"))


@contextlib.contextmanager
def herd_dashboard(herd):
    """`herd dashboard` of this herd; gives the address that it prints."""
    child = subprocess.Popen(
        [HERD, "dashboard", "--control-socket", herd.control], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    try:
        yield child.stdout.readline().strip()
    finally:
        child.terminate()
        assert child.wait(CAP) == 0, "herd dashboard ends well"
        child.stdout.close()


def on_socket(path, target):
    """Status, headers and body of a GET on herd's control socket."""
    connection = http.client.HTTPConnection("herd")
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.connect(str(path))
    try:
        connection.request("GET", target)
        answer = connection.getresponse()
        return answer.status, answer.getheaders(), answer.read()
    finally:
        connection.close()


class PretendedHerd:
    """The API with as many sessions as wanted, called as wanted. The page and its files come from a real herd."""

    def __init__(self, herd, names, kind="browser"):
        self.herd = herd
        self.kind = kind
        self.started = datetime.now(timezone.utc)
        self.generations = itertools.count(1)
        self.sessions = {}
        self.events = []
        self.ended = []
        self.changed = threading.Condition()
        self.log = "hello\n"
        self.asked = []
        for name in names:
            self.add(name, tell=False)
        pretended = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                pretended.asked.append(self.path)
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                    pretended.answer(self)

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/"

    def end(self):
        self.server.shutdown()
        self.server.server_close()
        self.thread.join(CAP)

    def moment(self, ago=0.0):
        return (datetime.now(timezone.utc) - timedelta(seconds=ago)).isoformat(timespec="milliseconds").replace("+00:00", "Z")

    def tell(self, **event):
        with self.changed:
            self.events.append({"id": f"1-{len(self.events)}", "at": self.moment(), **event})
            self.changed.notify_all()

    def add(self, name, tell=True):
        generation = next(self.generations)
        with self.changed:
            self.sessions[generation] = (name, time.monotonic())
        if tell:
            self.tell(type="session.created", session=name, generation=generation, kind=self.kind, worker=f"w{generation}", pid=1000 + generation)
        return generation

    def remove(self, generation):
        with self.changed:
            name, _ = self.sessions.pop(generation)
        self.tell(type="session.ended", session=name, generation=generation, kind=self.kind, reason="ttl", detail="idle for its ttl", recycled=False)
        death = {"processes": 3, "pids": [], "memory_bytes": 9_000_000, "took_ms": 1.5, "exit": "killed by signal 9"}
        self.tell(type="worker.gone", worker=f"w{generation}", kind=self.kind, session=name, generation=generation, death=death)

    def view(self, generation):
        name, since = self.sessions[generation]
        age = int((time.monotonic() - since) * 1000)
        held = generation % 3
        return {
            "id": name, "generation": generation, "kind": self.kind, "sandbox": "on", "state": "bound", "reason": None,
            "detail": None, "worker": f"w{generation}", "pid": 1000 + generation, "endpoint": "127.0.0.1:20003",
            "created": self.moment(age / 1000), "age_ms": age, "holders": held, "requests": 0, "streams": held, "holds": 0,
            "ends_in_ms": None if held else 900_000 - age, "ends_for": None if held else "ttl", "ended": None, "death": None,
            "usage": {"processes": 5, "memory_bytes": generation * 100_000, "cpu_seconds": generation / 10},
        }

    def answer(self, request):
        url = urllib.parse.urlsplit(request.path)
        query = dict(urllib.parse.parse_qsl(url.query, keep_blank_values=True))
        match url.path.split("/")[1:]:
            case [""] | ["dashboard", _]:
                status, headers, body = on_socket(self.herd.control, url.path)
                kept = ("content-type", "content-security-policy", "x-content-type-options")
                return self.send(request, body, [pair for pair in headers if pair[0].lower() in kept], status)
            case ["v1", "version"]:
                body = {"version": "9.9.9", "pid": 7, "data_url": "http://127.0.0.1:8080", "session_header": "x-session-id",
                        "started": self.started.isoformat(), "uptime_ms": 1000}
            case ["v1", "workers"]:
                body = {"workers": [{"kind": self.kind, "min": 1, "max": 6000, "starting": 2, "warm": 40, "bound": len(self.sessions),
                                     "dying": 3, "queued": 12, "queue_max": 100, "longest_wait_ms": 4200, "backoff_ms": None, "sandbox": "on"}]}
            case ["v1", "pressure"]:
                body = {"draining": False, "workers": [], "herd": {}, "host": {"memory_available_bytes": 3_000_000_000,
                        "memory_total_bytes": 8_000_000_000, "cpus": 8, "load_average": 1.5}}
            case ["v1", "sessions"]:
                body = self.list(query)
            case ["v1", "sessions", name]:
                name = urllib.parse.unquote(name)
                generation = next((g for g, (n, _) in list(self.sessions.items()) if n == name), None)
                body = {**self.view(generation), "earlier": []} if generation else {}
            case ["v1", "sessions", _, "logs"]:
                return self.send(request, self.log.encode(), [("content-type", "text/plain; charset=utf-8")])
            case ["v1", "events"]:
                return self.stream(request, query)
            case _:
                body = {}
        return self.send(request, json.dumps(body).encode(), [("content-type", "application/json")])

    def list(self, query):
        if query.get("state") == "ended":
            return {"sessions": self.ended, "next": None}
        with self.changed:
            generations = sorted(self.sessions)
            if "id" in query:
                wanted = set(query["id"].split(","))
                generations = [g for g in generations if self.sessions[g][0] in wanted]
            after, limit = int(query.get("after", -1)), int(query.get("limit", 1_000_000))
            generations = [g for g in generations if g > after]
            page = generations[:limit]
            return {"sessions": [self.view(g) for g in page], "next": str(page[-1]) if len(page) < len(generations) else None}

    @staticmethod
    def send(request, body, headers, status=200):
        request.send_response(status)
        for name, value in headers:
            request.send_header(name, value)
        request.send_header("content-length", str(len(body)))
        request.end_headers()
        request.wfile.write(body)

    def stream(self, request, query):
        request.send_response(200)
        request.send_header("content-type", "text/event-stream")
        request.send_header("connection", "close")
        request.end_headers()
        request.close_connection = True
        last = request.headers.get("last-event-id")
        at = 0 if "replay" in query else int(last.split("-")[1]) + 1 if last else len(self.events)
        request.wfile.write(b":\n\n")
        while True:
            with self.changed:
                if at >= len(self.events):
                    if query.get("follow") == "false":
                        return
                    self.changed.wait(1)
                batch, at = self.events[at:], len(self.events)
            text = "".join(f"id: {event['id']}\nevent: {event['type']}\ndata: {json.dumps(event)}\n\n" for event in batch)
            request.wfile.write(text.encode() or b":\n\n")
            request.wfile.flush()


def addresses(herd):
    """Where herd serves sessions, and its API over TCP, from its log."""

    def told():
        for line in herd.log.read_text().splitlines():
            with contextlib.suppress(ValueError, AttributeError):
                line = json.loads(line)
                if "control_url" in line:
                    return line["data"], line["control_url"]
        return None

    return eventually(told, lambda: f"no control_url in the log:\n{herd.tail()}")
