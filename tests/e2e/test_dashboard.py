"""The dashboard in a real Chromium."""

import hashlib
import http.client
import os
import subprocess
import threading
import time
import urllib.parse

import pytest
from dashboard import CHROMIUM, Looked, PretendedHerd, addresses, herd_dashboard
from harness import HERD, STAGE
from playwright.sync_api import sync_playwright
from processes import CAP, eventually

pytestmark = pytest.mark.bare_only

CONFIG = f"""
workers:
  talker:
    cmd: ["/usr/bin/python3", "-u", "{STAGE}/programs/talker.py", "{{{{.Port}}}}"]
    max: 8
    min: 1
    ttl: 10m
  other:
    cmd: ["/usr/bin/python3", "-u", "{STAGE}/programs/talker.py", "{{{{.Port}}}}"]
    max: 2
"""
# What does not fit into its cell.
CUT = "cells => [...document.querySelectorAll(cells)].filter(c => c.scrollWidth > c.clientWidth).map(c => c.textContent)"
HOSTILE = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM,
            args=["--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"],
            chromium_sandbox=os.geteuid() != 0,
        )
        yield browser
        browser.close()


@pytest.fixture
def herd(cast):
    return cast.herd(config=CONFIG)


@pytest.fixture
def look(browser, request):
    """Opens pages; afterwards none may have complained."""
    looked = []

    def open_(url, **context):
        looked.append(Looked(browser, url, **context))
        return looked[-1]

    yield open_
    for one in looked:
        one.context.close()
    complaints = [complaint for one in looked for complaint in one.complaints]
    allowed = getattr(request.node.get_closest_marker("complains"), "args", ())
    assert [c for c in complaints if not any(part in c for part in allowed)] == []


@pytest.fixture
def url(herd):
    with herd_dashboard(herd) as url:
        yield url


@pytest.fixture
def pretend(herd):
    made = []

    def make(names, **how):
        made.append(PretendedHerd(herd, names, **how))
        return made[-1]

    yield make
    for one in made:
        one.end()


def say(herd, session, text, key=None):
    """Has the session's worker write this."""
    headers = {"X-Session-ID": session} | ({"Authorization": f"Bearer {key}"} if key else {})
    connection = http.client.HTTPConnection(herd.host, herd.port, timeout=CAP)
    try:
        connection.request("PUT", "/", body=text.encode(), headers=headers)
        answer = connection.getresponse()
        assert answer.status == 204, answer.read()
    finally:
        connection.close()


def test_sessions_pools_and_events_are_shown_as_they_come_and_go(herd, url, look):
    say(herd, "before", "one")
    looked = look(url).live()
    assert looked.ids() == ["before"]
    assert "#key" not in looked.page.url, "the token does not stay in the address"
    say(herd, "after", "one")
    looked.until("() => document.querySelectorAll('#panel-sessions .row:not([hidden])').length === 2")
    assert looked.ids() == ["after", "before"], "the newest first"
    card = looked.page.locator("article.kind", has_text="talker")
    card.locator("dd", has_text="2").first.wait_for()
    herd.cli("stop", "before")
    looked.until("() => document.querySelectorAll('#panel-sessions .row:not([hidden])').length === 1")
    looked.page.keyboard.press("2")
    row = looked.page.locator("#panel-ended .row:visible")
    assert row.locator(".id").text_content() == "before"
    assert row.locator(".reason").text_content() == "stopped"
    looked.page.keyboard.press("3")
    looked.shows("session.ended")
    looked.shows("control.stop")


def test_a_session_is_stopped_by_keyboard_alone_after_a_question(herd, url, look):
    say(herd, "keep", "x")
    say(herd, "victim", "x")
    looked = look(url).live()
    keys = looked.page.keyboard
    keys.press("/")
    keys.type("vict")
    looked.until("() => document.querySelectorAll('#panel-sessions .row:not([hidden])').length === 1")
    keys.press("Enter")
    assert looked.page.evaluate("document.activeElement.getAttribute('role')") == "grid"
    assert looked.page.locator(".row[aria-selected=true] .id").text_content() == "victim"
    keys.press("x")
    looked.shows("Stop victim?")
    keys.press("Escape")
    looked.until("() => !document.getElementById('confirm').open")
    assert "victim" in herd.cli("ps")
    keys.press("x")
    keys.press("Enter")
    looked.shows("Stopped victim: ")
    assert "victim" not in herd.cli("ps")
    keys.press("Escape")
    looked.until("() => [...document.querySelectorAll('#panel-sessions .row:not([hidden]) .id')].map(c => c.textContent).join() === 'keep'")


