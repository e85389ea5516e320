"""The official Ollama library for Python against keytide. Prints one JSON line: what each case gave."""

import asyncio
import json
import sys

import ollama

URL, TOKEN = sys.argv[1:3]
MODEL = "demo-small"
MESSAGES = [{"role": "user", "content": "How high is the tide?"}]


def tide_at(place: str, days: int) -> str:
    """The tide at a place.

    Args:
      place: Where.
      days: How many days from now.
    """
    return f"{place} {days}"


def settings(provider="", token=TOKEN):
    host = f"{URL}/{provider}" if provider else URL
    return {"host": host, "headers": {"Authorization": f"Bearer {token}"}, "timeout": 30}


def at(provider="", **more):
    return ollama.Client(**settings(provider, **more))


def error(call):
    try:
        call()
    except ollama.ResponseError as problem:
        return [problem.status_code, bool(problem.error)]
    return "no error"


def chat(client, text="How high is the tide?", **more):
    return client.chat(model=MODEL, messages=[{"role": "user", "content": text}], **more)


def chats(client):
    whole = chat(client)
    parts = list(chat(client, stream=True))
    return {
        "done": whole.done_reason,
        "words_are_tokens": len(whole.message.content.split()) == whole.eval_count,
        "same_text": "".join(part.message.content for part in parts) == whole.message.content,
        "same_tokens": parts[-1].eval_count == whole.eval_count,
        "in_pieces": len(parts) > 5,
    }


def generates(client):
    whole = client.generate(model=MODEL, prompt="low tide")
    parts = client.generate(model=MODEL, prompt="low tide", stream=True)
    return {"same_text": "".join(part.response for part in parts) == whole.response, "done": whole.done}


def tools(client):
    def call_of(answers):
        calls = [call for answer in answers for call in answer.message.tool_calls or []]
        return [calls[0].function.name, dict(calls[0].function.arguments)]

    return {
        "whole": call_of([chat(client, tools=[tide_at])]),
        "streamed": call_of(chat(client, tools=[tide_at], stream=True)),
    }


def embeds(client):
    many = client.embed(model="demo-embed", input=["low tide", "high tide"])
    one = client.embeddings(model="demo-embed", prompt="low tide")
    return {"count": len(many.embeddings), "same": list(one.embedding) == list(many.embeddings[0])}


def lists(client):
    return {
        "models": [model.model for model in client.list().models],
        "capabilities": client.show("demo-small").capabilities,
    }


async def asynchronous():
    client = ollama.AsyncClient(**settings("ollama"))
    answers = await asyncio.gather(*(chat(client) for _ in range(16)))
    text = "".join([part.message.content async for part in await chat(client, stream=True)])
    try:
        await chat(client, "[[404]]")
        missing = "no error"
    except ollama.ResponseError as problem:
        missing = problem.status_code
    return {"same_text": {answer.message.content for answer in answers} == {text}, "missing": missing}


def x_api_key():
    client = ollama.Client(host=URL, headers={"x-api-key": TOKEN}, timeout=30)
    return chat(client).done_reason


def errors(client):
    return {
        "token": error(lambda: chat(at(token="sk-wrong-0123456789"))),
        "model": error(lambda: chat(at(token="sk-narrow-0123456789"))),
        "upstream": [error(lambda: chat(client, f"[[{code}]]")) for code in (400, 404, 413, 422)],
        "upstream_stream": error(lambda: list(chat(client, "[[404]]", stream=True))),
        "path": error(lambda: client.pull("demo-small")),
        "limited": error(lambda: chat(at("limited"))),
        "no_keys": error(lambda: chat(at("empty"))),
        "dead_keys": error(lambda: chat(at("dead"))),
        "failing": error(lambda: chat(at("failing"))),
        "hidden": error(lambda: chat(at("hidden"))),
    }


def breaks(provider):
    seen = 0
    try:
        for _ in chat(at(provider), stream=True):
            seen += 1
    except ollama.ResponseError as problem:
        return [seen > 0, isinstance(problem.error, str)]
    return ["no error"]


def main():
    client = at()
    print(
        json.dumps({
            "lists": lists(client),
            "chats": chats(client),
            "generates": generates(client),
            "tools": tools(client),
            "embeds": embeds(client),
            "async": asyncio.run(asynchronous()),
            "x_api_key": x_api_key(),
            "errors": errors(client),
            "broken": breaks("breaking"),
            "late": breaks("late"),
        })
    )


main()
