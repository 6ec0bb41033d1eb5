"""Five browsers at most: the sixth client waits its turn, or is told at once."""

import json

from processes import eventually


def test_the_sixth_client_waits_for_a_place_or_is_refused(cast, language):
    herd = cast.herd()
    clients = [cast.client(herd, f"user-{n}", language).connected() for n in range(5)]

    status, headers, body = herd.request("GET", "/", {"X-Session-ID": "hasty", "X-Herd-Wait": "0"})
    assert (status, headers.get("x-herd-error")) == (503, "at_capacity"), (status, headers, body)
    assert "retry-after" in headers, headers
    assert json.loads(body)["status"] == 503, body

    before = herd.connections()
    sixth = cast.client(herd, "sixth", language)
    eventually(lambda: herd.connections() > before, "the sixth client never reached herd")
    assert sixth.silent(), "the sixth client got a browser although there are five already"
    assert len(herd.workers()) == 5, "max is 5"
    clients[0].close()
    assert sixth.connected().evaluate("1 + 1") == 2
    assert len(herd.workers()) <= 5, "max is 5"
    for client in clients[1:]:
        assert client.evaluate("1 + 1") == 2, "another session lost its browser to the sixth client"
