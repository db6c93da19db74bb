"""Chromium without a window, for the tests in tests/real_clients.rs.

It is told which key to accept and to speak QUIC to the gateway's origin (unless it is to find that out by itself), opens
a page of the gateway and lets that page fetch the rest, so that all requests have one origin. Which protocol was spoken
the browser says itself, twice: in the page (`nextHopProtocol`) and to the debugger (`Network.responseReceived`). The
debugger's pipe is NUL-separated JSON on descriptors 3 and 4.
"""

import asyncio
import base64
import contextlib
import hashlib
import json
import os
import shutil
import sys
import tempfile

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

import scenarios

FETCH = """(async ({method, path, fields, body}) => {
    const answer = await fetch(path, {method, headers: fields, body: body ?? undefined, cache: "no-store"});
    const text = await answer.text();
    return {status: answer.status, fields: Object.fromEntries(answer.headers), text};
})(%s)"""
SEEN = 'performance.getEntries().filter(e => e.nextHopProtocol !== undefined).map(e => e.nextHopProtocol)'


class Browser:
    """One process with one page."""

    def __init__(self):
        self.answers = {}
        self.waiting = {}
        self.protocols = []
        # Of the last answer from each URL.
        self.protocol_of = {}
        self.loaded = asyncio.Event()
        self.next_id = 0
        self.session = None

    async def start(self, program, options):
        # Given to the child under its own numbers, then moved to 3 and 4 by the shell that becomes the browser.
        (commands_read, commands_write), (events_read, events_write) = os.pipe(), os.pipe()
        move = f'exec "$0" "$@" 3<&{commands_read} 4>&{events_write}'
        self.process = await asyncio.create_subprocess_exec(
            "bash", "-c", move, program, *options,
            pass_fds=(commands_read, events_write),
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
        )
        os.close(commands_read)
        os.close(events_write)
        self.commands = os.fdopen(commands_write, "wb", buffering=0)
        self.events = asyncio.StreamReader(limit=16 << 20)
        loop = asyncio.get_running_loop()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(self.events), os.fdopen(events_read, "rb"))
        self.errors = asyncio.create_task(self.process.stderr.read())
        self.reader = asyncio.create_task(self.read())

    async def read(self):
        with contextlib.suppress(asyncio.IncompleteReadError):
            while True:
                self.take(json.loads((await self.events.readuntil(b"\0"))[:-1]))
        for future in self.waiting.values():
            if not future.done():
                future.set_exception(ConnectionError("the browser ended"))

    def take(self, message):
        if message.get("method") == "Network.responseReceived":
            response = message["params"]["response"]
            self.protocols.append(response.get("protocol"))
            self.protocol_of[response["url"]] = response.get("protocol")
        elif message.get("method") == "Page.loadEventFired":
            self.loaded.set()
        elif (future := self.waiting.pop(message.get("id"), None)) is not None:
            if "error" in message:
                future.set_exception(RuntimeError(str(message["error"])))
            else:
                future.set_result(message["result"])

    async def call(self, method, **parameters):
        self.next_id += 1
        message = {"id": self.next_id, "method": method, "params": parameters}
        if self.session is not None:
            message["sessionId"] = self.session
        future = self.waiting[self.next_id] = asyncio.get_running_loop().create_future()
        self.commands.write(json.dumps(message).encode() + b"\0")
        return await future

    async def evaluate(self, expression):
        told = await self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in told:
            raise RuntimeError(json.dumps(told["exceptionDetails"]))
        return told["result"].get("value")

    async def open(self, url):
        target = (await self.call("Target.createTarget", url="about:blank"))["targetId"]
        self.session = (await self.call("Target.attachToTarget", targetId=target, flatten=True))["sessionId"]
        await self.call("Network.enable")
        await self.call("Page.enable")
        told = await self.call("Page.navigate", url=url)
        if told.get("errorText"):
            raise ConnectionError(f"cannot open {url}: {told['errorText']}")
        await self.loaded.wait()

    async def stop(self):
        with contextlib.suppress(Exception):
            self.session = None
            await asyncio.wait_for(self.call("Browser.close"), 10)
        try:
            await asyncio.wait_for(self.process.wait(), 10)
        except asyncio.TimeoutError:
            self.process.kill()
            await self.process.wait()


def key_hash(path):
    """Base64 of the SHA-256 of the certificate's public key, as the browser's option wants it."""
    with open(path, "rb") as file:
        certificate = x509.load_pem_x509_certificate(file.read())
    key = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return base64.b64encode(hashlib.sha256(key).digest()).decode()


def options(given, directory, is_told=True):
    # QUIC is refused to certificates of authorities that the system does not know, unless their host is named here. Another
    # port than the gateway's allows it and forces nothing.
    forced_port = given.port if is_told else 1
    chosen = [
        "--headless", "--disable-gpu", "--no-first-run", "--remote-debugging-pipe", "--disable-dev-shm-usage",
        "--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-proxy-server",
        f"--user-data-dir={directory}", "--enable-quic", f"--origin-to-force-quic-on=localhost:{forced_port}",
        f"--ignore-certificate-errors-spki-list={key_hash(given.certificate)}",
        # `localhost` may be ::1 first; the gateway under test listens on the other. Nobody else is to be asked anything.
        "--host-resolver-rules=MAP localhost 127.0.0.1, MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    ]
    # The sandbox cannot be had by root, as which containers run.
    return chosen + (["--no-sandbox"] if os.geteuid() == 0 else [])


async def main(given):
    program = os.environ.get("SLUICE_TEST_CHROMIUM") or shutil.which("chromium")
    origin = f"https://localhost:{given.port}"
    browser = Browser()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as directory:
        await browser.start(program, options(given, directory, not given.move))
        try:
            version = (await browser.call("Browser.getVersion"))["product"]
            await browser.open(f"{origin}/livez")

            async def request(method, path, fields, body):
                wanted = {"method": method, "path": path, "fields": fields, "body": body and body.decode()}
                told = await browser.evaluate(FETCH % json.dumps(wanted))
                # Of the last answer from there, which is this one where requests come one after the other.
                protocol = browser.protocol_of[f"{origin}{path}"]
                return scenarios.Answer(protocol, told["status"], told["fields"], told["text"].encode())

            report = await (scenarios.move(request) if given.move else scenarios.run(given.key, request))
            seen = await browser.evaluate(SEEN)
        except Exception:
            browser.process.kill()
            print((await browser.errors).decode("utf-8", "replace"), file=sys.stderr)
            raise
        finally:
            await browser.stop()
    return {"client": version, **report, "page_protocols": seen, "network_protocols": browser.protocols}


if __name__ == "__main__":
    scenarios.tell(main(scenarios.arguments()))
