"""What is only so in a sandbox: who the worker is, what it reaches, and that Chromium's own sandbox works in there."""

import os
from pathlib import Path

import pytest
from harness import Mode
from processes import eventually, wait_gone

FIRST_OF_ROOT = 0x4000_0000
"""Root's sandboxes take their ids from here on (docs/sandbox.md)."""


def status(process):
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    return dict(line.split(":\t", 1) for line in lines if ":\t" in line)


def the(herd, kind):
    """Chromium's processes of a kind; the browser itself has none."""
    option = f"--type={kind}"
    found = {p for p in herd.browsers() if option in " ".join(p.command)}
    return found if kind else {p for p in herd.browsers() if "--type=" not in " ".join(p.command)}


def user_namespace(process):
    return os.readlink(f"/proc/{process.pid}/ns/user")


@pytest.mark.sandbox_only
@pytest.mark.one_id_too
def test_chromiums_own_sandbox_works_inside(cast, mode, language):
    # Playwright switches it off unless a client asks for it, which its server heeds only with this option.
    config = mode.config().replace('"run-server",', '"run-server", "--unsafe",')
    assert "--unsafe" in config
    herd = cast.herd(config=config)
    client = cast.client(herd, "user-42", language, launch={"chromiumSandbox": True}).connected()
    assert client.evaluate("1 + 1") == 2
    renderers = eventually(lambda: the(herd, "renderer"), "there is no renderer")
    command = [argument for p in herd.browsers() for argument in p.command]
    assert not [argument for argument in command if argument.startswith("--no-sandbox")], "it was switched off"
    # The worker's own process: what herd gives every sandboxed worker.
    outer = [p for p in herd.everything() if p.program in ("node", "npm") or "playwright" in " ".join(p.command)]
    outer = [p for p in outer if p not in herd.browsers() and status(p)["Seccomp"] == "2"]
    assert outer, "there is no worker"
    filters, depth = int(status(outer[0])["Seccomp_filters"]), len(status(outer[0])["NSpid"].split())
    for renderer in renderers:
        inner = status(renderer)
        assert inner["Seccomp"] == "2" and int(inner["Seccomp_filters"]) > filters, "no filter of Chromium's own"
        assert len(inner["NSpid"].split()) > depth, "no PID namespace of Chromium's own"
        assert user_namespace(renderer) != user_namespace(outer[0]), "no user namespace of Chromium's own"
        assert inner["CapEff"].strip("0") == "" and inner["NoNewPrivs"] == "1", inner
    said = client.ask(goto="chrome://sandbox", text=True)
    assert "You are adequately sandboxed" in said, said


@pytest.mark.sandbox_only
@pytest.mark.one_id_too
def test_every_process_of_a_browser_is_who_the_manual_says(cast, mode):
    herd = cast.herd()
    cast.client(herd, "user-42").connected()
    for process in herd.browsers():
        (uid,) = set(status(process)["Uid"].split())
        match mode:
            case Mode.ONE_ID:
                assert int(uid) == os.geteuid()
            case _ if os.geteuid() == 0:
                assert int(uid) >= FIRST_OF_ROOT
            case _:
                assert int(uid) not in (0, os.geteuid())
        assert status(process)["NoNewPrivs"] == "1" and status(process)["Seccomp"] == "2"
        assert status(process)["CapEff"].strip("0") == ""


@pytest.mark.sandbox_only
def test_a_browser_goes_where_its_client_lets_it(cast, language):
    herd, page = cast.herd(), cast.page()
    outsider = cast.client(herd, "outsider", language, expose_network=None).connected()
    with pytest.raises(AssertionError, match="ERR_"):
        outsider.goto(page.url)
    outsider.close()
    guest = cast.client(herd, "guest", language).connected()
    assert guest.goto(page.url) == "A page behind herd"


@pytest.mark.sandbox_only
@pytest.mark.one_id_too
def test_with_the_hosts_network_a_browser_needs_no_help(cast, mode, language):
    config = mode.config().replace("      profile: browser\n", "      profile: browser\n      network: host\n")
    assert "network: host" in config
    herd, page = cast.herd(config=config), cast.page()
    clients = [cast.client(herd, name, language, expose_network=None).connected() for name in ("one", "other")]
    for client in clients:
        assert client.goto(page.url) == "A page behind herd"


@pytest.mark.sandbox_only
def test_a_browser_leaves_no_file_on_the_host(cast):
    herd = cast.herd()
    before = set(os.listdir("/tmp"))
    client = cast.client(herd, "user-42").connected()
    assert client.evaluate("1 + 1") == 2
    client.kill()
    eventually(lambda: not herd.browsers(), "the browser outlives its client")
    new = {name for name in set(os.listdir("/tmp")) - before if "laywright" in name or "hromium" in name}
    # The client has a Playwright of its own, which may have left something; the browser's profile is not of it.
    assert not {name for name in new if "profile" in name or "hromium." in name}, new


@pytest.mark.sandbox_only
@pytest.mark.one_id_too
def test_the_browser_bundle_does_what_the_hosts_files_do(cast, mode, bundles):
    config = mode.config().replace("rootfs: host", f"bundle: {bundles['browser']}")
    herd, page = cast.herd(config=config), cast.page()
    client = cast.client(herd, "user-42").connected()
    assert client.goto(page.url) == "A page behind herd"
    client.evaluate("document.querySelector('button').click()")
    assert client.evaluate("document.title") == "clicked 1"
    browser = herd.browsers()
    client.kill()
    wait_gone(browser, "the client was killed")
