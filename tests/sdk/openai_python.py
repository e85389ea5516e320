"""The official OpenAI library for Python against keytide. Prints one JSON line: what each case gave."""

import asyncio
import json
import sys

import openai

URL, TOKEN = sys.argv[1:3]
MODEL = "demo-small"
MESSAGES = [{"role": "user", "content": "How high is the tide?"}]
TOOL = {
    "name": "tide_at",
    "description": "The tide at a place.",
    "parameters": {
        "type": "object",
        "properties": {"place": {"type": "string"}, "days": {"type": "integer"}},
        "required": ["place", "days"],
    },
}
TOOLS = [{"type": "function", "function": TOOL}]


def settings(provider="", token=TOKEN, retries=0, **more):
    path = f"/{provider}/v1" if provider else "/v1"
    return {"base_url": URL + path, "api_key": token, "max_retries": retries, "timeout": 30, **more}


def at(provider="", **more):
    return openai.OpenAI(**settings(provider, **more))


def ask(text):
    return [{"role": "user", "content": text}]


def chat(client, **more):
    return client.chat.completions.create(**{"model": MODEL, "messages": MESSAGES, **more})


def text_of(stream):
    return "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)


def error(call):
    """The library's exception and what it tells: "NotFoundError 404 unknown_path"."""
    try:
        call()
    except openai.APIStatusError as problem:
        assert problem.body and problem.body["message"], problem
        assert problem.request_id, problem
        retry = problem.response.headers.get("retry-after")
        told = f"{type(problem).__name__} {problem.status_code} {problem.code}"
        return f"{told}, again after {retry} s" if retry else told
    except openai.APIError as problem:
        return f"{type(problem).__name__} {problem.code}"
    return "no error"


def models(client):
    listed = [model.id for model in client.models.list()]
    one = client.models.retrieve("demo/tools")
    return {"listed": listed, "one": [one.id, one.object]}


def whole(client):
    answer = chat(client)
    text, usage = answer.choices[0].message.content, answer.usage
    return {
        "object": answer.object,
        "finish": answer.choices[0].finish_reason,
        "words_are_tokens": len(text.split()) == usage.completion_tokens,
        "prompt_tokens": usage.prompt_tokens,
        "request_id": bool(answer._request_id),
    }


def streamed(client):
    said = chat(client).choices[0].message.content
    chunks = list(chat(client, stream=True))
    with_usage = list(chat(client, stream=True, stream_options={"include_usage": True}))
    with client.chat.completions.stream(model=MODEL, messages=MESSAGES) as stream:
        stream.until_done()
        final = stream.get_final_completion()
    return {
        "same_text": text_of(chunks) == text_of(with_usage) == final.choices[0].message.content == said,
        "in_pieces": len(chunks) > 5,
        "usage": with_usage[-1].usage.prompt_tokens,
        "no_usage": chunks[-1].usage is None,
    }


def tools(client):
    call = chat(client, tools=TOOLS).choices[0].message.tool_calls[0]
    name, arguments, finish = "", "", None
    for chunk in chat(client, tools=TOOLS, stream=True):
        choice = chunk.choices[0]
        finish = choice.finish_reason or finish
        for part in choice.delta.tool_calls or []:
            name += part.function.name or ""
            arguments += part.function.arguments or ""
    result = {"role": "tool", "tool_call_id": call.id, "content": "3 m"}
    told = [*MESSAGES, {"role": "assistant", "tool_calls": [call.to_dict()]}, result]
    answered = chat(client, messages=told, tools=TOOLS)
    return {
        "whole": [call.function.name, json.loads(call.function.arguments)],
        "streamed": [name, json.loads(arguments), finish],
        "answered": answered.choices[0].finish_reason,
    }


def embeddings(client):
    ask = {"model": "demo-embed", "input": ["low tide", "high tide"]}
    packed = client.embeddings.create(**ask)
    plain = client.embeddings.create(**ask, encoding_format="float", dimensions=8)
    near = all(
        abs(x - y) < 1e-6 for a, b in zip(packed.data, plain.data) for x, y in zip(a.embedding, b.embedding)
    )
    return {"count": len(packed.data), "dimensions": len(packed.data[0].embedding), "same": near}


def completions(client):
    whole = client.completions.create(model=MODEL, prompt="low tide", max_tokens=5)
    parts = client.completions.create(model=MODEL, prompt="low tide", max_tokens=5, stream=True)
    streamed = "".join(part.choices[0].text for part in parts)
    return {"finish": whole.choices[0].finish_reason, "same_text": whole.choices[0].text == streamed}


