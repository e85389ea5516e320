// The answer as it is written, and samples that follow what is typed.

import { SHORT, maySend, reasons } from "./base.js";

const form = document.getElementById("ask");
const answer = document.getElementById("answer");
const took = document.getElementById("took");
const stop = document.getElementById("stop");
const fields = form.elements;
const ofCodes = JSON.parse(form.dataset.ofCodes);
// Of what comes within an answer: other codes there are the provider's own.
const ofStreams = JSON.parse(form.dataset.ofStreams);

function messages() {
  const system = fields.system.value.trim();
  const list = [{ role: "user", content: fields.message.value }];
  return system ? [{ role: "system", content: system }, ...list] : list;
}

function fill() {
  const model = fields.model.value;
  const body = JSON.stringify({ model, messages: messages(), stream: true }).replaceAll("'", "'\\''");
  const parts = { MODEL: JSON.stringify(model), MESSAGES: JSON.stringify(messages()), BODY: body };
  for (const sample of document.querySelectorAll("[data-template]")) {
    const url = location.origin + sample.dataset.path;
    sample.textContent = sample.dataset.template.replace(/%(URL|MODEL|MESSAGES|BODY)%/g, (_, name) => parts[name] ?? url);
  }
}

// As they come; the last need not end.
async function* linesOf(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (let ended = false; !ended; ) {
    const { value, done } = await reader.read();
    ended = done;
    const lines = (rest + (value ?? "")).split(/\r?\n/);
    rest = ended ? "" : lines.pop();
    yield* lines;
  }
}

function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

// By what the lines are, for providers call them what they like: events with data, or JSON, a part in each line or one
// answer over many.
async function* partsOf(stream) {
  const open = [];
  for await (const line of linesOf(stream)) {
    const data = line.startsWith("data:") ? line.slice(5).trim() : null;
    if (open.length) open.push(line);
    else if (data !== null && data !== "[DONE]") yield JSON.parse(data);
    else if (line.trimStart().startsWith("{")) {
      const part = parsed(line);
      if (part) yield part;
      else open.push(line);
    }
  }
  if (open.length) yield JSON.parse(open.join("\n"));
}

// What the model says to itself stands apart from what it answers.
function write(part) {
  const choice = part.choices?.[0];
  const said = choice?.delta ?? choice?.message;
  const thought = said?.reasoning_content ?? said?.reasoning;
  if (thought) {
    if (!answer.querySelector(".thought")) {
      answer.prepend(Object.assign(document.createElement("span"), { className: "thought faint" }));
    }
    answer.querySelector(".thought").append(thought);
  }
  answer.append(said?.content ?? "");
}

function complain(...words) {
  const news = Object.assign(document.createElement("div"), { className: "news bad" });
  news.append(...words);
  answer.append(news);
}

// A provider refuses in whatever shape it likes.
function refused(status, text) {
  const error = parsed(text)?.error;
  if (error) return complain(...reasons(error, ofCodes));
  if (!text.trim()) return complain(form.dataset.noAnswer);
  complain(...reasons({ code: "refused", message: `${status}: ${text.trim().slice(0, SHORT)}` }, ofCodes));
}

// The models that the chosen token may use; those that were asked before are there in any case. Nobody's token is used
// before somebody has chosen it, or it is the only one.
let asked = 0;

async function learn() {
  const own = ++asked;
  if (!fields.token.value) return;
  const query = new URLSearchParams({ provider: fields.provider.value, token: fields.token.value });
  const reply = await fetch(`/admin/playground/models?${query}`).catch(() => null);
  const list = reply?.ok ? await reply.json().catch(() => null) : null;
  if (own !== asked || !Array.isArray(list?.data)) return;
  const options = list.data.map(({ id }) => Object.assign(document.createElement("option"), { value: id }));
  document.getElementById("models").replaceChildren(...options);
  if (!fields.model.value && options.length) {
    fields.model.value = options[0].value;
    fill();
  }
}

fields.token.addEventListener("change", learn);
learn();
form.addEventListener("input", fill);
fill();

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  const button = form.querySelector("button[type=submit]");
  const control = new AbortController();
  stop.onclick = () => control.abort();
  button.disabled = true;
  try {
    if (!(await maySend(form))) return;
    const begun = performance.now();
    stop.hidden = false;
    answer.replaceChildren();
    took.textContent = "";
    const temperature = parseFloat(fields.temperature.value);
    const query = new URLSearchParams({ provider: fields.provider.value });
    const reply = await fetch(`/admin/playground?${query}`, {
      method: "POST",
      signal: control.signal,
      headers: { "content-type": "application/json", "x-csrf-token": fields.csrf.value },
      body: JSON.stringify({
        token: fields.token.value,
        model: fields.model.value,
        message: fields.message.value,
        system: fields.system.value || null,
        temperature: Number.isNaN(temperature) ? null : temperature,
        stream: true,
      }),
    });
    if (!reply.ok) {
      return refused(reply.status, await reply.text());
    }
    for await (const part of partsOf(reply.body)) {
      if (part.error) complain(...reasons(part.error, ofStreams));
      write(part);
    }
    if (!answer.textContent) return complain(form.dataset.noAnswer);
    took.textContent = `${form.dataset.took} ${((performance.now() - begun) / 1000).toFixed(1)} s`;
  } catch (error) {
    if (error.name !== "AbortError") complain(form.dataset.noAnswer);
  } finally {
    button.disabled = false;
    stop.hidden = true;
  }
});
