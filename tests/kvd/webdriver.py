"""A browser, driven through chromedriver by the WebDriver protocol. Standard library only."""

import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time

ELEMENT = "element-6066-11e4-a52e-4f735466cecf"
CONTROL, RELEASE = "\ue009", "\ue000"


def available():
    return bool(shutil.which("chromedriver") and (shutil.which("chromium") or shutil.which("chromium-browser")))


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Browser:
    """A headless Chromium that can reach no host but 127.0.0.1, with a profile of its own."""

    def __init__(self):
        self.folder = tempfile.mkdtemp(prefix="viewer-")
        self.port = free_port()
        self.driver = subprocess.Popen(
            ["chromedriver", f"--port={self.port}"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
        try:
            self.wait_until("chromedriver listens", self.is_listening)
            self.session = self.open_session()
        except BaseException:
            self.close()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *_):
        try:
            self.call("DELETE", "")
        except OSError:
            pass
        self.close()

    def close(self):
        # The driver leads a process group of its own, so that its browser ends with it.
        os.killpg(self.driver.pid, signal.SIGKILL)
        self.driver.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def is_listening(self):
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def open_session(self):
        options = {
            "binary": shutil.which("chromium") or shutil.which("chromium-browser"),
            "args": [
                "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-dev-shm-usage",
                "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync",
                "--window-size=1400,2000", f"--user-data-dir={self.folder}",
                "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
            ],
        }
        wanted = {"alwaysMatch": {"browserName": "chrome", "goog:chromeOptions": options,
                                  "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"}}}
        return self.request("POST", "/session", {"capabilities": wanted})["sessionId"]

    def request(self, method, path, body=None):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, path, None if body is None else json.dumps(body),
                               {"Content-Type": "application/json"})
            answer = json.loads(connection.getresponse().read())["value"]
        finally:
            connection.close()
        if isinstance(answer, dict) and "error" in answer:
            raise RuntimeError(f"{method} {path}: {answer['error']}: {answer['message'].splitlines()[0]}")
        return answer

    def call(self, method, command, body=None):
        return self.request(method, f"/session/{self.session}{command}", body)

    @staticmethod
    def wait_until(what, condition, seconds=30):
        deadline = time.monotonic() + seconds
        while True:
            found = condition()
            if found:
                return found
            if time.monotonic() > deadline:
                raise AssertionError(f"not within {seconds} s: {what}")
            time.sleep(0.05)

    def open(self, url):
        self.call("POST", "/url", {"url": url})

    def script(self, text, *arguments):
        return self.call("POST", "/execute/sync", {"script": text, "args": list(arguments)})

    def find(self, selector):
        """The first element that fits, once there is one."""
        return self.wait_until(selector, lambda: self.script("return document.querySelector(arguments[0])", selector))

    def click(self, selector):
        self.call("POST", f"/element/{self.find(selector)[ELEMENT]}/click", {})

    def type_over(self, selector, text):
        """Replaces what stands in a field, key by key as a person would."""
        field = f"/element/{self.find(selector)[ELEMENT]}/value"
        self.call("POST", field, {"text": CONTROL + "a" + RELEASE})
        self.call("POST", field, {"text": text})

    def text(self, selector):
        return self.script("return arguments[0].innerText", self.find(selector))

    def log(self, kind):
        return self.call("POST", "/se/log", {"type": kind})
