"""Any program is a worker: here Python's own http.server, over a port and over a socket, bare and in a sandbox."""

import base64
import concurrent.futures
import hashlib
import http.client
import json
import os
import socket
import subprocess

import pytest
from harness import STAGE, Mode
from processes import CAP, eventually, wait_gone

MIB = 1 << 20


@pytest.fixture(params=["port", "socket"])
def way(request):
    return request.param


@pytest.fixture
def herd(cast, mode, way):
    program = "/app/server.py" if mode.sandboxed else STAGE / "programs" / "server.py"
    place = {"port": ["--port", "{{.Port}}"], "socket": ["--socket", "{{.Socket}}"]}[way]
    kind = {
        "cmd": ["/usr/bin/python3", str(program), *place],
        "env": {"LEVEL": 1},
        "health_path": "/",
        "ttl": "1m",
    }
    if mode.sandboxed:
        kind["sandbox"] = {"rootfs": "host", "mounts": [{"source": str(STAGE / "programs"), "target": "/app"}]}
    # JSON is YAML.
    return cast.herd(config=json.dumps({"workers": {"python": kind}}))


def get(herd, path, session="user-42"):
    status, headers, body = herd.request("GET", path, {"X-Session-ID": session})
    assert status == 200, (status, headers, body, herd.tail())
    return json.loads(body)


@pytest.mark.one_id_too
def test_much_goes_through_in_both_directions(herd):
    connection = http.client.HTTPConnection("127.0.0.1", herd.port, timeout=2 * CAP)
    headers = {"X-Session-ID": "user-42"}
    connection.request("GET", f"/bytes/{256 * MIB}", headers=headers)
    response, received, digest = connection.getresponse(), 0, hashlib.sha256()
    while part := response.read(MIB):
        received += len(part)
        digest.update(part)
    chunk = bytes(range(256)) * (MIB // 256)
    expected = hashlib.sha256()
    for _ in range(256):
        expected.update(chunk)
    assert (received, digest.digest()) == (256 * MIB, expected.digest())
    headers["Content-Length"] = str(256 * MIB)
    connection.request("PUT", "/digest", body=(chunk for _ in range(256)), headers=headers)
    assert connection.getresponse().read().decode() == expected.hexdigest()
    connection.close()


def websocket(herd, session):
    stream = socket.create_connection(("127.0.0.1", herd.port), timeout=CAP)
    key = base64.b64encode(os.urandom(16)).decode()
    stream.sendall(
        f"GET /echo HTTP/1.1\r\nHost: localhost\r\nX-Session-ID: {session}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n".encode()
    )
    file = stream.makefile("rwb")
    assert b" 101 " in file.readline()
    while file.readline() != b"\r\n":
        pass
    return stream, file


def exchange(file, message):
    length = len(message)
    size = bytes([0x80 | length]) if length < 126 else b"\xfe" + length.to_bytes(2) if length < 65536 else b"\xff" + length.to_bytes(8)
    file.write(b"\x82" + size + bytes(4) + message)
    file.flush()
    head = file.read(2)
    if extended := {126: 2, 127: 8}.get(head[1], 0):
        file.read(extended)
    return file.read(length)


@pytest.mark.one_id_too
def test_a_websocket_echoes_small_and_large_and_takes_its_worker_along(herd):
    stream, file = websocket(herd, "user-42")
    for size in (1, 125, 126, 65535, 65536, 8 * MIB):
        message = os.urandom(size)
        assert exchange(file, message) == message, f"a message of {size} bytes came back different"
    tree = {p for p in herd.everything() if "server.py" in " ".join(p.command)}
    file.close()
    stream.close()
    wait_gone(tree, "the WebSocket was closed")


@pytest.mark.one_id_too
def test_fifty_connections_at_once_reach_one_worker(herd):
    def visit(number):
        connection = http.client.HTTPConnection("127.0.0.1", herd.port, timeout=2 * CAP)
        pids = set()
        for turn in range(10):
            body = f"{number} {turn} ".encode() * 1000
            headers = {"X-Session-ID": "user-42"}
            connection.request("PUT", "/digest", body=body, headers=headers)
            assert connection.getresponse().read().decode() == hashlib.sha256(body).hexdigest()
            connection.request("GET", "/whoami", headers=headers)
            pids.add(json.loads(connection.getresponse().read())["pid"])
        connection.close()
        return pids

    with concurrent.futures.ThreadPoolExecutor(50) as threads:
        pids = set().union(*threads.map(visit, range(50)))
    assert len(pids) == 1, f"one session has one worker, not these: {pids}"
    assert len(herd.workers()) == 1


@pytest.mark.sandbox_only
@pytest.mark.one_id_too
def test_a_worker_knows_nothing_but_itself(herd, mode):
    own = get(herd, "/whoami")
    assert (own["uid"], own["gid"]) == (1000, 1000)
    # A user without ids to give away cannot give up groups either; all but one are nobody's inside.
    assert set(own["groups"]) <= ({1000, 65534} if mode is Mode.ONE_ID else set()), own["groups"]
    assert (own["home"], own["cwd"]) == ("/home/worker", "/home/worker")
    assert own["interfaces"] == ["lo"]
    assert own["processes"] == [1, own["pid"]]
    assert set(own["variables"]) - {"PORT"} == {"HOME", "LANG", "LEVEL", "PATH"}
    for place in ("root", "srv", "mnt", "media", "boot"):
        assert place not in own["root"], own["root"]
    # The host's own loopback is another one.
    assert get(herd, f"/reach/127.0.0.1/{herd.port}") == "Connection refused"
    assert "unreachable" in get(herd, "/reach/192.0.2.1/80")
    assert 8080 != herd.port


@pytest.mark.sandbox_only
def test_killing_herd_under_load_leaves_nothing(herd):
    clients = [
        subprocess.Popen(
            ["curl", "-sS", "-o", "/dev/null", "-H", f"X-Session-ID: user-{n}", f"http://127.0.0.1:{herd.port}/bytes/{1 << 40}"],
            stderr=subprocess.DEVNULL,
        )
        for n in range(5)
    ]
    try:
        eventually(lambda: len(herd.workers()) == 5, "five sessions, but fewer workers")
        everything = herd.everything()
        herd.kill()
        wait_gone(everything, "herd was killed with SIGKILL")
        for client in clients:
            assert client.wait(CAP) != 0, "a download that was cut off must not look complete"
    finally:
        for client in clients:
            client.kill()
            client.wait(CAP)
