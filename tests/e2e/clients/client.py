"""A Playwright client under the tests' command: one JSON object a line in, one a line out.

    client.py URL SESSION_ID [OPTIONS]

OPTIONS is a JSON object: `exposeNetwork`, and `launch` for the browser's launch options, which Playwright's server takes
in a header.

Says {"connected": VERSION} or {"error": TEXT}, then obeys {"goto": URL, "text": true}, {"evaluate": JS} and {"close": true}, and
answers each with {"result": …} or {"error": …}. It ends when its input does, without closing anything on its way out.
"""

import json
import os
import sys

from playwright.sync_api import Error, sync_playwright


def say(**answer):
    print(json.dumps(answer), flush=True)


def main(url, session_id, options="{}"):
    options = json.loads(options)
    headers = {"X-Session-ID": session_id}
    if "launch" in options:
        headers["x-playwright-launch-options"] = json.dumps(options["launch"])
    with sync_playwright() as playwright:
        try:
            browser = playwright.chromium.connect(
                url, headers=headers, timeout=120_000, expose_network=options.get("exposeNetwork")
            )
        except Error as error:
            say(error=str(error))
            return 1
        page = browser.new_page()
        say(connected=browser.version)
        for line in sys.stdin:
            command = json.loads(line)
            try:
                match command:
                    case {"goto": target}:
                        page.goto(target)
                        say(result=page.inner_text("body") if "text" in command else page.title())
                    case {"evaluate": script}:
                        say(result=page.evaluate(script))
                    case {"close": _}:
                        browser.close()
                        say(result=None)
            except Error as error:
                say(error=str(error))
        os._exit(0)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