def responses(client):
    whole = client.responses.create(model=MODEL, input="low tide")
    events = list(client.responses.create(model=MODEL, input="low tide", stream=True))
    deltas = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    function = {"type": "function", "strict": False, **TOOL}
    called = client.responses.create(model=MODEL, input="low tide", tools=[function]).output[0]
    return {
        "status": whole.status,
        "same_text": deltas == whole.output_text == events[-1].response.output_text,
        "ends": events[-1].type,
        "tokens": whole.usage.input_tokens,
        "call": [called.type, called.name, json.loads(called.arguments)],
    }


def x_api_key():
    headers = {"Authorization": openai.Omit(), "x-api-key": TOKEN}
    return chat(at(), extra_headers=headers).choices[0].finish_reason


async def asynchronous():
    async with openai.AsyncOpenAI(**settings("openrouter")) as client:
        answers = await asyncio.gather(*(chat(client) for _ in range(16)))
        stream = await chat(client, stream=True)
        text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
        events = await client.responses.create(model=MODEL, input="low tide", stream=True)
        last = [event.type async for event in events][-1]
        try:
            await chat(client, messages=ask("[[400]]"))
            refused = "no error"
        except openai.BadRequestError as problem:
            refused = type(problem).__name__
    same = {answer.choices[0].message.content for answer in answers} == {text}
    return {"same_text": same, "ends": last, "refused": refused}


def breaks(make):
    """A stream that began well: how much of it came, and how it ended."""
    seen = 0
    try:
        for _ in make():
            seen += 1
    except openai.APIError as problem:
        return f"{type(problem).__name__} {problem.code} after {seen}"
    return f"no error after {seen}"


def errors():
    client = at()
    return {
        "token": error(lambda: chat(at(token="sk-wrong-0123456789"))),
        "expired": error(lambda: chat(at(token="sk-old-0123456789"))),
        "model": error(lambda: chat(at(token="sk-narrow-0123456789"))),
        "provider": error(lambda: chat(at("nobody"))),
        "retrieve": error(lambda: client.models.retrieve("no-such-model")),
        "path": error(lambda: client.files.list()),
        "empty_model": error(lambda: chat(client, model="")),
        "too_large": error(lambda: chat(client, messages=ask("x" * 3_000_000))),
        "upstream": [
            error(lambda: chat(client, messages=ask(f"[[{code}]]"))) for code in (400, 404, 409, 413, 415, 422)
        ],
        "token_limit": [
            chat(at(token="sk-once-0123456789")).object,
            error(lambda: chat(at(token="sk-once-0123456789"))).split(", again")[0],
        ],
        "no_keys": error(lambda: chat(at("empty"))),
        "dead_keys": error(lambda: chat(at("dead"))),
        "failing": error(lambda: chat(at("failing"))),
        "hidden": error(lambda: chat(at("hidden"))),
        "hidden_stream": error(lambda: chat(at("hidden"), stream=True)),
    }


def rate_limits():
    refused = error(lambda: chat(at("limited")))
    # The library waits as long as it is told, by itself.
    retried = chat(at("retrying", retries=2)).choices[0].finish_reason
    return {"refused": refused, "retried": retried}


def daily():
    """A limit by the day: the library tells it from others, and does not try again for nothing."""
    client = at(token="sk-daily-0123456789", retries=5)
    first = client.chat.completions.with_raw_response.create(model=MODEL, messages=MESSAGES).headers
    try:
        chat(client)
    except openai.RateLimitError as problem:
        headers = problem.response.headers
        return {
            "first": [first[f"x-ratelimit-{name}-requests"] for name in ("limit", "remaining")],
            "code": problem.code,
            "kind": problem.type,
            "limit": problem.body["limit"],
            "remaining": headers["x-ratelimit-remaining-requests"],
            "reset": headers["x-ratelimit-reset-requests"].endswith("s"),
            "retry_after": int(headers["retry-after"]) > 0,
        }
    return "no error"


def leaves_early():
    with at("stalling") as client:
        stream = chat(client, stream=True)
        next(iter(stream))
        stream.close()
    return "left"


def main():
    client, broken = at(), at("breaking")
    responses_at = lambda client: client.responses.create(model=MODEL, input="low tide", stream=True)
    print(
        json.dumps({
            "models": models(client),
            "whole": whole(client),
            "streamed": streamed(client),
            "tools": tools(client),
            "embeddings": embeddings(client),
            "completions": completions(client),
            "responses": responses(client),
            "by_name": chat(at("ollama")).choices[0].finish_reason,
            "x_api_key": x_api_key(),
            "async": asyncio.run(asynchronous()),
            "errors": errors(),
            "rate_limits": rate_limits(),
            "daily": daily(),
            "broken": breaks(lambda: chat(broken, stream=True)),
            "broken_responses": breaks(lambda: responses_at(broken)),
            "broken_whole": error(lambda: chat(broken)),
            "late": breaks(lambda: chat(at("late"), stream=True)),
            "leaves": leaves_early(),
        })
    )


main()
