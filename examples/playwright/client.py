"""A browser of one's own, through herd:  python client.py [SESSION_ID [URL]]"""

import sys

from playwright.sync_api import sync_playwright

session_id = sys.argv[1] if len(sys.argv) > 1 else "user-42"
url = sys.argv[2] if len(sys.argv) > 2 else "data:text/html,<title>Hello from Python</title>"

with sync_playwright() as p:
    browser = p.chromium.connect("ws://localhost:8080/", headers={"X-Session-ID": session_id})
    page = browser.new_page()
    page.goto(url)
    print(f"{session_id}: Chromium {browser.version} shows “{page.title()}”")
    browser.close()  # the session ends here, and its browser with it; so it would if this process were killed
