// The answer as it is written, and samples that follow what is typed.

const form = document.getElementById("ask");
const answer = document.getElementById("answer");
const took = document.getElementById("took");
const stop = document.getElementById("stop");
const fields = form.elements;

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

// Server-sent events, of which only the lines with data matter here.
async function* dataOf(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const lines = (rest + value).split(/\r?\n/);
    rest = lines.pop();
    for (const line of lines) {
      if (line.startsWith("data:") && line.slice(5).trim() !== "[DONE]") yield JSON.parse(line.slice(5));
    }
  }
}

function complain(text) {
  const news = document.createElement("p");
  news.className = "news bad";
  news.textContent = text;
  answer.append(news);
}

// The models that the chosen token may use; those that were asked before are there in any case.
async function learn() {
  const query = new URLSearchParams({ provider: fields.provider.value, token: fields.token.value });
  const reply = await fetch(`/admin/playground/models?${query}`).catch(() => null);
  if (!reply?.ok) return;
  const { data } = await reply.json();
  const options = data.map(({ id }) => Object.assign(document.createElement("option"), { value: id }));
  document.getElementById("models").replaceChildren(...options);
  if (!fields.model.value && data.length) {
    fields.model.value = data[0].id;
    fill();
  }
}

fields.token.addEventListener("change", learn);
learn();
form.addEventListener("input", fill);
fill();

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  setTimeout(() => delete form.dataset.busy);
  const button = form.querySelector("button[type=submit]");
  const control = new AbortController();
  const begun = performance.now();
  stop.onclick = () => control.abort();
  button.disabled = true;
  stop.hidden = false;
  answer.replaceChildren();
  took.textContent = "";
  try {
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
      const said = await reply.json().catch(() => null);
      complain(said?.error?.message ?? form.dataset.noAnswer);
      return;
    }
    for await (const part of dataOf(reply.body)) {
      if (part.error) complain(part.error.message ?? form.dataset.noAnswer);
      answer.append(part.choices?.[0]?.delta?.content ?? "");
    }
    took.textContent = `${form.dataset.took} ${((performance.now() - begun) / 1000).toFixed(1)} s`;
  } catch (error) {
    if (error.name !== "AbortError") complain(form.dataset.noAnswer);
  } finally {
    button.disabled = false;
    stop.hidden = true;
  }
});
