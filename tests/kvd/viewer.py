"""The API viewer in a real browser: authorise, store an entry and read it back by clicking, contact no other host."""

import json
import sys
import urllib.parse

import harness
import webdriver

BASE = "/api/v1/kv"


def place_of(tag, operation):
    # The page escapes the dot in its ids, and a selector the backslash of that.
    return f"[id='operations-{tag}-{operation}']".replace(".", r"\\.")


class Operation:
    """One operation on the page, opened and ready to be tried out."""

    def __init__(self, browser, tag, operation):
        self.browser = browser
        self.place = place_of(tag, operation)
        browser.click(f"{self.place} .opblock-summary-control")
        browser.click(f"{self.place} .try-out__btn")

    def fill(self, name, text):
        self.browser.type_over(f"{self.place} tr[data-param-name='{name}'] input", text)

    def fill_body(self, text):
        self.browser.type_over(f"{self.place} textarea.body-param__text", text)

    def execute(self):
        """Clicks Execute; the status and the JSON body that the page shows."""
        self.browser.click(f"{self.place} button.execute")
        live = f"{self.place} .live-responses-table tbody tr.response"
        status = self.browser.text(f"{live} .response-col_status").split()[0]
        body = self.browser.text(f"{live} .response-col_description .highlight-code code")
        return int(status), json.loads(body)


def authorize(browser, token):
    browser.click("button.authorize")
    browser.type_over(".auth-container input", token)
    browser.click(".auth-btn-wrapper button.authorize")
    browser.click(".auth-btn-wrapper button.btn-done")


def check_the_page(browser, url, token):
    browser.open(url + BASE + "/swagger-ui")
    browser.find(place_of("Entries", "entry.put"))
    authorize(browser, token)

    create = Operation(browser, "Namespaces", "namespace.create")
    create.fill_body('{"name": "viewer", "applicationId": "app-123"}')
    status, _ = create.execute()
    assert status == 201, status

    put = Operation(browser, "Entries", "entry.put")
    put.fill("nsId", "app-123~viewer")
    put.fill("key", "seen/in/a/browser")
    put.fill_body('{"value": "clicked <b>&amp;</b>"}')
    status, entry = put.execute()
    assert status == 201, status
    assert entry["keyPath"].endswith("seen/in/a/browser"), entry
    assert "value" not in entry, entry

    get = Operation(browser, "Entries", "entry.get")
    get.fill("nsId", "app-123~viewer")
    get.fill("key", "seen/in/a/browser")
    status, entry = get.execute()
    assert status == 200, status
    assert entry["value"] == "clicked <b>&amp;</b>", entry


def check_a_stranger_is_refused(browser, url):
    browser.open(url + BASE + "/swagger-ui")
    get = Operation(browser, "Entries", "entry.get")
    get.fill("nsId", "app-123~viewer")
    get.fill("key", "seen/in/a/browser")
    status, problem = get.execute()
    assert status == 401, status
    assert problem["code"] == "unauthenticated", problem


def check_the_console(browser):
    for entry in browser.log("browser"):
        # The browser itself notes every answer of 400 and above.
        assert "401 (" in entry["message"], entry["message"]


def check_the_hosts(browser, url):
    own = urllib.parse.urlsplit(url).netloc
    asked = 0
    for entry in browser.log("performance"):
        message = json.loads(entry["message"])["message"]
        if message["method"] != "Network.requestWillBeSent":
            continue
        target = urllib.parse.urlsplit(message["params"]["request"]["url"])
        if target.scheme in ("data", "chrome"):
            continue
        asked += 1
        assert target.netloc == own, target.geturl()
    assert asked >= 5, asked


def main():
    if not webdriver.available():
        print("chromium and chromedriver are not installed: skipped")
        return 77
    with harness.running() as (url, token), webdriver.Browser() as browser:
        check_the_page(browser, url, token)
        check_a_stranger_is_refused(browser, url)
        check_the_console(browser)
        check_the_hosts(browser, url)
    print("the viewer works")
    return 0


if __name__ == "__main__":
    sys.exit(main())
