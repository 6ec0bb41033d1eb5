"""However a client goes, its browser goes with it. However herd goes, everything does."""

import glob
import os
import subprocess
import uuid

import pytest
from harness import Mode
from processes import descendants, eventually, wait_gone, wait_none


def session_tree(herd):
    """The processes of the one session there is: the worker that has a browser, and all below it."""
    trees = [descendants(worker, herd.marker) for worker in herd.workers()]
    (tree,) = [tree for tree in trees if tree & herd.browsers()]
    assert len(tree) > 4, f"a browser is several processes: {tree}"
    return tree


def assert_no_browser_process_is_left(herd, tree, why):
    wait_gone(tree, why)
    wait_none(herd.browsers, why)


def test_closing_the_browser_leaves_no_browser_process(cast, language):
    herd, page = cast.herd(), cast.page()
    client = cast.client(herd, "user-42", language).connected()
    client.goto(page.url)
    tree = session_tree(herd)
    client.close()
    assert_no_browser_process_is_left(herd, tree, "the client closed its browser")


@pytest.mark.one_id_too
def test_killing_the_client_leaves_no_browser_process(cast, language):
    herd, page = cast.herd(), cast.page()
    client = cast.client(herd, "user-42", language).connected()
    client.goto(page.url)
    tree = session_tree(herd)
    client.kill()
    assert_no_browser_process_is_left(herd, tree, "the client was killed")


def test_killing_one_client_leaves_the_others_alone(cast):
    herd = cast.herd()
    victim = cast.client(herd, "victim").connected()
    tree = session_tree(herd)
    bystander = cast.client(herd, "bystander", "node").connected()
    victim.kill()
    wait_gone(tree, "the client was killed")
    assert bystander.evaluate("1 + 1") == 2


def test_herd_stop_leaves_no_browser_process(cast):
    herd = cast.herd()
    cast.client(herd, "user-42").connected()
    tree = session_tree(herd)
    assert "user-42" in herd.cli("ps")
    herd.cli("stop", "user-42")
    assert_no_browser_process_is_left(herd, tree, "herd stop user-42")


@pytest.mark.one_id_too
def test_killing_herd_with_five_live_browsers_leaves_nothing(cast):
    herd, page = cast.herd(), cast.page()
    clients = [cast.client(herd, f"user-{n}", ["python", "node"][n % 2]) for n in range(5)]
    for client in clients:
        client.connected().goto(page.url)
    everything = herd.everything()
    busy = [w for w in herd.workers() if descendants(w, herd.marker) & herd.browsers()]
    assert len(busy) == 5, f"five sessions, but {len(busy)} workers with a browser"
    herd.kill()
    wait_gone(everything, "herd was killed with SIGKILL")
    wait_none(herd.everything, "herd was killed with SIGKILL")


def test_a_second_sigterm_ends_herd_at_once_and_leaves_nothing(cast):
    herd = cast.herd()
    client = cast.client(herd, "user-42").connected()
    everything = herd.everything()
    herd.terminate(then=lambda: client.evaluate("'a session that is there is served while herd drains'"))
    wait_gone(everything, "herd got SIGTERM twice")
    wait_none(herd.everything, "herd got SIGTERM twice")


@pytest.mark.bare_only
def test_a_killed_browser_leaves_no_files_where_the_worker_has_a_directory_of_its_own(cast):
    herd = cast.herd(config=f'{Mode.BARE.config()}    env: {{TMPDIR: "{{{{.Dir}}}}"}}\n')
    client = cast.client(herd, "user-42").connected()
    tree = session_tree(herd)
    state = str(herd.home / "run" / "state")
    profiles = lambda: glob.glob(f"{state}/*/playwright_chromiumdev_profile-*")  # pathlib's stumbles over vanishing ones
    assert profiles(), "the browser's profile is not below the worker's directory"
    client.kill()
    wait_gone(tree, "the client was killed")
    eventually(lambda: not profiles(), lambda: f"the profile outlives its browser: {profiles()}")


class Cable:
    """Two network namespaces, one for herd and one for the client, and a cable between them that can be pulled.

    The addresses are from TEST-NET-1 (RFC 5737) and exist only in there."""

    def __init__(self):
        name = f"herd-{uuid.uuid4().hex[:6]}"
        self.server, self.client = f"{name}-s", f"{name}-c"
        for space in (self.server, self.client):
            self._ip("netns", "add", space)
            self._ip("-n", space, "link", "set", "lo", "up")
        self._ip("-n", self.server, "link", "add", "cable", "type", "veth", "peer", "name", "cable", "netns", self.client)
        for space, address in ((self.server, "192.0.2.1/30"), (self.client, "192.0.2.2/30")):
            self._ip("-n", space, "address", "add", address, "dev", "cable")
            self._ip("-n", space, "link", "set", "cable", "up")

    @staticmethod
    def _ip(*arguments):
        subprocess.run(["ip", *arguments], check=True)

    def inside(self, space):
        # nsenter only enters; `ip netns exec` would also remount /sys, which a real host does not see.
        return ("nsenter", f"--net=/run/netns/{space}")

    def pull(self):
        """From now on neither side hears from the other, not even that it is gone."""
        self._ip("-n", self.client, "link", "set", "cable", "down")

    def end(self):
        for space in (self.server, self.client):
            self._ip("netns", "delete", space)


@pytest.fixture
def cable():
    if os.geteuid() != 0:
        pytest.skip("only root can connect two network namespaces")
    cable = Cable()
    yield cable
    cable.end()


@pytest.mark.needs_root
def test_pulling_the_clients_connection_leaves_no_browser_process(cable, cast, mode, language):
    in_server, in_client = cable.inside(cable.server), cable.inside(cable.client)
    # Playwright's server serves no Host but its own, and this client is not on the same machine.
    config = f"network:\n  dead_peer_timeout: 2s\n{mode.config()}    host_header: worker\n"
    herd = cast.herd(config=config, prefix=in_server, host="192.0.2.1")
    # A browser without a network goes out through its client.
    page = cast.page(prefix=in_client if mode.sandboxed else in_server)
    client = cast.client(herd, "user-42", language, prefix=in_client).connected()
    client.goto(page.url)
    tree = session_tree(herd)
    cable.pull()
    assert_no_browser_process_is_left(herd, tree, "the client's cable was pulled")
    assert client.child.poll() is None, "the client must still be there, or its end would have told herd"
