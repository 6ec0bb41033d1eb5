"""The shipped recipes, built from this machine's files alone: what they make has to run, and needs nothing else."""

import json
import os
import re
import shutil
import socket
import subprocess
import uuid
from pathlib import Path

import pytest
from harness import STAGE, herd_bundle
from processes import CAP, eventually

SCRIPT = "document.body.append(6 * 7)"


def sandbox(bundle, *command, network=False, binds=()):
    """The command line that runs `command` with the bundle as its whole file system."""
    config = json.loads((bundle / "config.json").read_text())
    assert shutil.which("bwrap"), "bubblewrap is not installed: .ci/setup installs it"
    share = ["--share-net"] if network else []
    mounts = [part for source, target in binds for part in ("--ro-bind", source, target)]
    variables = [part for entry in config["process"]["env"] for part in ("--setenv", *entry.split("=", 1))]
    return [
        "bwrap", "--ro-bind", bundle / "rootfs", "/", "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp",
        "--unshare-all", *share, "--die-with-parent", "--clearenv", *variables, *mounts, "--", *command,
    ]  # fmt: skip


def run(bundle, *command):
    done = subprocess.run(
        sandbox(bundle, *command), capture_output=True, text=True, timeout=CAP, stdin=subprocess.DEVNULL, cwd="/"
    )
    assert done.returncode == 0, f"{command}: {done.returncode}: {done.stdout}{done.stderr}"
    return done.stdout.strip()


SERVES_ITSELF = """
import asyncio, bz2, ctypes, http.server, locale, lzma, pwd, readline, sqlite3, ssl, threading, urllib.request, zoneinfo
assert locale.setlocale(locale.LC_ALL, "") == "C.UTF-8"
assert pwd.getpwnam("worker").pw_uid == 1000
assert sqlite3.connect(":memory:").execute("select 6 * 7").fetchone() == (42,)
ssl.create_default_context()
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler)
threading.Thread(target=server.serve_forever, daemon=True).start()
page = urllib.request.urlopen(f"http://localhost:{server.server_port}/etc/").read().decode()
assert http.server.__cached__ and __import__("os").path.exists(http.server.__cached__), "compiled modules come along"
print("hosts" in page, "shadow" in page)
"""


def test_python_serves_http_with_nothing_but_its_bundle(bundles):
    assert run(bundles["python"], "python3", "-c", SERVES_ITSELF) == "True False"


def test_node_runs_with_nothing_but_its_bundle(bundles):
    program = """
        const [{createHash}, {Worker}] = [require("crypto"), require("worker_threads")];
        new Worker("require('worker_threads').parentPort.postMessage(6 * 7)", {eval: true}).on("message", answer =>
          console.log(answer, createHash("sha256").update("").digest("hex").slice(0, 8), new Intl.NumberFormat("de").format(1234.5)));
    """
    assert run(bundles["node"], "node", "-e", program) == "42 e3b0c442 1.234,5"


def test_busybox_is_a_shell_with_its_programs(bundles):
    script = "printf 'b\\na\\n' | sort | tr a-z A-Z | xargs echo; which awk; id -un || true"
    output = run(bundles["busybox"], "sh", "-c", script).splitlines()
    assert output[0] == "A B"
    assert output[1].endswith("/awk")


def test_chromium_renders_a_page_with_nothing_but_its_bundle(bundles):
    page = f"data:text/html,<p>hi</p><script>{SCRIPT}</script>"
    # bwrap leaves no capability with which Chromium could build its own sandbox inside.
    dom = run(bundles["browser"], "chromium", "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom", page)
    assert re.search(r"</script>42</body>", dom), dom


def test_playwright_serves_the_browser_of_the_bundle(bundles, cast):
    from playwright.sync_api import sync_playwright

    browsers = STAGE / "homes" / uuid.uuid4().hex[:12]
    subprocess.run(
        [STAGE / "browsers.sh", browsers, STAGE / "node_modules"], check=True, stdout=subprocess.DEVNULL
    )
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    binds = [(STAGE / "node_modules", "/tmp/node_modules"), (browsers, "/tmp/browsers")]
    command = ["npx", "--offline", "playwright", "run-server", "--port", str(port), "--host", "127.0.0.1"]
    shell = ["sh", "-c", f"cd /tmp && PLAYWRIGHT_BROWSERS_PATH=/tmp/browsers exec {' '.join(command)}"]
    server = subprocess.Popen(
        sandbox(bundles["browser"], *shell, network=True, binds=binds),
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd="/",
    )  # fmt: skip

    def listens():
        assert server.poll() is None, server.stdout.read()
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    try:
        eventually(listens, lambda: "Playwright's server listens nowhere")
        with sync_playwright() as playwright:
            browser = playwright.chromium.connect(f"ws://127.0.0.1:{port}/")
            page = browser.new_page()
            page.set_content(f"<p>hi</p><script>{SCRIPT}</script>")
            assert page.inner_text("body").endswith("42")
            # Letters are drawn, not boxes: the bundle's own font is found.
            assert len(page.screenshot()) > 1000
            browser.close()
    finally:
        server.kill()
        server.wait(CAP)
        shutil.rmtree(browsers, ignore_errors=True)


def test_the_same_recipe_gives_the_same_bundle(bundles):
    first = bundles["python"]
    again = first.with_name("again")
    herd_bundle("build", STAGE / "recipes" / "python", "--output", again)
    digests = {json.loads(herd_bundle("inspect", bundle, "-o", "json"))["digest"] for bundle in (first, again)}
    assert len(digests) == 1, digests
    herd_bundle("verify", again)
    herd_bundle("rm", again)


def test_no_file_of_a_bundle_has_privileges(bundles):
    seen = 0
    for name in ("python", "node", "busybox", "browser"):
        for directory, _, files in os.walk(bundles[name] / "rootfs"):
            for file in files:
                mode = (Path(directory) / file).lstat().st_mode
                seen += 1
                assert not mode & 0o6000, f"{directory}/{file} has mode {mode:o}"
    assert seen > 1000


@pytest.mark.needs_root
@pytest.mark.parametrize("name", ["python", "busybox"])
def test_runc_runs_the_bundle(bundles, name):
    assert shutil.which("runc"), "runc is not installed: .ci/setup installs it"
    config = json.loads((bundles[name] / "config.json").read_text())
    config["process"]["args"] = {
        "python": ["python3", "-c", "import os; print(os.getuid())"],
        "busybox": ["/bin/sh", "-c", "id -u"],
    }[name]
    config["root"]["path"] = str(bundles[name] / "rootfs")
    other = STAGE / "homes" / uuid.uuid4().hex[:12]
    other.mkdir()
    (other / "config.json").write_text(json.dumps(config))
    done = subprocess.run(
        ["runc", "run", "--bundle", other, f"herd-e2e-{other.name}"],
        capture_output=True, text=True, timeout=CAP, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert (done.returncode, done.stdout.strip()) == (0, "1000"), done.stderr
