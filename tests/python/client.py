"""An HTTP/3 client on aioquic, for the test in tests/python_client.rs.

Carries out one scenario after the other against a running gateway and prints what came of each as one JSON object.
Nothing is judged here but the answers' form: what must be in them, the test knows.
"""

import argparse
import asyncio
import json
import ssl
import sys
from dataclasses import dataclass, field

from aioquic.asyncio.client import connect
from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.h3.connection import H3_ALPN, H3Connection
from aioquic.h3.events import DataReceived, HeadersReceived
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import ConnectionTerminated, StreamReset

# Far longer than anything takes; only so that a hang is a failure.
TIMEOUT_S = 60
SERVER_NAME = "localhost"


@dataclass
class Answer:
    """What has come on a request's stream so far."""

    status: int = 0
    fields: dict = field(default_factory=dict)
    body: bytes = b""

    def report(self):
        """The answer as the test reads it."""
        try:
            body = json.loads(self.body)
        except ValueError:
            body = self.body.decode("utf-8", "replace")
        return {"status": self.status, "fields": self.fields, "body": body}


class Client(QuicConnectionProtocol):
    """One connection. Any number of requests may be under way."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.http = H3Connection(self._quic)
        self.answers = {}
        self.waiting = {}

    def quic_event_received(self, event):
        if isinstance(event, StreamReset):
            self.fail(event.stream_id, f"stream reset with {event.error_code:#x}")
        elif isinstance(event, ConnectionTerminated):
            for stream_id in list(self.waiting):
                self.fail(stream_id, f"connection closed: {event.reason_phrase}")
        for h3_event in self.http.handle_event(event):
            self.take(h3_event)

    def take(self, event):
        if not isinstance(event, (HeadersReceived, DataReceived)) or event.stream_id not in self.answers:
            return
        answer = self.answers[event.stream_id]
        if isinstance(event, HeadersReceived):
            fields = {name.decode(): value.decode() for name, value in event.headers}
            answer.status = int(fields.pop(":status"))
            answer.fields = fields
        else:
            answer.body += event.data
        if event.stream_ended:
            self.waiting.pop(event.stream_id).set_result(self.answers.pop(event.stream_id))

    def fail(self, stream_id, reason):
        self.answers.pop(stream_id, None)
        waiting = self.waiting.pop(stream_id, None)
        if waiting is not None and not waiting.done():
            waiting.set_exception(ConnectionError(reason))

    async def request(self, method, path, fields=(), body=b""):
        """Sends a request and waits for its whole answer."""
        stream_id = self._quic.get_next_available_stream_id()
        self.answers[stream_id] = Answer()
        done = self.waiting[stream_id] = self._loop.create_future()
        head = [(":method", method), (":scheme", "https"), (":authority", SERVER_NAME), (":path", path), *fields]
        lines = [(name.encode(), value.encode()) for name, value in head]
        self.http.send_headers(stream_id, lines, end_stream=not body)
        if body:
            self.http.send_data(stream_id, body, end_stream=True)
        self.transmit()
        return await asyncio.wait_for(done, TIMEOUT_S)


class Session:
    """A client that shows an API key."""

    def __init__(self, client, key):
        self.client = client
        self.bearer = ("authorization", f"Bearer {key}")

    async def get(self, path, *fields):
        return await self.client.request("GET", path, [self.bearer, *fields])

    async def command(self, text, mode="sync", *fields):
        body = json.dumps({"command": text, "mode": mode}).encode()
        head = [self.bearer, ("content-type", "application/json"), ("content-length", str(len(body))), *fields]
        return await self.client.request("POST", "/api/v1/command", head, body)


async def scenarios(session):
    """Everything over one connection; gives what came of each scenario."""
    report = {}
    found = await session.command("Find the mail from Anna about the budget")
    report["command"] = found.report()

    accepted = await session.command("tell Anna that the figures are ready", "async")
    report["accepted"] = accepted.report()
    polled = await session.get(accepted.fields["location"], ("prefer", "wait=30"))
    report["polled"] = polled.report()

    # Below the limit of 16 KiB, and above it.
    for name, length in [("big_header", 12_000), ("too_big_header", 20_000)]:
        report[name] = (await session.get("/livez", ("x-big", "b" * length))).report()

    task = f"/api/v1/tasks/{found.report()['body']['id']}"
    paths = [task, "/livez", "/readyz", "/nowhere"] * 5
    answers = await asyncio.gather(*(session.get(path) for path in paths))
    report["parallel"] = [{"path": path, **answer.report()} for path, answer in zip(paths, answers)]

    # Not HEAD: aioquic takes the content-length of its answer for that of a body which then does not come.
    report["options"] = (await session.client.request("OPTIONS", "/api/v1/command")).report()
    report["no_key"] = (await session.client.request("GET", task)).report()
    return report


def configuration(ca):
    config = QuicConfiguration(is_client=True, alpn_protocols=H3_ALPN, server_name=SERVER_NAME)
    config.verify_mode = ssl.CERT_REQUIRED
    if ca is not None:
        config.load_verify_locations(cafile=ca)
    return config


async def refused(arguments, ca):
    """Why no connection comes about when another authority is trusted; null when one does."""
    try:
        async with connect(
            arguments.host, arguments.port, configuration=configuration(ca), create_protocol=Client
        ) as client:
            await client.request("GET", "/livez")
    except (ConnectionError, asyncio.TimeoutError) as error:
        return f"{type(error).__name__}: {error}"
    return None


async def main(arguments):
    async with connect(
        arguments.host, arguments.port, configuration=configuration(arguments.ca), create_protocol=Client
    ) as client:
        report = await scenarios(Session(client, arguments.key))
    report["wrong_authority"] = await refused(arguments, arguments.wrong_ca)
    json.dump(report, sys.stdout)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--ca", required=True, help="authority to trust (PEM)")
    parser.add_argument("--wrong-ca", required=True, help="authority that did not sign the gateway's certificate")
    parser.add_argument("--key", required=True, help="API key")
    asyncio.run(asyncio.wait_for(main(parser.parse_args()), 3 * TIMEOUT_S))
