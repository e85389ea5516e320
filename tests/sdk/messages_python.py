"""Anthropic's API, as its clients speak it, against keytide. Prints one JSON line: what each case gave."""

import json
import sys

import httpx

URL, TOKEN = sys.argv[1:3]
HEADERS = {"x-api-key": TOKEN, "anthropic-version": "2023-06-01"}
TOOL = {
    "name": "tide_at",
    "input_schema": {"type": "object", "properties": {"place": {"type": "string"}}},
}


def body(text="How high is the tide?", **more):
    return {
        "model": "demo-small",
        "max_tokens": 100,
        "messages": [{"role": "user", "content": text}],
        **more,
    }


def post(content, provider="", headers=HEADERS):
    path = f"/{provider}/v1/messages" if provider else "/v1/messages"
    return httpx.post(URL + path, headers=headers, json=content, timeout=30)


def events(content, provider=""):
    path = f"/{provider}/v1/messages" if provider else "/v1/messages"
    found = []
    with httpx.stream("POST", URL + path, headers=HEADERS, json=content, timeout=30) as answer:
        kind = None
        for line in answer.iter_lines():
            field, _, value = line.partition(": ")
            if field == "event":
                kind = value
            elif field == "data":
                data = json.loads(value)
                assert data["type"] == kind, line
                found.append(data)
    return found


def whole():
    answer = post(body()).json()
    text = answer["content"][0]["text"]
    streamed = events(body(stream=True))
    deltas = "".join(
        event["delta"]["text"] for event in streamed if event["type"] == "content_block_delta"
    )
    return {
        "stop": answer["stop_reason"],
        "words_are_tokens": len(text.split()) == answer["usage"]["output_tokens"],
        "same_text": deltas == text,
        "ends": streamed[-1]["type"],
    }


def tools():
    call = post(body(tools=[TOOL])).json()["content"][0]
    parts = [
        event["delta"]["partial_json"]
        for event in events(body(tools=[TOOL], stream=True))
        if event["type"] == "content_block_delta"
    ]
    return [call["name"], call["input"], json.loads("".join(parts))]


def refused(answer):
    return [answer.status_code, bool(answer.json()["error"]["type"]), bool(answer.json()["error"]["message"])]


def main():
    print(
        json.dumps({
            "whole": whole(),
            "tools": tools(),
            "bearer": post(body(), headers={"authorization": f"Bearer {TOKEN}"}).status_code,
            "token": refused(post(body(), headers={**HEADERS, "x-api-key": "sk-wrong-0123456789"})),
            "upstream": refused(post(body("[[400]]"))),
            "no_keys": refused(post(body(), "empty")),
            "failing": refused(post(body(), "failing")),
            "broken": [event["type"] for event in events(body(stream=True), "breaking")][-1],
            "late": [event["type"] for event in events(body(stream=True), "late")][-1],
        })
    )


main()
