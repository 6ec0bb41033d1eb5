"""`herd top` on a terminal: a scripted session with a real herd."""

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time

import pyte
import pytest
from harness import HERD, STAGE
from processes import CAP

pytestmark = pytest.mark.bare_only

CONFIG = f"""
workers:
  talker:
    cmd: ["/usr/bin/python3", "-u", "{STAGE}/programs/talker.py", "{{{{.Port}}}}"]
    max: 8
"""


class Terminal:
    """A program on a terminal, and what stands on its screen."""

    def __init__(self, arguments, width=110, height=24, environment=()):
        self.outer, self.inner = pty.openpty()
        self.resize(width, height, tell=False)
        self.before = termios.tcgetattr(self.inner)
        self.raw = b""
        self.child = subprocess.Popen(
            arguments, stdin=self.inner, stdout=self.inner, stderr=self.inner, start_new_session=True,
            env={**os.environ, "TERM": "xterm-256color", **dict(environment)},
        )

    def resize(self, width, height, tell=True):
        fcntl.ioctl(self.inner, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))
        self.screen = pyte.Screen(width, height)
        self.stream = pyte.ByteStream(self.screen)
        if tell:
            self.child.send_signal(signal.SIGWINCH)

    def _read(self, seconds):
        ready, _, _ = select.select([self.outer], [], [], seconds)
        if ready:
            part = os.read(self.outer, 1 << 16)
            self.raw += part
            self.stream.feed(part)

    @property
    def text(self):
        return "\n".join(line.rstrip() for line in self.screen.display)

    def until(self, pattern):
        deadline = time.monotonic() + CAP
        while not re.search(pattern, self.text):
            assert time.monotonic() < deadline, f"no {pattern!r} on the screen:\n{self.text}"
            self._read(0.1)
        return self.text

    def until_gone(self, pattern):
        self.until(f"(?s)^(?!.*{pattern})")

    def send(self, keys):
        os.write(self.outer, keys.encode())

    def ended(self):
        """The exit code; what it wrote last has been read, and the terminal is as it was."""
        deadline = time.monotonic() + CAP
        while self.child.poll() is None:
            assert time.monotonic() < deadline, f"it does not end:\n{self.text}"
            self._read(0.1)
        self._read(0.1)
        assert termios.tcgetattr(self.inner) == self.before, "raw mode is left"
        return self.child.returncode

    def close(self):
        self.child.kill()
        self.child.wait(CAP)
        os.close(self.outer)
        os.close(self.inner)

    def gave_screen_back(self):
        return self.raw.rindex(b"\x1b[?1049l") > self.raw.rindex(b"\x1b[?1049h") and self.raw.rstrip().endswith(b"\x1b[?25h")


@pytest.fixture
def herd(cast):
    return cast.herd(config=CONFIG)


@pytest.fixture
def top(herd):
    made = []

    def start(*arguments, **how):
        made.append(Terminal([HERD, "top", "--interval", "1", "--control-socket", herd.control, *arguments], **how))
        return made[-1]

    yield start
    for one in made:
        one.close()


def use(herd, session):
    status, _, body = herd.request("GET", "/", {"X-Session-ID": session})
    assert status == 200, body


def test_a_session_of_looking_reading_and_stopping(herd, top):
    use(herd, "alice")
    use(herd, "bob")
    shown = top()
    shown.until(r"(?s)alice.*2 sessions")
    shown.until("live")
    use(herd, "carol")
    shown.until("carol")
    shown.send("/car\r")
    shown.until_gone("alice")
    shown.send("x")
    shown.until(r"Stop carol\?")
    shown.send("n")
    shown.until_gone(r"Stop carol\?")
    assert "carol" in herd.cli("ps")
    shown.send("xy")
    shown.until("stopped carol: ")
    assert "carol" not in herd.cli("ps")
    shown.send("\x1b")
    shown.until("alice")
    shown.send("a\r")
    shown.until("output of (alice|bob)")
    shown.send("q")
    assert shown.ended() == 0
    assert shown.gave_screen_back()


def test_it_says_that_herd_is_away_and_goes_on_when_it_is_back(herd, top):
    use(herd, "alice")
    shown = top()
    shown.until("alice")
    herd.restart(lambda: shown.until("UNREACHABLE for .*, reconnecting"))
    shown.until("live")
    shown.until("no sessions; the first request")
    shown.send("q")
    assert shown.ended() == 0


@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_gives_the_terminal_back(top, ending):
    shown = top()
    shown.until("live")
    shown.child.send_signal(ending)
    assert shown.ended() == 0
    assert shown.gave_screen_back()


def test_it_fits_a_terminal_that_changes_its_size(herd, top):
    use(herd, "alice")
    shown = top()
    shown.until("(?s)KIND.*alice")
    shown.resize(50, 10)
    shown.until("(?s)SESSION.*alice")
    assert "KIND" not in shown.text
    shown.send("\x03")
    assert shown.ended() == 0


def test_without_colours_there_are_none(herd, top):
    use(herd, "alice")
    shown = top(environment=[("NO_COLOR", "1")])
    shown.until("alice")
    assert not re.search(rb"\x1b\[[0-9;]*(3[0-7]|38;|9[0-7])[;m]", shown.raw)
    coloured = top()
    coloured.until("alice")
    assert re.search(rb"\x1b\[[0-9;]*3[28]", coloured.raw)


def test_without_a_terminal_it_says_what_to_use(herd):
    done = subprocess.run(
        [HERD, "top", "--control-socket", herd.control], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=CAP
    )
    assert done.returncode == 1
    assert done.stderr == (
        "herd: herd top needs a terminal; use `herd ps --usage --watch`, or `herd ps --usage -o json` for programs\n"
    )


def test_without_herd_it_says_so(top, herd):
    herd.child.terminate()
    herd.child.wait(CAP)
    shown = top()
    shown.until("herd is not running")
    assert shown.ended() == 1
