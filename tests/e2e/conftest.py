import contextlib
import itertools
import os
import shutil
import uuid

import pytest
from harness import STAGE, Client, Herd, Mode, Page, herd_bundle

alternating = itertools.cycle(["python", "node"])


def pytest_generate_tests(metafunc):
    """Every test runs bare and in a sandbox; those marked `one_id_too` in a sandbox with a single id as well. Bare and as
    root that is with both clients; elsewhere with one, in turn, because neither a sandbox nor a user changes what a client
    sends."""
    if "mode" not in metafunc.fixturenames:
        return
    modes = [Mode.SANDBOX] if metafunc.definition.get_closest_marker("sandbox_only") else [Mode.BARE, Mode.SANDBOX]
    # Root always has ids to give away.
    if metafunc.definition.get_closest_marker("one_id_too") and os.geteuid() != 0:
        modes.append(Mode.ONE_ID)
    if metafunc.definition.get_closest_marker("bare_only"):
        modes = [Mode.BARE]
    if "language" not in metafunc.fixturenames:
        metafunc.parametrize("mode", modes, ids=[mode.value for mode in modes])
        return
    cases = [
        (mode, language)
        for mode in modes
        for language in (["python", "node"] if mode is Mode.BARE and os.geteuid() == 0 else [next(alternating)])
    ]
    metafunc.parametrize(("mode", "language"), cases, ids=[f"{mode.value}-{language}" for mode, language in cases])


@pytest.fixture
def cast(mode):
    """Starts herds, clients and pages, and ends them in the opposite order. A herd's end fails if it leaves anything."""
    with contextlib.ExitStack() as stack:

        class Cast:
            def herd(self, **how):
                herd = Herd(mode, **how)
                stack.callback(herd.end)
                return herd

            def client(self, herd, session_id, language="python", **how):
                client = Client(herd, session_id, language, **how)
                stack.callback(client.end)
                return client

            def page(self, **how):
                page = Page(**how)
                stack.callback(page.end)
                return page

        yield Cast()


@pytest.fixture(scope="session")
def bundles():
    """Builds each recipe once, when it is first asked for."""
    place = STAGE / "homes" / uuid.uuid4().hex[:12]

    class Bundles(dict):
        def __missing__(self, name):
            herd_bundle("build", STAGE / "recipes" / name, "--output", place / name)
            self[name] = place / name
            return self[name]

    yield Bundles()
    shutil.rmtree(place, ignore_errors=True)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """In CI a test that was skipped has failed: nobody would see it missing."""
    report = yield
    if report.skipped and os.environ.get("CI") == "true":
        report.outcome = "failed"
        report.longrepr = f"skipped in CI: {report.longrepr}"
    return report
