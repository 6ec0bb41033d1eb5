"""herd, its clients and a page to look at, each a real process that the tests start and end."""

import contextlib
import enum
import http.client
import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import threading
import uuid
from pathlib import Path

import processes
from processes import CAP, eventually

STAGE = Path(os.environ["HERD_E2E_STAGE"])
"""Laid out by `run`: the herd binary, node_modules, these files, and homes/ for what the tests write."""
HERD = STAGE / "bin" / "herd"



class Mode(enum.Enum):
    """How the browser worker runs."""

    BARE = "bare"
    SANDBOX = "sandbox"
    """As root, or as a user who has subordinate ids: the worker is somebody else on this machine."""
    ONE_ID = "one-id"
    """A sandbox that a user without subordinate ids has: the worker is that user."""

    @property
    def sandboxed(self):
        return self is not Mode.BARE

    def config(self):
        """The file a user would write, word for word."""
        name = "herd.sandbox.yaml" if self.sandboxed else "herd.yaml"
        return (STAGE / "example" / name).read_text()


class Herd:
    """A running `herd start`, in a directory and with a HOME of its own.

    So are its port, control socket and state directory, unless it is started `as_documented`: with no option but the
    name of the file.
    """

    def __init__(self, mode, config=None, prefix=(), host="127.0.0.1", as_documented=False):
        self.mode = mode
        self.home = STAGE / "homes" / uuid.uuid4().hex[:12]  # short: sockets lie below it
        self.marker = str(self.home)
        self.host = host
        (self.home / "run").mkdir(parents=True, mode=0o700)
        (self.home / "node_modules").symlink_to(STAGE / "node_modules")
        # Where Playwright looks for its browsers below HOME; a sandbox sees only what its file names.
        browsers = self.home / "browsers" if mode.sandboxed else self.home / ".cache" / "ms-playwright"
        config = mode.config() if config is None else config
        subprocess.run(
            [STAGE / "browsers.sh", browsers, STAGE / "node_modules"],
            env={**os.environ, "CHROMIUM_FLAGS": f"--vmodule={self.marker}=0"},
            check=True,
            stdout=subprocess.DEVNULL,
        )
        (self.home / "herd.yaml").write_text(config)
        self.log = self.home / "herd.log"
        self.control = self.home / "run" / "control.sock"
        options = [
            "--data-bind", f"{host}:0",
            "--control-socket", self.control,
            "--state-dir", self.home / "run" / "state",
        ]
        self.command = [*prefix, HERD, "start", "--config", self.home / "herd.yaml", *([] if as_documented else options)]
        self._start()

    def _start(self):
        with self.log.open("ab") as log:
            self.child = subprocess.Popen(
                self.command,
                cwd=self.home,
                env={
                    # Where there is no newuidmap, subordinate ids are of no use.
                    "PATH": str(self.home) if self.mode is Mode.ONE_ID else os.environ["PATH"],
                    "HOME": str(self.home),
                    "LANG": "C.UTF-8",
                    "XDG_RUNTIME_DIR": str(self.home / "run"),
                    "STATE_DIRECTORY": str(self.home / "run" / "kept"),
                },
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self.process = processes.process(self.child.pid)
        self.port = eventually(self._listening, lambda: f"herd listens nowhere. Its log:\n{self.tail()}")
        self.url = f"ws://{self.host if self.host != '127.0.0.1' else 'localhost'}:{self.port}/"

    def restart(self, between):
        """Kills herd; `between`; starts it again at the same socket, with another port."""
        self.kill()
        between()
        self._start()

    def _listening(self):
        """The port of herd's listening TCP socket, from /proc: port 0 was asked for, so nothing else knows it."""
        assert self.child.poll() is None, f"herd start ended with {self.child.returncode}:\n{self.tail()}"
        inodes = set()
        with contextlib.suppress(OSError):
            for entry in os.scandir(f"/proc/{self.child.pid}/fd"):
                with contextlib.suppress(OSError):
                    inodes.add(os.readlink(entry.path))
        for line in Path(f"/proc/{self.child.pid}/net/tcp").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in inodes:
                return int(fields[1].rpartition(":")[2], 16)
        return None

    def connections(self):
        """How many established client connections herd's port has."""
        lines = Path(f"/proc/{self.child.pid}/net/tcp").read_text().splitlines()[1:]
        rows = (line.split() for line in lines)
        return sum(row[3] == "01" and row[1].endswith(f":{self.port:04X}") for row in rows)

    def browsers(self):
        return processes.browsers(self.marker)

    def workers(self):
        return processes.workers(self.marker, HERD)

    def warm_workers(self):
        """Workers that no client has made start a browser yet."""
        busy = {p for p in self.workers() if processes.descendants(p, self.marker) & self.browsers()}
        return self.workers() - busy

    def everything(self):
        """All that runs because of this herd: herd itself, its launcher and keepers, workers and browsers."""
        return set(processes.marked(self.marker).values())

    def request(self, method, path, headers):
        connection = http.client.HTTPConnection(self.host, self.port, timeout=CAP)
        try:
            connection.request(method, path, headers=headers)
            response = connection.getresponse()
            return response.status, dict(response.getheaders()), response.read().decode(errors="replace")
        finally:
            connection.close()

    def cli(self, *arguments):
        done = subprocess.run(
            [HERD, *arguments, "--control-socket", self.control],
            capture_output=True, text=True, timeout=CAP,
        )
        assert done.returncode == 0, f"herd {' '.join(arguments)} ended with {done.returncode}: {done.stderr}"
        return done.stdout

    def tail(self, lines=60):
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def kill(self):
        self.child.kill()
        self.child.wait(CAP)

    def terminate(self, then):
        """SIGTERM; `then` once herd refuses new sessions; SIGTERM again."""
        self.child.send_signal(signal.SIGTERM)

        def refuses():
            status, headers, _ = self.request("GET", "/", {"X-Session-ID": f"probe-{uuid.uuid4().hex}"})
            return (status, headers.get("x-herd-error")) == (503, "draining")

        eventually(refuses, lambda: f"herd admits sessions after SIGTERM. Its log:\n{self.tail()}")
        then()
        self.child.send_signal(signal.SIGTERM)
        return self.child.wait(CAP)

    def end(self):
        """Ends herd if the test has not, and fails if anything of it is left."""

        def asked_to_end():
            self.child.send_signal(signal.SIGTERM)
            return self.child.poll() is not None

        try:
            eventually(asked_to_end, lambda: f"herd does not end. Its log:\n{self.tail()}")
        finally:
            self.kill()
        try:
            processes.wait_none(self.everything, "herd has ended")
        finally:
            for survivor in self.everything():
                survivor.kill()
            shutil.rmtree(self.home, ignore_errors=True)


class Client:
    """A Playwright client in a process of its own, so that it can be killed like one."""

    LANGUAGES = {
        "python": [sys.executable, STAGE / "clients" / "client.py"],
        "node": ["node", STAGE / "clients" / "client.mjs"],
    }

    def __init__(self, herd, session_id, language="python", prefix=(), launch=None, expose_network="*"):
        options = {}
        if herd.mode.sandboxed and expose_network:
            # There is no network in the sandbox: the browser goes out through its client.
            options["exposeNetwork"] = expose_network
        if launch:
            options["launch"] = launch
        self.name = f"{language} client of {session_id}"
        self.herd = herd
        self.errors = (herd.home / f"client-{uuid.uuid4().hex}.log").open("w+b")
        self.child = subprocess.Popen(
            [*prefix, *self.LANGUAGES[language], herd.url, session_id, json.dumps(options)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
            bufsize=1,
            cwd=STAGE,
        )
        self.answers = queue.Queue()
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self):
        for line in self.child.stdout:
            self.answers.put(json.loads(line))
        self.answers.put(None)

    def answer(self):
        try:
            answer = self.answers.get(timeout=2 * CAP)
        except queue.Empty:
            raise AssertionError(f"{self.name} is silent. herd's log:\n{self.herd.tail()}") from None
        if answer is None:
            self.errors.seek(0)
            raise AssertionError(f"{self.name} ended: {self.errors.read().decode(errors='replace')[-2000:]}")
        return answer

    def connected(self):
        """Waits until the browser is there."""
        answer = self.answer()
        assert "connected" in answer, f"{self.name}: {answer.get('error')}\nherd's log:\n{self.herd.tail()}"
        return self

    def silent(self):
        return self.answers.empty()

    def ask(self, **command):
        self.child.stdin.write(json.dumps(command) + "\n")
        self.child.stdin.flush()
        answer = self.answer()
        assert "result" in answer, f"{self.name}, {command}: {answer.get('error')}"
        return answer["result"]

    def goto(self, url):
        return self.ask(goto=url)

    def evaluate(self, script):
        return self.ask(evaluate=script)

    def close(self):
        self.ask(close=True)

    def kill(self):
        self.child.kill()
        self.child.wait(CAP)

    def end(self):
        self.kill()
        self.reader.join(CAP)
        self.child.stdin.close()
        self.child.stdout.close()
        self.errors.close()


class Page:
    """A web site of one page, served by a process of its own so that it can live in another network namespace."""

    def __init__(self, prefix=(), host="127.0.0.1"):
        self.child = subprocess.Popen(
            [*prefix, sys.executable, STAGE / "page.py", host], stdout=subprocess.PIPE, text=True
        )
        port = self.child.stdout.readline().strip()
        assert port, "the page's server did not start"
        self.url = f"http://{host}:{port}/"

    def end(self):
        self.child.kill()
        self.child.wait(CAP)
        self.child.stdout.close()


def herd_bundle(*arguments):
    done = subprocess.run([HERD, "bundle", *arguments], capture_output=True, text=True)
    assert done.returncode == 0, f"herd bundle {' '.join(map(str, arguments))}: {done.stderr}"
    return done.stdout
