// A file goes to the control API in pieces of whole lines, however large it is, and every line that is not understood
// is told. What was imported stays when the connection breaks; sending the file again adds nothing twice.

const form = document.getElementById("import");
const input = document.getElementById("file");
const output = document.getElementById("progress");
// Proxies take a megabyte by default.
const PIECE = 1 << 18;
const LONGEST_LINE = 1 << 20;
const MOST_LINES = 1000;

document.getElementById("choose-file").hidden = false;

const FORMATS = { csv: "csv", json: "json", ndjson: "ndjson", jsonl: "ndjson" };
const formatOf = (name) => FORMATS[name.split(".").pop().toLowerCase()] ?? "text";

// An error that is said as it stands.
class Said extends Error {}

// An array's elements, in pieces of about so many bytes.
function* partsOf(list) {
  let [from, size] = [0, 0];
  for (let at = 0; at < list.length; at++) {
    size += JSON.stringify(list[at])?.length ?? 4;
    if (size >= PIECE || at + 1 === list.length) {
      yield [from, at + 1];
      [from, size] = [at + 1, 0];
    }
  }
}

// Where the last whole line ends; a line of CSV goes on where a quote is open.
function endOfLines(text, format) {
  if (format !== "csv") return text.lastIndexOf("\n") + 1;
  let [end, isOpen] = [0, false];
  for (let at = 0; at < text.length; at++) {
    const letter = text[at];
    if (letter === '"') isOpen = !isOpen;
    else if (letter === "\n" && !isOpen) end = at + 1;
  }
  return end;
}

// Pieces of whole lines, each with the number of the lines before it.
async function* piecesOf(file, format, words) {
  if (format === "json") {
    let whole;
    try {
      whole = JSON.parse(await file.text());
    } catch {
      throw new Said(words.badJson);
    }
    const keys = Array.isArray(whole) ? whole : whole?.keys;
    if (!Array.isArray(keys)) throw new Said(words.badJson);
    for (const [from, to] of partsOf(keys)) {
      const text = JSON.stringify({ ...(Array.isArray(whole) ? {} : whole), keys: keys.slice(from, to) });
      yield { text, before: from, done: to / keys.length };
    }
    return;
  }
  let [rest, before, read, header] = ["", 0, 0, null];
  const reader = file.stream().pipeThrough(new TextDecoderStream()).getReader();
  for (let ended = false; !ended; ) {
    do {
      const { value, done } = await reader.read();
      ended = done;
      rest += value ?? "";
    } while (rest.length < PIECE && !ended);
    // What a browser reads at once may be several pieces.
    for (let more = true; more; ) {
      const some = rest.slice(0, PIECE);
      let cut = ended && rest.length <= PIECE ? rest.length : endOfLines(some, format);
      if (cut === 0 && rest.length > PIECE) cut = endOfLines(rest.slice(0, LONGEST_LINE), format);
      if (cut === 0 && rest.length > LONGEST_LINE) throw new Said(`${words.longLine} ${before + 1}`);
      if (cut === 0 && ended) cut = rest.length;
      const text = rest.slice(0, cut);
      rest = rest.slice(cut);
      read += text.length;
      if (text) {
        const shift = header === null ? 0 : 1;
        yield { text: (header ?? "") + text, before: before - shift, done: read / file.size };
        if (format === "csv" && header === null) header = text.slice(0, text.indexOf("\n") + 1);
      }
      before += text.split("\n").length - 1;
      more = cut > 0 && (rest.length >= PIECE || (ended && rest.length > 0));
    }
  }
}

function element(name, text, classes = "") {
  const one = document.createElement(name);
  one.textContent = text;
  one.className = classes;
  return one;
}

form.addEventListener("submit", async (event) => {
  const [file] = input.files;
  if (!file) return;
  event.preventDefault();
  // The other listener has marked it as sent, which it is not.
  setTimeout(() => delete form.dataset.busy);
  const words = form.dataset;
  const button = form.querySelector("button");
  button.disabled = true;
  const bar = document.createElement("progress");
  bar.max = 1;
  bar.value = 0;
  bar.setAttribute("aria-label", words.progress);
  const status = element("p", "…");
  const table = document.createElement("table");
  const head = table.createTHead().insertRow();
  for (const word of [words.line, words.key, words.why]) head.append(element("th", word));
  const rows = table.createTBody();
  output.replaceChildren(bar, status);
  output.hidden = false;
  const sum = { added: 0, existing: 0, invalid: 0 };
  const tell = (lead) => {
    const parts = Object.entries(sum).map(([name, count]) => `${count.toLocaleString(document.documentElement.lang)} ${words[name]}`);
    status.textContent = `${lead} ${parts.join(", ")}`;
  };
  try {
    const format = formatOf(file.name);
    for await (const { text, before, done } of piecesOf(file, format, words)) {
      const query = new URLSearchParams({ format, provider: form.elements.provider.value });
      const answer = await fetch(`/admin/api-keys/import?${query}`, {
        method: "POST",
        headers: { "x-csrf-token": form.elements.csrf.value },
        body: text,
      });
      const report = await answer.json().catch(() => null);
      if (!answer.ok || !report) throw new Said(report?.error?.message ?? `${words.noAnswer} (${answer.status})`);
      for (const name of Object.keys(sum)) sum[name] += report[name];
      for (const line of report.invalid_lines) {
        if (rows.rows.length >= MOST_LINES) break;
        const row = rows.insertRow();
        row.append(element("td", line.line + before, "number"), element("td", line.key, "mono"), element("td", line.reason));
      }
      if (rows.rows.length && !table.isConnected) {
        const scroll = element("div", "", "scroll");
        scroll.append(table);
        output.append(scroll);
      }
      bar.value = Math.min(done, 1);
      tell(words.progress + ":");
    }
    bar.value = 1;
    tell(words.done);
    input.value = "";
  } catch (error) {
    tell(words.failed);
    output.append(element("p", error instanceof Said ? error.message : words.noAnswer, "news bad"));
  } finally {
    button.disabled = false;
  }
});
