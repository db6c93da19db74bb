"""Drives the simulator's OpenAI side with OpenAI's own client.

    openai_client.py URL

Prints what was seen as JSON.
"""

import json
import sys
import urllib.request

import openai

URL = sys.argv[1].rstrip("/")
SCHEMA = {
    "type": "object", "additionalProperties": False, "required": ["decision", "reason", "steps"],
    "properties": {
        "decision": {"type": "string", "enum": ["act", "decline"]}, "reason": {"type": ["string", "null"]},
        "steps": {"type": "array", "items": {"type": "object", "additionalProperties": False, "properties": {}, "required": []}},
    },
}


def plan(text):
    request = urllib.request.Request(URL + "/_sim/plan", text.encode(), method="POST")
    urllib.request.urlopen(request).read()


def refusal_of(call):
    try:
        call()
    except openai.APIStatusError as error:
        return error
    raise AssertionError("it was not refused")


def main():
    client = openai.OpenAI(base_url=URL + "/v1", api_key="sk-test", max_retries=0)
    assert [model.id for model in client.models.list()]

    said = client.responses.create(model="gpt-5-mini", input="Good day", store=False)
    assert said.output_text == "You said: Good day" and said.usage.total_tokens > 0
    strict = {"format": {"type": "json_schema", "name": "plan", "schema": SCHEMA, "strict": True}}
    declined = client.responses.create(model="gpt-5-mini", input="play some jazz", text=strict)
    assert json.loads(declined.output_text)["decision"] == "decline"

    events = list(client.responses.create(model="gpt-5-mini", input="Tell me something long", stream=True))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert events[0].type == "response.created" and events[-1].type == "response.completed"
    text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert text == events[-1].response.output_text == "You said: Tell me something long"
    with client.responses.stream(model="gpt-5-mini", input="play some jazz", text=strict) as stream:
        assert json.loads(stream.get_final_response().output_text)["decision"] == "decline"

    refused = client.responses.create(model="gpt-5-mini", input="!refuse")
    assert refused.output[0].content[0].type == "refusal"
    kinds = {event.type for event in client.responses.create(model="gpt-5-mini", input="!refuse", stream=True)}
    assert "response.refusal.done" in kinds
    last = list(client.responses.create(model="gpt-5-mini", input="!incomplete", stream=True))[-1]
    assert last.type == "response.incomplete" and last.response.incomplete_details.reason == "max_output_tokens"

    messages = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Good day"}]
    chat = client.chat.completions.create(model="gpt-5-mini", messages=messages)
    assert chat.choices[0].message.content == "You said: Good day" and chat.choices[0].finish_reason == "stop"
    chunks = list(client.chat.completions.create(model="gpt-5-mini", messages=messages, stream=True, stream_options={"include_usage": True}))
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == "You said: Good day"
    assert chunks[-1].usage.total_tokens == chat.usage.total_tokens

    unknown = refusal_of(lambda: client.responses.create(model="gpt-5-mini", input="x", extra_body={"colour": 1}))
    assert isinstance(unknown, openai.BadRequestError) and unknown.code == "unknown_parameter"
    stranger = openai.OpenAI(base_url=URL + "/v1", api_key="pk-1", max_retries=0)
    assert isinstance(refusal_of(lambda: stranger.responses.create(model="m", input="x")), openai.AuthenticationError)

    answer = client.responses.with_raw_response.create(model="gpt-5-mini", input="x")
    limits = {name: answer.headers["x-ratelimit-" + name] for name in ("limit-requests", "remaining-tokens", "reset-requests")}

    plan("[openai]\nrequests_per_minute = 3\n")
    seen = [refusal_of(lambda: [client.responses.create(model="gpt-5-mini", input="x") for _ in range(5)])]
    assert isinstance(seen[0], openai.RateLimitError) and seen[0].code == "rate_limit_exceeded"
    assert int(seen[0].response.headers["retry-after-ms"]) > 0 and seen[0].response.headers["x-ratelimit-limit-requests"] == "3"
    plan("[openai]\ncredit_tokens = 1\n")
    seen.append(refusal_of(lambda: client.responses.create(model="gpt-5-mini", input="x")))
    assert seen[1].code == "insufficient_quota" and "retry-after" not in seen[1].response.headers

    plan("[openai]\nrefusal_rate = 1.0\n")
    assert client.responses.create(model="gpt-5-mini", input="x").output[0].content[0].type == "refusal"
    # A stream that breaks off.
    plan('[[fault]]\nservice = "openai"\nkind = "cut"\nevents = 4\ncount = 1\n')
    count = 0
    try:
        for _ in client.responses.create(model="gpt-5-mini", input="x", stream=True):
            count += 1
        raise AssertionError("the stream ended as if it were whole")
    except Exception as error:
        assert not isinstance(error, AssertionError), error
    plan("")
    print(json.dumps({"events": len(events), "cut_after": count, "limits": limits}))


if __name__ == "__main__":
    main()
