"""Checks messages to webhooks, for the test in tests/webhooks.rs, by two implementations that are not ours.

Reads a list of messages from standard input, each with the secrets that must verify it, and prints what came of each:
the official client of OpenAI, whose webhooks are Standard Webhooks, and the standard's own words in Python's library.
"""

import base64
import hashlib
import hmac
import json
import sys

from openai import InvalidWebhookSignatureError, OpenAI


def by_client(secret, fields, body):
    try:
        OpenAI(api_key="none").webhooks.verify_signature(body, fields, secret=secret)
        return True
    except InvalidWebhookSignatureError:
        return False


def by_hand(secret, fields, body):
    key = base64.b64decode(secret.removeprefix("whsec_"))
    signed = f"{fields['webhook-id']}.{fields['webhook-timestamp']}.{body}".encode()
    expected = "v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
    return expected in fields["webhook-signature"].split(" ")


def verdicts(secret, fields, body):
    return [by_client(secret, fields, body), by_hand(secret, fields, body)]


def main():
    report = []
    for message in json.load(sys.stdin):
        fields, body = message["fields"], message["body"]
        other = {**fields, "webhook-id": fields["webhook-id"] + "x"}
        late = {**fields, "webhook-timestamp": str(int(fields["webhook-timestamp"]) + 1)}
        report.append(
            {
                "good": [verdicts(secret, fields, body) for secret in message["secrets"]],
                "bad": [
                    verdicts(secret, *changed)
                    for secret in message["secrets"]
                    for changed in [(fields, body + " "), (other, body), (late, body)]
                ]
                + [verdicts(secret, fields, body) for secret in message["strangers"]],
            }
        )
    json.dump(report, sys.stdout)


if __name__ == "__main__":
    main()