def test_output_is_followed_and_cannot_act(herd, url, look):
    say(herd, "loud", HOSTILE)
    looked = look(url).live()
    looked.page.keyboard.press("ArrowDown")
    looked.page.keyboard.press("Enter")
    looked.until("text => document.getElementById('log').textContent.includes(text)", HOSTILE)
    say(herd, "loud", "second line")
    looked.until("() => document.getElementById('log').textContent.includes('second line')")
    looked.shows("bound")
    assert looked.page.title() == "herd"
    assert looked.page.locator("#log *").count() == 0, "output is text and nothing else"
    looked.page.keyboard.press("Escape")
    assert looked.page.locator("#detail").is_hidden()
    assert looked.page.evaluate("document.activeElement.getAttribute('role')") == "grid", "the focus is back"


def test_a_flood_of_output_is_bounded_and_what_was_dropped_is_told(herd, url, look):
    say(herd, "loud", "first")
    looked = look(url).live()
    looked.page.keyboard.press("ArrowDown")
    looked.page.keyboard.press("Enter")
    looked.until("() => document.getElementById('log').textContent.includes('first')")
    for part in range(8):
        say(herd, "loud", "\n".join(f"line {part * 1000 + n}" for n in range(1000)))
    say(herd, "loud", "last")
    looked.until("() => document.getElementById('log').textContent.includes('last')")
    looked.until("() => document.getElementById('log-state').textContent.includes('older lines are no longer shown')")
    lines = looked.page.evaluate("document.getElementById('log').textContent.split('\\n').length")
    assert 1000 < lines <= 7000, lines


def test_hostile_names_are_inert(pretend, look):
    pretended = pretend([HOSTILE, "normal"], kind=HOSTILE)
    pretended.log = HOSTILE
    looked = look(pretended.url).live()
    assert set(looked.ids()) == {HOSTILE, "normal"}
    pretended.tell(type=HOSTILE, session=HOSTILE, kind=HOSTILE, extra={"a": HOSTILE})
    pretended.tell(type="session.refused", session=HOSTILE, code="x", detail=HOSTILE)
    for key in "312":
        looked.page.keyboard.press(key)
        looked.page.wait_for_timeout(0)
    looked.page.keyboard.press("1")
    looked.page.locator("#panel-sessions .row:visible", has_text=HOSTILE).last.click()
    looked.until("text => document.getElementById('log').textContent.includes(text)", HOSTILE)
    looked.page.keyboard.press("x")
    looked.shows("Stop <img src=x")
    assert looked.page.title() == "herd"
    assert looked.page.locator("main img, #app img, dialog img, #app script").count() == 0


@pytest.mark.complains("Failed to load resource", "ERR_")
def test_it_reconnects_when_herd_comes_back(herd, url, look):
    say(herd, "old", "x")
    looked = look(url).live()
    assert looked.ids() == ["old"]
    looked.page.locator("#panel-sessions .row:visible").click()
    looked.until("() => document.getElementById('log').textContent.includes('x')")

    def output():
        return looked.page.locator("#log").text_content()

    kept = output()

    def away():
        looked.page.wait_for_selector("#connection[data-is=reconnecting]")
        looked.until("() => document.getElementById('log-state').textContent === 'reconnecting'")
        assert output() == kept, "it may be the only copy"
        looked.screenshot("reconnecting")

    herd.restart(away)
    say(herd, "new", "x")
    looked.live()
    looked.until("() => document.getElementById('log-state').textContent.endsWith('shown is what came before')")
    assert output() == kept
    looked.screenshot("died-with-herd")
    looked.until("() => [...document.querySelectorAll('#panel-sessions .row:not([hidden]) .id')].map(c => c.textContent).join() === 'new'")


