// The official OpenAI library for Node against keytide. Prints one JSON line: what each case gave.

import { pathToFileURL } from "node:url";
import { join } from "node:path";

const [url, token] = process.argv.slice(2);
const library = join(process.env.SDK_NODE_MODULES, "openai", "index.mjs");
const { default: OpenAI } = await import(pathToFileURL(library));

const model = "demo-small";
const messages = [{ role: "user", content: "How high is the tide?" }];
const tool = {
    name: "tide_at",
    description: "The tide at a place.",
    parameters: {
        type: "object",
        properties: { place: { type: "string" }, days: { type: "integer" } },
    },
};
const tools = [{ type: "function", function: tool }];

const at = (provider = "", more = {}) =>
    new OpenAI({
        baseURL: url + (provider ? `/${provider}/v1` : "/v1"),
        apiKey: token,
        maxRetries: 0,
        timeout: 30_000,
        ...more,
    });
const ask = (content) => [{ role: "user", content }];
const chat = (client, more = {}) => client.chat.completions.create({ model, messages, ...more });

async function all(stream) {
    const parts = [];
    for await (const part of stream) parts.push(part);
    return parts;
}

const textOf = (chunks) => chunks.map((chunk) => chunk.choices[0]?.delta.content ?? "").join("");

// The library's exception and what it tells: "NotFoundError 404 unknown_path".
async function error(call) {
    try {
        await call();
    } catch (problem) {
        if (!(problem instanceof OpenAI.APIError)) throw problem;
        if (!problem.error?.message || !problem.requestID) throw new Error(`says too little: ${problem}`);
        const retry = problem.headers.get("retry-after");
        const told = `${problem.constructor.name} ${problem.status} ${problem.code}`;
        return retry ? `${told}, again after ${retry} s` : told;
    }
    return "no error";
}

async function models(client) {
    const one = await client.models.retrieve("demo/tools");
    return { listed: (await all(client.models.list())).map((entry) => entry.id), one: [one.id, one.object] };
}

async function whole(client) {
    const answer = await chat(client);
    const text = answer.choices[0].message.content;
    const chunks = await all(await chat(client, { stream: true, stream_options: { include_usage: true } }));
    const helper = client.chat.completions.stream({ model, messages });
    return {
        finish: answer.choices[0].finish_reason,
        words_are_tokens: text.split(" ").length === answer.usage.completion_tokens,
        same_text: textOf(chunks) === text && (await helper.finalContent()) === text,
        same_tokens: chunks.at(-1).usage.completion_tokens === answer.usage.completion_tokens,
        request_id: Boolean(answer._request_id),
    };
}

async function toolCalls(client) {
    const call = (await chat(client, { tools })).choices[0].message.tool_calls[0].function;
    const helper = client.chat.completions.stream({ model, messages, tools });
    const streamed = (await helper.finalMessage()).tool_calls[0].function;
    return {
        whole: [call.name, JSON.parse(call.arguments)],
        streamed: [streamed.name, JSON.parse(streamed.arguments)],
    };
}

async function embeddings(client) {
    const input = ["low tide", "high tide"];
    const packed = await client.embeddings.create({ model: "demo-embed", input });
    const plain = await client.embeddings.create({ model: "demo-embed", input, encoding_format: "float" });
    const near = packed.data.every((entry, at) =>
        entry.embedding.every((x, i) => Math.abs(x - plain.data[at].embedding[i]) < 1e-6),
    );
    return { count: packed.data.length, dimensions: packed.data[0].embedding.length, same: near };
}

async function responses(client) {
    const whole = await client.responses.create({ model, input: "low tide" });
    const events = await all(await client.responses.create({ model, input: "low tide", stream: true }));
    const deltas = events.filter((event) => event.type === "response.output_text.delta");
    return {
        status: whole.status,
        same_text: deltas.map((event) => event.delta).join("") === whole.output_text,
        ends: events.at(-1).type,
    };
}

async function breaks(provider, make) {
    let seen = 0;
    try {
        for await (const _ of await make(at(provider))) seen += 1;
    } catch (problem) {
        if (!(problem instanceof OpenAI.APIError)) throw problem;
        return `${problem.constructor.name} ${problem.code} after ${seen}`;
    }
    return `no error after ${seen}`;
}

async function errors() {
    const client = at();
    const upstream = [];
    for (const code of [400, 404, 409, 422]) {
        upstream.push(await error(() => chat(client, { messages: ask(`[[${code}]]`) })));
    }
    return {
        token: await error(() => chat(at("", { apiKey: "sk-wrong-0123456789" }))),
        model: await error(() => chat(at("", { apiKey: "sk-narrow-0123456789" }))),
        retrieve: await error(() => client.models.retrieve("no-such-model")),
        too_large: await error(() => chat(client, { messages: ask("x".repeat(3_000_000)) })),
        upstream,
        no_keys: await error(() => chat(at("empty"))),
        dead_keys: await error(() => chat(at("dead"))),
        failing: await error(() => chat(at("failing"))),
        hidden: await error(() => chat(at("hidden"))),
    };
}

async function rateLimits() {
    const refused = await error(() => chat(at("limited")));
    // The library waits as long as it is told, by itself.
    const retried = await chat(at("retrying", { maxRetries: 2 }));
    return { refused, retried: retried.choices[0].finish_reason };
}

async function leavesEarly() {
    const stream = await chat(at("stalling"), { stream: true });
    for await (const _ of stream) break;
    return "left";
}

const client = at();
const byKey = at("openrouter", { defaultHeaders: { Authorization: null, "x-api-key": token } });
const together = await Promise.all(Array.from({ length: 16 }, () => chat(byKey)));
console.log(
    JSON.stringify({
        models: await models(client),
        whole: await whole(client),
        tools: await toolCalls(client),
        embeddings: await embeddings(client),
        responses: await responses(client),
        x_api_key: new Set(together.map((answer) => answer.choices[0].message.content)).size,
        errors: await errors(),
        rate_limits: await rateLimits(),
        broken: await breaks("breaking", (client) => chat(client, { stream: true })),
        broken_responses: await breaks("breaking", (client) =>
            client.responses.create({ model, input: "low tide", stream: true }),
        ),
        late: await breaks("late", (client) => chat(client, { stream: true })),
        leaves: await leavesEarly(),
    }),
);
