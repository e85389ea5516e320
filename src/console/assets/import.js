// A file goes to the control API in pieces of whole lines, however large it is, and every line that is not understood
// is told. What was imported stays when the connection breaks; sending the file again adds nothing twice.

import { maySend } from "./base.js";

const form = document.getElementById("import");
const input = document.getElementById("file");
const output = document.getElementById("progress");
// Bytes. Proxies take a megabyte by default, header and all.
const PIECE = 1 << 18;
const LONGEST_LINE = 1_000_000;
const MOST_LINES = 1000;
const [LF, CR] = [10, 13];

document.getElementById("choose-file").hidden = false;

const FORMATS = { csv: "csv", json: "json", ndjson: "ndjson", jsonl: "ndjson" };
const formatOf = (name) => FORMATS[name.split(".").pop().toLowerCase()] ?? "text";

// An error that is said as it stands.
class Said extends Error {}

// A list's elements as JSON, in pieces of about so many bytes, each with the number of elements before it.
function* partsOf(list, words) {
  const encoder = new TextEncoder();
  let [parts, size, from] = [[], 0, 0];
  for (let at = 0; at < list.length; at++) {
    const part = JSON.stringify(list[at]);
    const own = encoder.encode(part).length;
    if (own > LONGEST_LINE) throw new Said(`${words.longLine} ${at + 1}`);
    if (parts.length && size + own > PIECE) {
      yield { parts, from };
      [parts, size, from] = [[], 0, at];
    }
    parts.push(part);
    size += own + 1;
  }
  if (parts.length) yield { parts, from };
}

async function* piecesOfJson(file, words) {
  let whole;
  try {
    whole = JSON.parse(await file.text());
  } catch {
    throw new Said(words.badJson);
  }
  const keys = Array.isArray(whole) ? whole : whole?.keys;
  if (!Array.isArray(keys)) throw new Said(words.badJson);
  const others = Array.isArray(whole) ? {} : { ...whole, keys: undefined };
  const rest = JSON.stringify(others).slice(1, -1);
  for (const { parts, from } of partsOf(keys, words)) {
    const body = `{${rest}${rest && ","}"keys":[${parts.join(",")}]}`;
    yield { body, before: from, done: (from + parts.length) / keys.length };
  }
}

// Where the last whole line ends: a \r at the very end may be half of an end.
function endOfLines(bytes) {
  let at = bytes.length - 1;
  while (at >= 0 && bytes[at] !== LF && (bytes[at] !== CR || at + 1 === bytes.length)) at--;
  return at + 1;
}

function countLines(bytes) {
  let count = 0;
  for (let at = 0; at < bytes.length; at++) {
    if (bytes[at] === LF || (bytes[at] === CR && bytes[at + 1] !== LF)) count++;
  }
  return count;
}

// The line that names the columns, to stand before every piece; empty where the first line is a key already.
function headerOf(bytes) {
  const lines = new TextDecoder().decode(bytes).split(/\r\n|\r|\n/);
  const first = lines.find((line) => line.trim() && !line.trim().startsWith("#"));
  if (first === undefined) return null;
  const cells = first.split(",").map((cell) => cell.trim().replace(/^"(.*)"$/, "$1").toLowerCase());
  return cells.includes("key") ? `${first}\n` : "";
}

// A field of CSV never goes on over the end of a line: the API reads every line for itself.
async function* piecesOfLines(file, format, words) {
  let [before, header] = [0, format === "csv" ? null : ""];
  for (let from = 0; from < file.size; ) {
    let [bytes, cut] = [null, 0];
    for (const size of [PIECE, LONGEST_LINE]) {
      bytes = new Uint8Array(await file.slice(from, from + size).arrayBuffer());
      cut = from + bytes.length >= file.size ? bytes.length : endOfLines(bytes);
      if (cut) break;
    }
    if (!cut) throw new Said(`${words.longLine} ${before + 1}`);
    const piece = bytes.subarray(0, cut);
    from += cut;
    yield { body: new Blob([header ?? "", piece]), before: header ? before - 1 : before, done: from / file.size };
    header ??= headerOf(piece);
    before += countLines(piece);
  }
}

// Pieces of whole lines, each with the number of the lines before it.
export const piecesOf = (file, format, words) =>
  format === "json" ? piecesOfJson(file, words) : piecesOfLines(file, format, words);

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
  const words = form.dataset;
  const ofCodes = JSON.parse(words.ofCodes);
  const inWords = (error) => error && (ofCodes[error.code] ?? error.message);
  const button = form.querySelector("button");
  button.disabled = true;
  if (!(await maySend(form))) return void (button.disabled = false);
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
    for await (const { body, before, done } of piecesOf(file, format, words)) {
      const query = new URLSearchParams({ format, provider: form.elements.provider.value });
      const answer = await fetch(`/admin/api-keys/import?${query}`, {
        method: "POST",
        headers: { "x-csrf-token": form.elements.csrf.value },
        body,
      });
      const report = await answer.json().catch(() => null);
      // It has ended between two pieces: the way in stands beside the reason.
      if (answer.status === 401) await maySend(form);
      if (!answer.ok || !report) throw new Said(inWords(report?.error) ?? `${words.noAnswer} (${answer.status})`);
      for (const name of Object.keys(sum)) sum[name] += report[name];
      for (const line of report.invalid_lines) {
        if (rows.rows.length >= MOST_LINES) break;
        const row = rows.insertRow();
        row.append(element("td", line.line + before, "number"), element("td", line.key, "mono"), element("td", inWords({ code: line.code, message: line.reason })));
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