def test_an_empty_list_is_called_so_only_once_herd_has_said_it(herd, url, look):
    looked = look(url).live()
    looked.shows("No sessions. The first request")
    held = []
    looked.page.route("**/v1/version", lambda route: held.append(route))
    looked.page.reload()
    looked.until("() => document.getElementById('connection').textContent === 'connecting'")
    # Draws the list.
    looked.page.fill("#filter", "a")
    looked.page.fill("#filter", "")
    assert looked.page.get_by_text("No sessions.").is_hidden()
    for route in held:
        route.continue_()
    looked.page.unroute("**/v1/version")
    looked.live().shows("No sessions. The first request")


def test_events_are_told_in_words(pretend, look):
    pretended = pretend(["a"])
    looked = look(pretended.url).live()
    by = {"uid": 1000, "pid": 7, "key": None}
    key = {"uid": None, "pid": None, "key": "ci"}
    end = {"outcome": "exited", "exit_code": 3, "signal": None, "reason": None, "detail": "exit code 3"}
    kinds = {"config_generation": 2, "added": ["b", "c"], "renewed": [], "adjusted": ["d"], "removed": []}
    told = [
        ("a by uid 1000: ls -l", dict(type="control.exec", session="a", command=["ls", "-l"], by=by)),
        ("a: ls -l: exit code 3", dict(type="exec.ended", session="a", generation=1, command=["ls", "-l"], by=by, end=end, lasted_ms=5)),
        ("a by key ci", dict(type="control.token", session="a", by=key)),
        ("by key ci", dict(type="control.reload", by=key)),
        ("by control: b, c added; d adjusted", dict(type="config.reloaded", cause="control", **kinds)),
        ("by signal: every kind of worker is as it was", dict(type="config.reloaded", cause="signal", **kinds | {"added": [], "adjusted": []})),
        ("by watch: herd.yaml:1: no", dict(type="config.reload_failed", cause="watch", detail="herd.yaml:1: no")),
    ]
    for _, event in told:
        pretended.tell(**event)
    looked.page.keyboard.press("3")
    looked.until("count => document.querySelectorAll('#panel-events .row:not([hidden])').length === count", len(told))
    shown = [cell.strip() for cell in looked.page.locator("#panel-events .row:visible .told").all_text_contents()]
    assert sorted(shown) == sorted(text for text, _ in told)
    assert looked.page.evaluate(CUT, "#panel-events .row:not([hidden]) .type") == []
    looked.screenshot("events")


@pytest.mark.parametrize("width", [1000, 1200, 1280, 1500, 1900])
def test_why_a_former_herds_session_ended_is_read_in_full(pretend, look, width):
    pretended = pretend(["a"])
    reasons = ["disconnected", "max_lifetime", "probe_failed", "herd_died"]
    for number, reason in enumerate(reasons):
        pretended.ended.append(pretended.view(1) | {"generation": 100 + number, "state": "ended", "reason": reason, "ended": pretended.moment(),
                                                    "run": pretended.moment(90_000)})
    looked = look(pretended.url, viewport={"width": width, "height": 800}).live()
    looked.page.keyboard.press("2")
    looked.shows("disconnected (former herd)")
    assert looked.page.evaluate(CUT, "#panel-ended .row:not([hidden]) .reason") == []
    looked.page.locator("#panel-ended .row:visible").first.click()
    looked.shows("hello")
    looked.screenshot(f"ended-{width}")
    assert looked.page.evaluate(CUT, "#panel-ended .row:not([hidden]) .reason") == []


@pytest.mark.complains("status of 401", "status of 403")
def test_over_tcp_it_asks_for_a_key_and_keeps_it_in_the_tab(cast, look):
    config = CONFIG + f"""
control:
  tcp: 127.0.0.1:0
  keys:
    reader: {{ sha256: {sha256("herd_reader_0123456789")} }}
    scraper: {{ sha256: {sha256("herd_scraper_0123456789")}, may: metrics }}
    boss: {{ sha256: {sha256("herd_boss_0123456789")}, may: control }}
"""
    herd = cast.herd(config=config)
    data, control = addresses(herd)
    herd.port = urllib.parse.urlsplit(data).port
    say(herd, "secret", "x")
    looked = look(control)
    looked.shows("This herd asks for a key.")
    looked.screenshot("login")
    assert "secret" not in looked.page.content()

    def enter(key):
        looked.page.fill("#login-key", key)
        looked.page.keyboard.press("Enter")

    enter("herd_nobody_0123456789")
    looked.shows("this key is not known")
    enter("herd_scraper_0123456789")
    looked.shows("the key scraper may not do this")
    enter("herd_reader_0123456789")
    looked.live()
    assert looked.ids() == ["secret"]
    looked.page.reload()
    looked.live()
    looked.page.keyboard.press("ArrowDown")
    looked.page.keyboard.press("x")
    looked.page.keyboard.press("Enter")
    looked.shows("the key reader may not do this; it needs `may: control`")
    assert "secret" in herd.cli("ps")
    looked.page.click("#forget")
    looked.shows("This herd asks for a key.")
    assert looked.page.evaluate("sessionStorage.length") == 0


