"""What one herd has of the machine: looked at once a second, and compared at quiet points."""

import os
import re
import statistics
import threading
import time
from pathlib import Path

import processes

EXACT = ("fds", "threads", "cgroups", "processes", "state_files")
"""Must not be more at any quiet point than at the quietest of the warm-up: a single one too many is a leak. Fewer is none:
the runtime's threads for blocking calls come and go."""

RATIO, SLACK_KB = 1.10, 4096
"""Memory may differ by so much between the first and the last third. An allocator does not give back every page, and
herd remembers the last 1000 endings and 64 logs on purpose: a few hundred bytes each. A leak of one kilobyte a session
exceeds this within the hour."""

FILLING, FILLING_KB = 30, 8192
"""In a run of fewer minutes the first fifth ends before those are full: it may differ by so much."""


def cgroups(name):
    """Control groups of the herd whose own group has this name, itself included, in every hierarchy. The name is its
    state directory's; other herds of this machine have others."""
    found = 0
    for root, _, _ in os.walk("/sys/fs/cgroup"):
        found += bool(name) and name in root.split("/")
    return found


def own_group(everything):
    """The name of herd's own group, from where its sandboxes are; `None` before there is one."""
    for process in everything:
        try:
            text = Path(f"/proc/{process.pid}/cgroup").read_text()
        except OSError:
            continue  # It ended while it was looked at.
        if name := re.search(r"/(herd-[0-9a-f]{12})(/|$)", text, re.MULTILINE):
            return name[1]
    return None


OWN = ("herd-launcher", "herd-keeper", "herd-init")


def _kilobytes(pid, *names):
    wanted = dict.fromkeys(names, 0)
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
            name, value = line.split()[:2]
            if name[:-1] in wanted:
                wanted[name[:-1]] = int(value)
    except OSError:
        pass  # It ended while it was looked at.
    return list(wanted.values())


def look(herd):
    pid = herd.child.pid
    # Its own processes, which have names of their own; workers and browsers do not count as memory.
    everything = herd.everything()
    herd.group = own_group(everything) or getattr(herd, "group", None)
    own = [p for p in everything if p.name in OWN]
    rss, pss = _kilobytes(pid, "Rss", "Pss")
    private = sum(sum(_kilobytes(p.pid, "Private_Clean", "Private_Dirty")) for p in own)
    return {
        "at": time.monotonic(),
        "rss_kb": rss,
        "pss_kb": pss,
        "keepers": len(own),
        "keepers_private_kb": private,
        "fds": len(os.listdir(f"/proc/{pid}/fd")),
        "threads": len(os.listdir(f"/proc/{pid}/task")),
        "cgroups": cgroups(herd.group),
        "processes": len(everything),
        "state_files": sum(len(files) for _, _, files in os.walk(herd.home / "run")),
    }


class Recorder(threading.Thread):
    """Looks once a second until it is told to stop."""

    def __init__(self, herd):
        super().__init__(daemon=True)
        self.herd, self.samples, self.stopped = herd, [], threading.Event()

    def run(self):
        while not self.stopped.wait(1):
            try:
                self.samples.append(look(self.herd))
            except OSError:
                return  # herd has ended; whoever ran it finds out.

    def stop(self):
        self.stopped.set()
        self.join()


def flatness(rows, minutes, counts):
    """Per number: median of the first and the last third, and whether that is flat for a run of so many minutes. Of counts
    it can only be said at quiet points, where they are compared exactly, too: under load it is what happens to be open."""
    slack_kb = FILLING_KB if minutes < FILLING else SLACK_KB
    third = max(1, len(rows) // 3)
    verdicts = {}
    # PSS is recorded, but says as much of how many keepers share herd's pages as of herd.
    for name in ("rss_kb", "fds", "threads", "cgroups"):
        first = statistics.median(row[name] for row in rows[:third])
        last = statistics.median(row[name] for row in rows[-third:])
        memory = name.endswith("_kb")
        # Threads for blocking calls come and go below the exact limit.
        flat = last <= max(first * RATIO, first + (slack_kb if memory else 16))
        verdicts[name] = {"first": first, "last": last, "flat": flat or not (memory or counts)}
    return verdicts
