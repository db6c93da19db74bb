"""A person's browser that connects an account, for tests/consent_browser.rs: Chromium without a window.

It follows a link of the gateway, presses the button there, signs in at the provider and consents (or does not), and tells
what the last page says, which requests the pages made, and whether a policy stopped anything.
"""

import argparse
import asyncio
import json
import os
import shutil
import sys
import tempfile

import chromium_client
import scenarios

TEXT = "document.body.innerText"


class Person(chromium_client.Browser):
    def __init__(self):
        super().__init__()
        self.blocked = []

    def take(self, message):
        if message.get("method") == "Audits.issueAdded":
            code = message["params"]["issue"]["code"]
            if code == "ContentSecurityPolicyIssue":
                self.blocked.append(code)
        super().take(message)

    async def acts(self, script):
        """Does something that leads to another page, and waits for that."""
        self.loaded.clear()
        await self.evaluate(script)
        await self.loaded.wait()

    async def goes(self, url):
        self.loaded.clear()
        told = await self.call("Page.navigate", url=url)
        if told.get("errorText"):
            raise ConnectionError(f"cannot open {url}: {told['errorText']}")
        await self.loaded.wait()

    async def where(self):
        return await self.evaluate("location.origin + location.pathname")


async def connect(person, given):
    await person.open(given.link)
    pages = [await person.evaluate(TEXT)]
    await person.call("Audits.enable")
    # Through the button itself: the policy of the page must let it, and where it leads.
    await person.acts("document.querySelector('#go').click()")
    steps = 0
    while not (await person.where()).startswith(given.origin):
        steps += 1
        if steps > 6:
            raise RuntimeError(f"the provider does not end: {await person.evaluate(TEXT)}")
        if await person.evaluate("!!document.querySelector('input[name=login]')"):
            fill = "document.querySelector('input[name=login]').value = %s;" % json.dumps(given.account)
            fill += "document.querySelector('input[name=password]').value = 'any';"
            await person.acts(fill + "document.querySelector('form button[type=submit]').click()")
        elif given.deny:
            await person.acts("document.querySelector('a[href$=\"/abort\"]').click()")
        else:
            await person.acts("document.querySelector('form button[type=submit]').click()")
    pages.append(await person.evaluate(TEXT))
    cookies = (await person.call("Network.getCookies", urls=[given.origin]))["cookies"]
    return {
        "pages": pages,
        "path": await person.evaluate("location.pathname"),
        "scripts": await person.evaluate("document.scripts.length"),
        "cookies": [{key: cookie.get(key) for key in ("name", "httpOnly", "secure", "sameSite", "path")} for cookie in cookies],
        "blocked": person.blocked,
    }


async def main(given):
    program = os.environ.get("SLUICE_TEST_CHROMIUM") or shutil.which("chromium")
    person = Person()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as directory:
        await person.start(program, chromium_client.options(given, directory))
        try:
            return await asyncio.wait_for(connect(person, given), 90)
        except Exception:
            person.process.kill()
            print((await person.errors).decode("utf-8", "replace"), file=sys.stderr)
            raise
        finally:
            await person.stop()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--origin", required=True, help="the gateway's")
    parser.add_argument("--certificate", required=True, help="the gateway's certificate (PEM)")
    parser.add_argument("--link", required=True)
    parser.add_argument("--account", required=True)
    parser.add_argument("--deny", action="store_true")
    scenarios.tell(main(parser.parse_args()))
