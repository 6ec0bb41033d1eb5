import contextlib
import os

import pytest
from harness import Client, Herd, Page


@pytest.fixture(params=["python", "node"])
def language(request):
    return request.param


@pytest.fixture
def cast():
    """Starts herds, clients and pages, and ends them in the opposite order. A herd's end fails if it leaves anything."""
    with contextlib.ExitStack() as stack:

        class Cast:
            def herd(self, **how):
                herd = Herd(**how)
                stack.callback(herd.end)
                return herd

            def client(self, herd, session_id, language="python", prefix=()):
                client = Client(herd, session_id, language, prefix)
                stack.callback(client.end)
                return client

            def page(self, **how):
                page = Page(**how)
                stack.callback(page.end)
                return page

        yield Cast()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """In CI a test that was skipped has failed: nobody would see it missing."""
    report = yield
    if report.skipped and os.environ.get("CI") == "true":
        report.outcome = "failed"
        report.longrepr = f"skipped in CI: {report.longrepr}"
    return report
