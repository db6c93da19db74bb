"""Chromium signs in by the gateway's page, sees itself on the page of the API, tries a GET there and signs out.

For the test in tests/browsers.rs. A page of another site, which SLUICE_ELSEWHERE names, tries to use the session meanwhile.
"""

import asyncio
import json
import os
import shutil
import sys
import tempfile

import chromium_client
import scenarios

FILL = """(() => {
    document.querySelector("input[name=key]").value = %s;
    document.querySelector("form button").click();
})()"""
TRY = """(async (path) => {
    document.getElementById("try-path").value = path;
    document.querySelector("#try button").click();
})(%s)"""
POST = """(async () => {
    const body = JSON.stringify({name: "by a browser"});
    const answer = await fetch("/api/v1/keys", {method: "POST", headers: {"content-type": "application/json"}, body});
    return answer.status;
})()"""
# A page of another site that asks with whatever cookies the browser lets it send.
ELSEWHERE = """(async (url) => {
    const ask = async (method) => {
        try {
            const answer = await fetch(url, {method, mode: "no-cors", credentials: "include"});
            return answer.type;
        } catch (error) {
            return String(error);
        }
    };
    return [await ask("GET"), await ask("POST")];
})(%s)"""


class Watched(chromium_client.Browser):
    """Notes what each address was answered with, as the debugger tells it."""

    def __init__(self):
        super().__init__()
        self.answered = []

    def take(self, message):
        if message.get("method") == "Network.responseReceived":
            response = message["params"]["response"]
            self.answered.append((response["url"], response["status"]))
        super().take(message)

    async def visit(self, url):
        """Opens a page in a tab of its own and waits until it is there."""
        self.loaded.clear()
        await self.open(url)


async def until(browser, expression):
    """What an expression gives once that is something."""
    for _ in range(1_000):
        try:
            if value := await browser.evaluate(expression):
                return value
        except RuntimeError:
            pass  # The page is just going, or its elements are not there yet.
        await asyncio.sleep(0.02)
    raise TimeoutError(expression)


async def main(given):
    program = os.environ.get("SLUICE_TEST_CHROMIUM") or shutil.which("chromium")
    browser, report = Watched(), {}
    origin = f"https://localhost:{given.port}"
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as directory:
        await browser.start(program, chromium_client.options(given, directory))
        try:
            await browser.visit(f"{origin}/docs")
            report["before"] = await until(browser, 'document.getElementById("who").textContent')
            await browser.visit(f"{origin}/sign-in")
            await browser.evaluate(FILL % json.dumps("sk_wrong"))
            report["wrong"] = await until(browser, 'document.querySelector("[role=alert]")?.textContent')
            await browser.evaluate(FILL % json.dumps(given.key))
            await until(browser, 'location.pathname === "/docs"')
            report["after"] = await until(browser, '!document.getElementById("try")?.hidden && document.getElementById("who").textContent')
            await browser.evaluate(TRY % json.dumps("/api/v1/users/me"))
            report["tried"] = await until(
                browser, '/^[0-9]/.test(document.getElementById("try-answer").textContent) && document.getElementById("try-answer").textContent')
            report["cookies_of_scripts"] = await browser.evaluate("document.cookie")
            report["cookies"] = (await browser.call("Network.getCookies", urls=[origin]))["cookies"]
            report["post"] = await browser.evaluate(POST)
            session = browser.session
            # To what another site's page asks the browser adds no cookie.
            await browser.visit(os.environ["SLUICE_ELSEWHERE"])
            url, before = f"{origin}/api/v1/users/me", len(browser.answered)
            report["elsewhere"] = await browser.evaluate(ELSEWHERE % json.dumps(url))
            report["elsewhere_answered"] = [status for at, status in browser.answered[before:] if at == url]
            browser.session = session
            await browser.evaluate('document.getElementById("sign-out").click()')
            report["out"] = await until(
                browser, 'document.getElementById("try").hidden && document.getElementById("who").textContent')
            report["cookies_left"] = (await browser.call("Network.getCookies", urls=[origin]))["cookies"]
        except Exception:
            browser.process.kill()
            print(report, (await browser.errors).decode("utf-8", "replace"), file=sys.stderr)
            raise
        finally:
            await browser.stop()
    return {**report, "network_protocols": browser.protocols}


if __name__ == "__main__":
    scenarios.tell(main(scenarios.arguments()))
