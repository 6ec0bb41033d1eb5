"""systemd.py root|user: what the units of examples/systemd promise, seen from inside the VM of tests/vm/systemd."""

import http.client
import json
import os
import subprocess
import sys
import threading
import time

CTL = ["systemctl"] if sys.argv[1] == "root" else ["systemctl", "--user"]


def ctl(*args):
    done = subprocess.run([*CTL, *args], capture_output=True, text=True)
    if done.returncode:
        log = subprocess.run(["journalctl", "-n", "40", "--no-pager"], capture_output=True, text=True).stdout
        sys.exit(f"systemctl {' '.join(args)}: {done.returncode}\n{done.stdout}{done.stderr}\n{log}")
    return done.stdout


def show(key):
    return ctl("show", "-P", key, "herd.service").strip()


def get(session, kind="runner", path="/healthz"):
    connection = http.client.HTTPConnection("127.0.0.1", 8080, timeout=60)
    try:
        connection.request("GET", path, headers={"X-Session-ID": session, "X-Herd-Worker": kind})
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def expect(what, condition, shown=""):
    if not condition:
        log = subprocess.run(["journalctl", "-n", "40", "--no-pager"], capture_output=True, text=True).stdout
        sys.exit(f"{what}: {shown}\n{log}")
    print(f"{what}: yes", flush=True)


def until(what, check, limit=60):
    end = time.monotonic() + limit
    while time.monotonic() < end:
        if check():
            return expect(what, True)
        time.sleep(0.2)
    expect(what, False, show("ActiveState"))


def processes():
    return subprocess.run(["pgrep", "-u", str(os.getuid()), "-f", "herd runner"], capture_output=True, text=True).stdout


def root():
    # Nobody has started the service: the first connection does.
    status, _ = get("first")
    expect("the socket starts herd", status == 200, status)
    expect("herd has said that it is ready", show("ActiveState") == "active" and "serving" in show("StatusText"), show("StatusText"))
    status, body = get("boxed", "boxed", "/")
    expect("a sandbox has the limits it asked for", status == 200, body)

    # A file that is wrong fails the reload and changes nothing; one that is right is in force, and sessions live on.
    with open("/etc/herd/herd.yaml") as file:
        yaml = file.read()
    for text, right in ((yaml.replace("max: 4", "maximum: 4"), False), (yaml.replace("max: 4", "max: 5"), True)):
        with open("/etc/herd/herd.yaml", "w") as file:
            file.write(text)
        done = subprocess.run([*CTL, "reload", "herd.service"], capture_output=True, text=True)
        expect(f"a reload of a file that is {'right' if right else 'wrong'} says so", (done.returncode == 0) == right, done.stderr)
        expect("herd is active after it", show("ActiveState") == "active", show("ActiveState"))
        expect("and its sessions live", get("first")[0] == 200)
    told = subprocess.run(["herd", "version", "-o", "json"], capture_output=True, text=True).stdout
    expect("the new file is in force", json.loads(told)["running"]["config_generation"] == 2, told)

    # Clients that come all the time, while herd is restarted a few times.
    refused, answered, stop = [], [0], threading.Event()

    def load(number):
        count = 0
        while not stop.is_set():
            count += 1
            try:
                status, body = get(f"load-{number}")
            except (ConnectionRefusedError, ConnectionResetError, http.client.HTTPException, TimeoutError) as error:
                refused.append(repr(error))
                continue
            # While it drains, herd answers that it does; that is no lost connection.
            if status == 200:
                answered[0] += 1
            elif status != 503:
                refused.append(f"{status} {body}")

    threads = [threading.Thread(target=load, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for _ in range(4):
        before = show("MainPID")
        ctl("restart", "herd.service")
        expect("another herd runs", show("MainPID") not in ("0", before))
    stop.set()
    for thread in threads:
        thread.join()
    expect("no connection was refused by the restarts", not refused and answered[0] > 0, f"{answered} {refused[:5]}")

    # Sent to herd's main process alone, as an out-of-memory killer does.
    get("doomed")
    before = show("MainPID")
    ctl("kill", "--kill-whom=main", "-s", "KILL", "herd.service")
    until("a killed herd is started anew", lambda: show("MainPID") not in ("0", before) and show("ActiveState") == "active")
    status, _ = get("after")
    expect("and serves", status == 200, status)

    listed = json.loads(subprocess.run(["herd", "ps", "-o", "json"], capture_output=True, text=True).stdout)
    expect("herd ps finds it", any(row["id"] == "after" for row in listed), listed)
    ctl("stop", "herd.socket", "herd.service")
    expect("a stop is clean", show("Result") == "success", show("Result"))
    expect("no worker is left", processes() == "", processes())


def user():
    ctl("daemon-reload")
    ctl("start", "herd.service")
    status, _ = get("a")
    expect("a user's herd serves", status == 200, status)
    status, body = get("b", "boxed", "/")
    expect("its sandboxes have limits, too", status == 200, body)
    ctl("stop", "herd.service")
    expect("a stop is clean", show("Result") == "success", show("Result"))
    expect("no worker is left", processes() == "", processes())


{"root": root, "user": user}[sys.argv[1]]()
