"""A long mixed load on one herd, in cycles with quiet points between them.

Browsers, code runners, plain requests, WebSockets, crashes, killed clients, full pools, large bodies and slow readers, on
bare and sandboxed kinds at once, beside streams that rest from beginning to end. The run fails if a request ends in no known way, if herd's counts and the clients' differ, if
anything is left at a quiet point or at the end, or if memory grows.
"""

import argparse
import concurrent.futures
import json
import random
import sys
import time

import census
import processes
from clients import Ledger, Visitor, control, sessions, stop
from harness import Herd, Mode
from resting import STREAMS, Resting

RUNNER = {"cmd": ["herd", "runner"], "health_path": "/healthz", "ttl": "1m", "queue": {"max": 8, "timeout": "3s"}}
KINDS = {
    # The first is what a request gets that names none, as Playwright's.
    "browser": {
        "cmd": ["npx", "playwright", "run-server", "--port", "{{.Port}}"],
        "max": 2, "health_path": "/", "ttl": "5m", "env": {"TMPDIR": "{{.Dir}}"},
    },
    "bare": {**RUNNER, "max": 6},
    "boxed": {**RUNNER, "max": 6, "sandbox": {"rootfs": "host", "pids": 128, "memory": "256M"}},
    "resting": {**RUNNER, "max": 2},
    "resting-boxed": {**RUNNER, "max": 2, "sandbox": "host"},
    "tiny": {**RUNNER, "max": 1, "queue": {"max": 1, "timeout": "1s"}},
}
EPISODES = ["requests"] * 6 + ["websockets"] * 4 + ["bodies"] * 2 + ["crashes"] * 2 + ["killed"] * 2 + ["capacity"] * 3 + ["slow"]
VISITORS, EPISODES_A_CYCLE = 6, 5


def cycle(herd, ledger, seed, number):
    """One round of every visitor; returns when all have left and herd is as it is without them."""
    created, crashed = ledger.created.copy(), set(ledger.crashed)
    with concurrent.futures.ThreadPoolExecutor(VISITORS + 1) as pool:
        for n in range(VISITORS):
            chance = random.Random(f"{seed}/{number}/{n}")
            visitor = Visitor(herd, ledger, chance, f"c{number}v{n}")
            pool.submit(lambda v=visitor: [v.run(v.random.choice(EPISODES)) for _ in range(EPISODES_A_CYCLE)])
        browser = Visitor(herd, ledger, random.Random(f"{seed}/{number}/browser"), f"c{number}b")
        pool.submit(browser.run, "browsers")
    for session in sessions(herd):
        if not session["id"].startswith("resting"):
            stop(herd, session["id"])
    agree(herd, ledger, number, created, crashed)


def agree(herd, ledger, number, created_before, crashed_before):
    """herd's account of the cycle against its clients'."""
    mine = [s for s in sessions(herd, "?all=true") if s["id"].startswith(f"c{number}v")]
    incarnations = {}
    for session in mine:
        incarnations[session["id"]] = incarnations.get(session["id"], 0) + 1
    for session, told in (ledger.created - created_before).items():
        if incarnations.get(session, 0) != told:
            ledger.failures.append(f"{session}: clients saw {told} created, herd has {incarnations.get(session, 0)}")
    for session in ledger.crashed - crashed_before:
        reasons = [s["reason"] for s in mine if s["id"] == session]
        if "crashed" not in reasons:
            ledger.failures.append(f"{session} was crashed by its client; herd says {reasons}")
    unexplained = [s["id"] for s in mine if s["state"] == "ended" and not s["reason"]]
    if unexplained:
        ledger.failures.append(f"ended without a reason: {unexplained}")


