"""check.py plain|limits|refused [COMMAND...]: what runs in the guest of tests/vm/sandboxes. Needs nothing but Python.

The guest's processor is emulated: waits are long and end early, and no time is judged.
"""
import http.client
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time

HERD = str(pathlib.Path(__file__).with_name("herd"))
BUNDLE = str(pathlib.Path(__file__).with_name("bundle"))
LIMIT = 120
# What herd is started by, as its own messages recommend.
PREFIX = sys.argv[2:]

# Takes 256 MiB at most, whatever becomes of the limit.
GREEDY = """
import http.server, os
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/eat":
            kept = [bytearray(b"x" * 1048576) for _ in range(256)]
        body = str(os.getuid()).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
http.server.HTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
"""


def configuration(directory, memory):
    limit = f", memory: {memory}" if memory else ""
    greedy = json.dumps(["python3", "-c", GREEDY])
    text = f"""
network: {{data_bind: "127.0.0.1:0"}}
state_dir: {directory}/state
control: {{socket: {directory}/state/control.sock}}
defaults: {{start_timeout: {LIMIT}s}}
workers:
  bare: {{cmd: {greedy}, sandbox: off}}
  greedy: {{cmd: {greedy}, sandbox: {{rootfs: host{limit}}}}}
  bundle: {{cmd: ["busybox", "httpd", "-f", "-p", "{{{{.Port}}}}", "-h", "/bin"], sandbox: {{bundle: {BUNDLE}}}}}
"""
    (directory / "herd.yaml").write_text(text)


def start(directory):
    log = open(directory / "log", "wb")
    herd = subprocess.Popen([*PREFIX, HERD, "start", "--log-format", "json"], cwd=directory, stderr=log)
    until = time.monotonic() + LIMIT
    while time.monotonic() < until:
        for line in (directory / "log").read_text().splitlines():
            if '"herd is ready"' in line:
                return herd, json.loads(line)["data"].removeprefix("http://")
        if herd.poll() is not None:
            break
        time.sleep(0.1)
    sys.exit(f"herd did not start:\n{(directory / 'log').read_text()}")


def get(address, session, kind, path="/"):
    host, port = address.split(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=LIMIT)
    connection.request("GET", path, headers={"X-Session-ID": session, "X-Herd-Worker": kind})
    try:
        answer = connection.getresponse()
        return answer.status, answer.read().decode(errors="replace")
    finally:
        connection.close()


def sessions(directory):
    socket_path = f"{directory}/state/control.sock"
    command = [HERD, "ps", "--all", "-o", "json", "--control-socket", socket_path]
    return json.loads(subprocess.run(command, check=True, capture_output=True).stdout)


def expect(what, condition, shown):
    if not condition:
        sys.exit(f"{what}: {shown}")
    print(f"ok: {what}")


def keepers():
    listed = subprocess.run(["pgrep", "-c", "herd-keeper|herd-init"], capture_output=True, text=True)
    return int(listed.stdout or 0)


def serves(directory, memory):
    configuration(directory, memory)
    herd, address = start(directory)
    status, body = get(address, "a", "greedy")
    expect("a worker with the host's programs serves, as nobody special", (status, body) == (200, "1000"), (status, body))
    status, body = get(address, "b", "bundle", "/nothing")
    expect("a worker in a bundle serves", status == 404, (status, body))
    status, body = get(address, "d", "bare")
    expect("a worker without a sandbox serves, as herd's user", (status, body) == (200, str(os.getuid())), (status, body))
    if memory:
        try:
            status, body = get(address, "a", "greedy", "/eat")
        except (http.client.HTTPException, OSError) as broken:
            status, body = 0, repr(broken)
        expect("a worker that takes too much is not answered for", status != 200, (status, body))
        until = time.monotonic() + LIMIT
        details = []
        while time.monotonic() < until:
            details = [s["detail"] or "" for s in sessions(directory) if s["id"] == "a"]
            if any("sandbox.memory" in detail for detail in details):
                break
            time.sleep(0.2)
        expect("its ending names the limit", any("sandbox.memory" in d for d in details), details)
        status, body = get(address, "b", "bundle", "/nothing")
        expect("its neighbour goes on", status == 404, (status, body))
    herd.send_signal(signal.SIGKILL)
    herd.wait()
    until = time.monotonic() + LIMIT
    while keepers() and time.monotonic() < until:
        time.sleep(0.1)
    expect("nothing survives kill -9 of herd", keepers() == 0, keepers())
    herd, address = start(directory)
    status, body = get(address, "c", "greedy")
    expect("the next herd sweeps and serves", (status, body) == (200, "1000"), (status, body))
    herd.send_signal(signal.SIGTERM)
    while "draining" not in (directory / "log").read_text():
        time.sleep(0.1)
    herd.send_signal(signal.SIGTERM)
    expect("herd ends well", herd.wait(LIMIT) == 0, (directory / "log").read_text())


def refused(directory):
    configuration(directory, "64M")
    result = subprocess.run([HERD, "start"], cwd=directory, capture_output=True, text=True, timeout=LIMIT)
    told = "workers.greedy.sandbox.memory" in result.stderr and "memory cannot be limited" in result.stderr
    expect("herd refuses to start and says where and why", result.returncode == 1 and told, result)


with tempfile.TemporaryDirectory() as made:
    place = pathlib.Path(made)
    place.chmod(0o700)
    match sys.argv[1]:
        case "plain":
            serves(place, None)
        case "limits":
            serves(place, "64M")
        case "refused":
            refused(place)
