"""One session id, one browser: scripted through herd from both clients."""

import pytest
from processes import descendants, eventually


def worker_of(herd, client):
    """The worker whose browser `client` has, found by killing nobody: its tree is the one with a browser in it."""
    busy = [w for w in herd.workers() if descendants(w, herd.marker) & herd.browsers()]
    assert len(busy) == 1, f"expected one worker with a browser for the {client.name}, found {busy}"
    return busy[0]


@pytest.mark.one_id_too
def test_a_page_is_loaded_and_scripted_through_herd(cast, language):
    herd, page = cast.herd(), cast.page()
    client = cast.client(herd, "user-42", language).connected()
    assert client.goto(page.url) == "A page behind herd"
    client.evaluate("document.querySelector('button').click()")
    assert client.evaluate("document.title") == "clicked 1", "the page's own script ran in the browser"


def test_two_ids_see_two_browsers(cast):
    herd, page = cast.herd(), cast.page()
    first = cast.client(herd, "first", "python").connected()
    second = cast.client(herd, "second", "node").connected()
    for client in (first, second):
        client.goto(page.url)
    first.evaluate("localStorage.setItem('who', 'first')")
    assert first.evaluate("localStorage.getItem('who')") == "first"
    assert second.evaluate("localStorage.getItem('who')") is None, "the second session sees the first one's state"

    trees = [descendants(worker, herd.marker) & herd.browsers() for worker in herd.workers()]
    assert sum(bool(tree) for tree in trees) == 2, f"two sessions must have a browser in two workers: {trees}"


def test_one_id_twice_shares_a_worker_that_ends_with_the_last_of_them(cast):
    herd = cast.herd()
    one = cast.client(herd, "shared", "python").connected()
    worker = worker_of(herd, one)
    other = cast.client(herd, "shared", "node").connected()
    assert worker_of(herd, other) == worker, "the second connection with the same id came to another worker"

    one.close()
    assert other.evaluate("1 + 1") == 2, "the session ended although a connection still holds it"
    assert worker.alive
    other.close()
    eventually(lambda: not worker.alive, "the worker outlives the last connection of its session")


def test_an_id_that_comes_back_gets_a_new_browser(cast, language):
    herd = cast.herd()
    before = cast.client(herd, "user-42", language).connected()
    old = worker_of(herd, before)
    before.close()
    eventually(lambda: not old.alive, "the first worker outlives its session")
    after = cast.client(herd, "user-42", language).connected()
    assert after.evaluate("6 * 7") == 42
    assert worker_of(herd, after) != old


def test_a_warm_worker_serves_the_next_client(cast, language):
    herd = cast.herd()
    cast.client(herd, "first", language).connected()
    warm = eventually(herd.warm_workers, "no warm worker was started in the place of the one that was claimed")
    cast.client(herd, "second", language).connected()
    assert len(warm) == 1
    (worker,) = warm
    assert descendants(worker, herd.marker) & herd.browsers(), "the second session was not given the warm worker"