def test_sessions_of_one_name_are_told_apart_by_whose_they_are_and_when_they_were(cast, look):
    keys = {"alice": "herd_alice_0123456789", "bob": "herd_bob_0123456789"}
    entries = ", ".join(f"{name}: {{ sha256: {sha256(key)} }}" for name, key in keys.items())
    herd = cast.herd(config=f"{CONFIG}\nauth:\n  keys: {{ {entries} }}\n")
    for name, key in keys.items():
        say(herd, "same", f"output of {name}", key)
    with herd_dashboard(herd) as url:
        looked = look(url).live()
        assert looked.ids() == ["bob/same", "alice/same"]
        press = looked.page.keyboard.press

        def shows_output(text, *not_of):
            looked.until("text => document.getElementById('log').textContent.includes(text)", text)
            shown = looked.page.locator("#log").text_content()
            assert not [other for other in not_of if other in shown], shown

        looked.page.locator("#panel-sessions .row:visible", has_text="alice/same").last.click()
        assert looked.page.locator("#detail-id").text_content() == "alice/same"
        shows_output("output of alice", "output of bob")
        looked.page.locator("#panel-sessions .row:visible", has_text="bob/same").last.click()
        shows_output("output of bob", "output of alice")
        press("x")
        looked.shows("Stop bob/same?")
        press("Enter")
        looked.shows("Stopped bob/same: ")
        assert "alice/same" in herd.cli("ps") and "bob/same" not in herd.cli("ps")
        # The same name anew: the row of before is about the one before.
        say(herd, "same", "output of another", keys["bob"])
        looked.until("() => [...document.querySelectorAll('#panel-sessions .row:not([hidden]) .id')].map(c => c.textContent).join() === 'bob/same,alice/same'")
        press("Escape")
        press("2")
        looked.page.locator("#panel-ended .row:visible", has_text="bob/same").last.click()
        looked.shows("stopped on request")
        shows_output("output of bob", "output of another", "output of alice")
        looked.until("() => document.getElementById('log-state').textContent.startsWith('ended')")
        looked.screenshot("principals")
        # Before what it talks to goes.
        looked.page.close()


def test_a_drain_is_asked_for_and_herd_goes(cast, look):
    herd = cast.herd(config=CONFIG)
    with herd_dashboard(herd) as url:
        looked = look(url).live()
        looked.page.click("#drain")
        looked.shows("Drain and end this herd?")
        assert looked.page.evaluate("document.activeElement.id") == "confirm-no", "a second Enter does not drain"
        looked.page.click("#confirm-yes")
        assert herd.child.wait(CAP) == 0
        looked.complaints.clear()


def test_herd_dashboard_gives_nothing_to_who_has_no_token(herd, url):
    at = urllib.parse.urlsplit(url)
    token = at.fragment.removeprefix("key=")
    assert len(token) == 43

    def ask(path, headers=None, method="GET"):
        connection = http.client.HTTPConnection(at.hostname, at.port, timeout=CAP)
        try:
            connection.request(method, path, headers=headers or {})
            answer = connection.getresponse()
            return answer.status, answer.headers.get("x-herd-error"), answer.read()
        finally:
            connection.close()

    say(herd, "secret", "x")
    status, _, page = ask("/")
    assert status == 200 and b"secret" not in page
    for headers in ({}, {"Authorization": "Bearer " + "A" * 43}, {"Authorization": f"Basic {token}"}):
        for path in ("/v1/sessions", "/v1/events", "/metrics", "/healthz", "/nowhere"):
            assert ask(path, headers)[:2] == (401, "unauthorized"), path
        assert ask("/v1/sessions/secret", headers, "DELETE")[:2] == (401, "unauthorized")
    key = {"Authorization": f"Bearer {token}"}
    assert b"secret" in ask("/v1/sessions", key)[2]
    assert ask("/v1/sessions", {**key, "Host": "evil.example"})[1] == "host_refused"
    assert ask("/v1/sessions", {**key, "Origin": "http://evil.example"})[1] == "origin_refused"
    assert ask("/v1/sessions/secret", key, "DELETE")[0] == 200


