// A file goes to the control API in pieces of whole lines, however large it is, and every line that is not understood
// is told. What was imported stays when the connection breaks; sending the file again adds nothing twice.

import { maySend, reasons } from "./base.js";

const form = document.getElementById("import");
const input = document.getElementById("file");
const output = document.getElementById("progress");
const list = document.getElementById("lines");
// Bytes. Proxies take a megabyte by default, header and all.
const PIECE = 1 << 18;
const LONGEST_LINE = 1_000_000;
const MOST_LINES = 1000;
const [LF, CR] = [10, 13];

document.getElementById("choose-file").hidden = false;

const FORMATS = { csv: "csv", json: "json", ndjson: "ndjson", jsonl: "ndjson" };
const formatOf = (name) => FORMATS[name.split(".").pop().toLowerCase()] ?? "text";

// An error that is said as it stands.
class Said extends Error {
  constructor(...words) {
    super();
    this.words = words;
  }
}

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

// A file may have been moved or changed since it was chosen, or be out of reach.
async function read(part, words, as = "text") {
  try {
    return await part[as]();
  } catch {
    throw new Said(words.unreadable);
  }
}

async function* piecesOfJson(file, words) {
  const text = await read(file, words);
  let whole;
  try {
    whole = JSON.parse(text);
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

// A field of CSV never goes on over the end of a line: the API reads every line for itself.
async function* piecesOfLines(file, words) {
  // So large is a file too that is no longer there.
  if (!file.size) await read(file, words);
  let before = 0;
  for (let from = 0; from < file.size; ) {
    let [bytes, cut] = [null, 0];
    for (const size of [PIECE, LONGEST_LINE]) {
      bytes = new Uint8Array(await read(file.slice(from, from + size), words, "arrayBuffer"));
      cut = from + bytes.length >= file.size ? bytes.length : endOfLines(bytes);
      if (cut) break;
    }
    if (!cut) throw new Said(`${words.longLine} ${before + 1}`);
    const piece = bytes.subarray(0, cut);
    from += cut;
    yield { body: piece, before, done: from / file.size };
    before += countLines(piece);
  }
}

// Pieces of whole lines, each with the number of the lines before it.
const piecesOf = (file, format, words) => (format === "json" ? piecesOfJson(file, words) : piecesOfLines(file, words));

function element(name, content, classes) {
  const one = document.createElement(name);
  one.append(content);
  if (classes) one.className = classes;
  return one;
}

// The first lines of a kind, as the page itself would tell them.
class Lines {
  constructor(kind) {
    this.part = document.getElementById(kind).content.cloneNode(true).firstElementChild;
    this.rows = this.part.querySelector("tbody");
    this.only = this.part.querySelector(".shown");
    this.words = this.only.textContent;
  }

  add(line, key, ...why) {
    if (this.rows.rows.length >= MOST_LINES) return;
    const cells = [element("td", line, "number"), element("td", element("bdi", key), "mono"), ...why.map((one) => element("td", one))];
    this.rows.insertRow().append(...cells);
    if (!this.part.isConnected) list.append(this.part);
  }

  // So many there are; not all of them are told.
  total(all) {
    const [shown, of] = [this.rows.rows.length, all].map((count) => count.toLocaleString(document.documentElement.lang));
    this.only.textContent = this.words.replace("%SHOWN%", shown).replace("%ALL%", of);
    this.only.hidden = all <= this.rows.rows.length;
  }
}

form.addEventListener("submit", async (event) => {
  const [file] = input.files;
  if (!file) return;
  event.preventDefault();
  const words = form.dataset;
  const ofCodes = JSON.parse(words.ofCodes);
  const button = form.querySelector("button");
  button.disabled = true;
  if (!(await maySend(form))) return void (button.disabled = false);
  const bar = document.createElement("progress");
  bar.max = 1;
  bar.value = 0;
  bar.setAttribute("aria-label", words.progress);
  const status = element("p", "…");
  const [invalid, existing] = [new Lines("invalid-lines"), new Lines("existing-lines")];
  list.replaceChildren();
  output.replaceChildren(bar, status);
  output.hidden = false;
  const sum = { added: 0, existing: 0, invalid: 0 };
  const tell = (lead) => {
    const parts = Object.entries(sum).map(([name, count]) => `${count.toLocaleString(document.documentElement.lang)} ${words[name]}`);
    status.textContent = `${lead} ${parts.join(", ")}`;
  };
  try {
    const format = formatOf(file.name);
    // A file of CSV has one header, or none: every piece is read as the first was.
    let columns = null;
    for await (const { body, before, done } of piecesOf(file, format, words)) {
      const query = new URLSearchParams({
        format,
        provider: form.elements.provider.value,
        ...(columns && { columns }),
        ...(form.elements.owner.value && { owner: form.elements.owner.value }),
      });
      const answer = await fetch(`/admin/api-keys/import?${query}`, {
        method: "POST",
        headers: { "x-csrf-token": form.elements.csrf.value },
        body,
      });
      const report = await answer.json().catch(() => null);
      // It has ended between two pieces: the way in stands beside the reason.
      if (answer.status === 401) await maySend(form);
      if (!answer.ok || !report) {
        throw new Said(...(report?.error ? reasons(report.error, ofCodes) : [`${words.noAnswer} (${answer.status})`]));
      }
      columns ??= report.columns?.join(",");
      for (const name of Object.keys(sum)) sum[name] += report[name];
      for (const line of report.invalid_lines) invalid.add(line.line + before, line.key, ofCodes[line.code] ?? line.reason);
      for (const line of report.existing_lines) existing.add(line.line + before, line.key);
      invalid.total(sum.invalid);
      existing.total(sum.existing);
      bar.value = Math.min(done, 1);
      tell(words.progress + ":");
    }
    bar.value = 1;
    tell(words.done);
    input.value = "";
  } catch (error) {
    tell(words.failed);
    const news = element("div", "", "news bad");
    news.append(...(error instanceof Said ? error.words : [words.noAnswer]));
    output.append(news);
  } finally {
    button.disabled = false;
  }
});