def quiet(herd, baseline):
    """The numbers once they stand still, and not above the baseline if there is one; or what they are at the deadline."""

    def exact(row):
        return {name: row[name] for name in census.EXACT}

    deadline, before = time.monotonic() + processes.CAP, None
    while True:
        pools = control(herd, "/v1/workers")["workers"]
        idle = not any(p["starting"] or p["dying"] or p["queued"] for p in pools) and herd.connections() == STREAMS
        idle = idle and sum(p["bound"] for p in pools) == STREAMS
        row = census.look(herd)
        above = baseline and any(row[name] > baseline[name] for name in baseline)
        if idle and not above and before == exact(row):
            return row, True
        if time.monotonic() > deadline:
            return row, False
        before = exact(row)
        time.sleep(0.2)  # Polling with a cap; nothing tells of its own absence.


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--minutes", type=float, default=60)
    arguments.add_argument("--seed", type=int, default=random.SystemRandom().getrandbits(32))
    arguments.add_argument("--json")
    arguments = arguments.parse_args()
    print(f"soak: {arguments.minutes:g} minutes, --seed {arguments.seed}", flush=True)
    herd = Herd(Mode.BARE, config=json.dumps({"workers": KINDS, "drain_timeout": "5s"}))
    recorder, ledger, rows, number = census.Recorder(herd), Ledger(), [], 0
    baseline, started, seconds = None, time.monotonic(), arguments.minutes * 60
    try:
        recorder.start()
        resting = Resting(herd, ledger, random.Random(f"{arguments.seed}/resting"))
        while time.monotonic() - started < seconds and len(ledger.failures) < 20:
            number += 1
            cycle(herd, ledger, arguments.seed, number)
            warming = time.monotonic() - started < seconds / 5 or number < 2
            row, still = quiet(herd, None if warming else baseline)
            if warming or baseline is None:
                baseline = {name: min(row[name], (baseline or row)[name]) for name in census.EXACT}
            else:
                rows.append(row)
            if not still:
                off = {name: (baseline[name], row[name]) for name in census.EXACT if row[name] > baseline[name]}
                ledger.failures.append(
                    f"after cycle {number} something stays (before, now): {off}\n{processes.listed(herd.everything())}"
                )
        resting.wake()
    finally:
        recorder.stop()
        try:
            herd.end()
        except AssertionError as error:
            ledger.failures.append(f"at the end: {error}")
        if not herd.group:
            ledger.failures.append("no sandbox was ever seen in a control group: they were not watched")
        # The groups that herd's own sandboxes were in; an emptied one of herd's own may stay for its next start.
        if (left := census.cgroups(herd.group)) > baseline["cgroups"] if baseline else 0:
            ledger.failures.append(f"at the end: {left} control groups are left")
        if mounts := [line for line in open("/proc/self/mounts") if herd.marker in line]:
            ledger.failures.append(f"at the end: mounts are left: {mounts}")
    report(arguments, ledger, recorder.samples, rows, baseline, number, started)


def report(arguments, ledger, samples, rows, baseline, cycles, started):
    after = started + arguments.minutes * 60 / 5
    loaded = [s for s in samples if s["at"] > after] or samples
    flat = lambda of, counts: census.flatness(of, arguments.minutes, counts) if of else {}
    verdicts = {"under load": flat(loaded, False), "at quiet points": flat(rows, True)}
    for when, numbers in verdicts.items():
        for name, verdict in numbers.items():
            if not verdict["flat"]:
                ledger.failures.append(f"{name} {when} grew from {verdict['first']} to {verdict['last']}")
    if len(rows) < 3:
        ledger.failures.append(f"only {len(rows)} quiet points: nothing can be said about a trend; give it more minutes")
    print(f"{cycles} cycles, {len(samples)} samples, {sum(ledger.outcomes.values())} outcomes, "
          f"{sum(ledger.created.values())} sessions created, {len(ledger.crashed)} crashed")
    for outcome, count in sorted(ledger.outcomes.items()):
        print(f"  {count:7}  {outcome}")
    print(f"{'':18}{'first third':>12}{'last third':>12}")
    for when, numbers in verdicts.items():
        print(when)
        for name, verdict in numbers.items():
            print(f"  {name:16}{verdict['first']:12g}{verdict['last']:12g}{'' if verdict['flat'] else '  GROWS'}")
    peak = max(s["keepers_private_kb"] / s["keepers"] for s in samples if s["keepers"])
    print(f"launcher and keepers: at most {peak:.0f} kB private memory each, on average over those alive")
    print(f"quiet point: {baseline}")
    for failure in ledger.failures:
        print(f"FAILED: {failure}")
    print(f"soak: {'FAILED' if ledger.failures else 'passed'}, --seed {arguments.seed}")
    if arguments.json:
        with open(arguments.json, "w") as file:
            json.dump({"seed": arguments.seed, "minutes": arguments.minutes, "cycles": cycles, "outcomes": ledger.outcomes,
                       "flatness": verdicts, "baseline": baseline, "failures": ledger.failures, "samples": samples,
                       "quiet": rows}, file, indent=1)
    sys.exit(1 if ledger.failures else 0)


if __name__ == "__main__":
    main()
