"""What runs on this machine on behalf of one test.

Every herd under test gets a HOME of its own, and the path of it is the marker: it stands in the environment of herd, of
its launcher and keepers and of every bare worker, and in the command line of herd and every Chromium process (most of which
overwrite their environment). So "nothing is left" is asked of all of /proc, whoever the parents are by now. What else runs
in a sandbox carries no marker, because nothing of the host's is seen in there, and is found by its parents.
"""

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

CAP = 30.0
"""Seconds after which waiting for an event is a failure. Far more than anything here takes."""


@dataclass(frozen=True)
class Process:
    pid: int
    started: int
    """Clock ticks after boot; with the pid it names one process for ever."""

    def __str__(self):
        try:
            status = dict(line.split(":\t", 1) for line in _read(self.pid, "status").decode().splitlines() if ":\t" in line)
            command = _read(self.pid, "cmdline").replace(b"\0", b" ").decode(errors="replace")[:110]
            return f"{self.pid} (parent {status['PPid']}, uid {status['Uid'].split()[0]}, {status['State']}): {command}"
        except OSError:
            return f"{self.pid} (gone by now)"

    @property
    def alive(self):
        stat = _stat(self.pid)
        return stat is not None and stat.started == self.started

    @property
    def parent(self):
        stat = _stat(self.pid)
        return stat.parent if stat and stat.started == self.started else None

    @property
    def program(self):
        """The base name of argv[0]; readable for every user's processes, unlike /proc/PID/exe. Chromium's helpers write
        their whole command line into it."""
        try:
            first = _read(self.pid, "cmdline").split(b"\0", 1)[0].split(b" --", 1)[0]
            return os.path.basename(first.decode(errors="replace"))
        except OSError:
            return ""

    @property
    def name(self):
        try:
            return _read(self.pid, "comm").decode(errors="replace").strip()
        except OSError:
            return ""

    @property
    def command(self):
        try:
            return [part.decode(errors="replace") for part in _read(self.pid, "cmdline").split(b"\0")]
        except OSError:
            return []

    def kill(self):
        """SIGKILL, and never to a successor of the same number."""
        try:
            descriptor = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return
        try:
            if self.alive:
                signal.pidfd_send_signal(descriptor, signal.SIGKILL)
        except ProcessLookupError:
            pass
        finally:
            os.close(descriptor)


@dataclass(frozen=True)
class _Stat:
    parent: int
    started: int
    state: str


def _read(pid, name):
    return Path(f"/proc/{pid}/{name}").read_bytes()


def _stat(pid):
    try:
        fields = _read(pid, "stat").rpartition(b")")[2].split()
    except OSError:
        return None
    return _Stat(parent=int(fields[1]), started=int(fields[19]), state=fields[0].decode())


def process(pid):
    stat = _stat(pid)
    return Process(pid, stat.started) if stat else None


def marked(marker):
    """Every process that carries the marker or descends from one that does, by pid. Zombies are not among them."""
    found, others = {}, {}
    wanted = marker.encode()
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        pid = int(entry)
        stat = _stat(pid)
        if stat is None or stat.state == "Z":
            continue
        others[pid] = stat
        for name in ("cmdline", "environ"):
            try:
                if wanted in _read(pid, name):
                    found[pid] = Process(pid, stat.started)
                    break
            except OSError:
                continue
    grown = bool(found)
    while grown:
        new = {pid: Process(pid, stat.started) for pid, stat in others.items() if stat.parent in found and pid not in found}
        found.update(new)
        grown = bool(new)
    return found


def browsers(marker):
    """The marked processes that are Chromium's, its crash handlers included."""
    return {p for p in marked(marker).values() if p.program.startswith("chrom")}


def workers(marker, herd):
    """The keeper of each worker: the one of herd's own processes that has children which are not.

    A worker's daemons and orphans are its children too (Chromium makes some), so its descendants are the whole worker."""
    processes = marked(marker)
    own = {pid for pid, p in processes.items() if is_herd(p, herd)}
    return {processes[p.parent] for pid, p in processes.items() if pid not in own and p.parent in own}


def is_herd(p, herd):
    """herd's launcher and keepers are forks of herd and keep its command line, or carry its name."""
    command = p.command
    return bool(command) and (command[0] == str(herd) or os.path.basename(command[0]).startswith("herd"))


def descendants(root, marker):
    """The processes below `root`, itself included."""
    processes = marked(marker)
    tree = {root.pid}
    grown = True
    while grown:
        grown = False
        for pid, p in processes.items():
            if pid not in tree and p.parent in tree:
                tree.add(pid)
                grown = True
    return {processes[pid] for pid in tree if pid in processes} | {root}


def eventually(question, what, cap=CAP):
    """Polls `question` until it answers something true, and returns that; `what` may be a callable that describes the last look."""
    deadline = time.monotonic() + cap
    while True:
        answer = question()
        if answer:
            return answer
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {cap:.0f} s: {what() if callable(what) else what}")
        time.sleep(0.02)


def listed(processes):
    return "\n".join(f"  {p}" for p in sorted(processes, key=lambda p: p.pid)) or "  (none)"


def wait_gone(processes, why, cap=CAP):
    """Waits until none of exactly these processes is left."""
    assert processes, f"{why}: there was no process to wait for; the test has lost its subject"
    eventually(
        lambda: not any(p.alive for p in processes),
        lambda: f"{why}: these are left\n{listed({p for p in processes if p.alive})}",
        cap,
    )


def wait_none(find, why, cap=CAP):
    """Waits until `find` finds no process."""
    eventually(lambda: not find(), lambda: f"{why}: these are left\n{listed(find())}", cap)
