"""What each of the clients in this directory is asked to do, and how it tells what came of it.

A client gives a coroutine that sends one request; everything else is the same for all, so that the test can judge them
alike. Nothing is judged here.
"""

import argparse
import asyncio
import json
import sys
from dataclasses import dataclass

# Far longer than anything takes; only so that a hang is a failure.
TIMEOUT_S = 90
# Beyond one packet, one flow-control window's first update and one HTTP/3 frame of most senders; the gateway takes 64 KiB.
LARGE_BYTES = 60_000
TOO_LARGE_BYTES = 80_000
# A client that learns of HTTP/3 takes a moment to try it, and may take what connects first: how often it is asked at most, and
# how many answers over HTTP/3 are enough.
MOVE_REQUESTS_MAX = 200
MOVE_PAUSE_S = 0.1
MOVED_COUNT = 6
PARALLEL_PATHS = ["/livez", "/readyz", "/nowhere", "/api/v1/sessions/ses_00000000000000000000000000"] * 5


@dataclass
class Answer:
    """An answer with the version of HTTP it came by, as the client itself tells it ("h3")."""

    protocol: str
    status: int
    fields: dict
    body: bytes

    def report(self):
        try:
            body = json.loads(self.body)
        except ValueError:
            body = self.body.decode("utf-8", "replace")
        fields = {name.lower(): value for name, value in self.fields.items()}
        return {"protocol": self.protocol, "status": self.status, "fields": fields, "body": body}


def arguments():
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--ca", required=True, help="authority to trust (PEM)")
    parser.add_argument("--certificate", required=True, help="the gateway's certificate (PEM)")
    parser.add_argument("--key", required=True, help="API key")
    parser.add_argument("--move", action="store_true", help="be told nothing, and move to HTTP/3 by Alt-Svc")
    return parser.parse_args()


async def run(key, request):
    """Everything, with `request(method, path, fields, body)`."""
    bearer = {"authorization": f"Bearer {key}"}

    async def get(path):
        return (await request("GET", path, bearer, None)).report()

    async def command(text, length=0):
        """Blanks between the tokens of JSON mean nothing; they make the body as long as wanted."""
        body = json.dumps({"command": text, "mode": "sync"}).encode()
        body = body[:-1] + b" " * (length - len(body)) + body[-1:]
        fields = {**bearer, "content-type": "application/json"}
        return (await request("POST", "/api/v1/command", fields, body)).report()

    return {
        "get": await get("/livez"),
        "command": await command("Find the mail from Anna about the budget"),
        "large": await command("Find the mail from Anna about the budget", LARGE_BYTES),
        "too_large": await command("Find the mail", TOO_LARGE_BYTES),
        "parallel": [
            {"path": path, **answer}
            for path, answer in zip(PARALLEL_PATHS, await asyncio.gather(*map(get, PARALLEL_PATHS)))
        ],
        "no_key": (await request("GET", "/api/v1/tasks/tsk_00000000000000000000000000", {}, None)).report(),
    }


async def move(request):
    """Asks one thing again and again, until enough answers came over HTTP/3."""
    answers = []
    while len(answers) < MOVE_REQUESTS_MAX and sum(a["protocol"] == "h3" for a in answers) < MOVED_COUNT:
        if answers and answers[-1]["protocol"] != "h3":
            await asyncio.sleep(MOVE_PAUSE_S)
        answers.append((await request("GET", "/livez", {}, None)).report())
    return {"answers": answers}


def tell(main):
    """Runs a client's `main()` and prints its report."""
    json.dump(asyncio.run(asyncio.wait_for(main, TIMEOUT_S)), sys.stdout)