def test_without_herd_there_is_no_dashboard(herd):
    herd.child.terminate()
    herd.child.wait(CAP)
    done = subprocess.run([HERD, "dashboard", "--control-socket", herd.control], capture_output=True, text=True, timeout=CAP)
    assert done.returncode == 1 and "herd is not running" in done.stderr, done


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_is_light_or_dark_as_the_reader_likes(herd, url, look, scheme):
    say(herd, "alice", "x")
    looked = look(url, color_scheme=scheme).live()
    ground = looked.page.evaluate("getComputedStyle(document.body).backgroundColor")
    light = sum(int(part) for part in ground.removeprefix("rgb(").removesuffix(")").split(",")) > 380
    assert light == (scheme == "light"), ground


def test_a_phone_has_room_for_it(pretend, look):
    pretended = pretend([f"user-{number}" for number in range(40)])
    looked = look(pretended.url, viewport={"width": 390, "height": 780}, has_touch=True, is_mobile=True).live()
    assert looked.page.evaluate("document.documentElement.scrollWidth") == 390, "nothing sticks out"
    assert len(looked.ids()) > 8
    looked.screenshot("phone")
    looked.page.locator("#panel-sessions .row:visible").nth(1).click()
    looked.shows("hello")
    looked.screenshot("phone-detail")


def test_five_thousand_sessions_stay_smooth(pretend, look):
    pretended = pretend([f"user-{number:05}" for number in range(5000)])
    looked = look(pretended.url).live()
    looked.until("() => document.getElementById('count-sessions').textContent === '5,000'")
    assert looked.page.locator("#panel-sessions .row").count() < 100, "only rows in sight exist"
    session = looked.context.new_cdp_session(looked.page)
    session.send("Performance.enable")

    def spent():
        metrics = {m["name"]: m["value"] for m in session.send("Performance.getMetrics")["metrics"]}
        return metrics["ScriptDuration"], metrics["TaskDuration"], metrics["Timestamp"]

    churn(pretended)
    before = spent()
    lists = len([path for path in pretended.asked if "limit=" in path])
    frames = looked.page.evaluate("""() => new Promise(done => {
        const scroller = document.querySelector('#panel-sessions .scroller');
        const gaps = [];
        let last = performance.now();
        const until = last + 5000;
        const step = now => {
            gaps.push(now - last);
            last = now;
            scroller.scrollTop += 120;
            if (now < until) requestAnimationFrame(step); else done(gaps.slice(1));
        };
        requestAnimationFrame(step);
    })""")
    script, task, seconds = (after - b for after, b in zip(spent(), before))
    frames.sort()
    print(f"\n5,000 sessions, scrolling, 100 events/s: script {script / seconds:.1%}, tasks {task / seconds:.1%} of the time; "
          f"frames {len(frames) / 5:.0f}/s, 99th percentile {frames[int(len(frames) * 0.99)]:.0f} ms")
    assert script / seconds < 0.3, (script, seconds)
    asked = len([path for path in pretended.asked if "limit=" in path]) - lists
    assert asked <= seconds / 2 + 2, "events are applied; the list is not asked for again and again"
    looked.screenshot("five-thousand")
    looked.page.keyboard.press("/")
    looked.page.keyboard.type("user-04999")
    looked.until("() => [...document.querySelectorAll('#panel-sessions .row:not([hidden]) .id')].map(c => c.textContent).join() === 'user-04999'")


def churn(pretended):
    """A hundred events a second for six seconds, from a thread of its own."""
    def run():
        until = time.monotonic() + 6
        while time.monotonic() < until:
            pretended.remove(min(pretended.sessions))
            pretended.add(f"new-{len(pretended.events)}")
            time.sleep(0.03)

    threading.Thread(target=run, daemon=True).start()


def sha256(key):
    return hashlib.sha256(key.encode()).hexdigest()
