// What makes every page livelier; each works without it.

const body = document.body;

// Times are written in the visitor's zone once the server knows it.
const zone = Intl.DateTimeFormat().resolvedOptions().timeZone;
if (zone && !document.cookie.includes(`keytide_zone=${zone}`)) {
  document.cookie = `keytide_zone=${zone}; Path=/; Max-Age=31536000; SameSite=Lax`;
}

// On a narrow screen the menu begins closed; on a wide one there is nothing to open it with.
const menu = document.querySelector("details.menu");
const narrow = matchMedia("(max-width: 760px)");
const fold = () => menu && (menu.open = !narrow.matches);
narrow.addEventListener("change", fold);
fold();

// News stays until it is read, not until the next load.
document.querySelector(".news[role=alert], .news[role=status]")?.scrollIntoView({ block: "nearest" });

// Lists whose rows are all chosen at once.
document.addEventListener("change", (event) => {
  const all = event.target.closest("[data-all]");
  if (all) {
    for (const box of document.querySelectorAll(`input[name="${all.dataset.all}"]`)) box.checked = all.checked;
  }
});

// Buttons that copy what stands in another element.
document.addEventListener("click", async (event) => {
  const button = event.target.closest("[data-copy]");
  if (!button) return;
  const source = document.getElementById(button.dataset.copy);
  const text = source.value ?? source.textContent;
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // Without https browsers keep the clipboard closed, but copy what is selected.
    source.select?.();
    document.execCommand("copy");
  }
  const label = button.textContent;
  button.textContent = body.dataset.copied;
  setTimeout(() => (button.textContent = label), 1500);
});

// A form is sent once, however often its button is pressed, and not when its session has ended meanwhile: what is
// written would be lost.
document.addEventListener("submit", async (event) => {
  const form = event.target;
  if (form.method !== "post" || event.defaultPrevented) return;
  if (form.dataset.busy) return event.preventDefault();
  if (form.elements.csrf && !form.dataset.known) {
    event.preventDefault();
    form.dataset.busy = "yes";
    const { submitter } = event;
    const may = await maySend(form);
    delete form.dataset.busy;
    if (!may) return;
    form.dataset.known = "yes";
    return form.requestSubmit(submitter);
  }
  delete form.dataset.known;
  // What is downloaded leaves the page as it is: it may be asked for again.
  if ("download" in form.dataset) return;
  form.dataset.busy = "yes";
  addEventListener("pageshow", () => delete form.dataset.busy, { once: true });
});

// How the session stands: "there", "ended", or "lost" when nobody can say. The forms of the page go on with the
// second secret of whoever has signed in anew.
async function session() {
  const answer = await fetch("/admin/session", { headers: { "x-by-itself": "1" } }).catch(() => null);
  if (answer?.status === 401) return "ended";
  // Who comes in without a session has none that could end.
  if (answer?.status === 404) return "there";
  const csrf = answer?.ok ? (await answer.json().catch(() => null))?.csrf : null;
  if (!csrf) return "lost";
  for (const field of document.querySelectorAll("input[name=csrf]")) field.value = csrf;
  return "there";
}

// Whether this form may go out now. If not, the page says why, and what is written stays.
export async function maySend(form) {
  const state = await session();
  if (state === "there") {
    goOn();
    return true;
  }
  if (state === "lost") {
    say(body.dataset.unsent);
    askLater();
  } else if (form.getAttribute("action") === "/logout") {
    // Signed out already.
    location.assign("/login");
  } else {
    say(body.dataset.ended, wayIn());
  }
  return false;
}

// Letters of what nobody knows how to read.
export const SHORT = 300;

// What was refused, in words of the page's language, which go by the code, and beside them the sentence that came: it
// may tell more.
export function reasons(error, words) {
  const said = [error.message, error].find((text) => typeof text === "string");
  const sentence = said ?? JSON.stringify(error).slice(0, SHORT);
  const known = words[error.code];
  if (!known) return [sentence];
  const element = (name, text) => Object.assign(document.createElement(name), { textContent: text });
  const original = Object.assign(document.createElement("details"), { className: "original" });
  const text = Object.assign(element("span", sentence), { lang: "en" });
  original.append(element("summary", body.dataset.original), text);
  return [known, " ", original];
}

// Whether the visitor has begun something that a new load would take away.
function isDirty(field) {
  if (field.options) {
    const first = [...field.options].findIndex((one) => one.defaultSelected);
    return field.selectedIndex !== Math.max(first, 0);
  }
  if (field.type === "checkbox" || field.type === "radio") return field.checked !== field.defaultChecked;
  return field.value !== field.defaultValue;
}
const hasWork = () =>
  document.querySelector("[data-written]") !== null ||
  [...document.querySelectorAll("input:not([type=hidden]), select, textarea")].some(isDirty);

// Parts that are kept fresh: the same page is asked for again, and what has changed takes the old part's place.
const EVERY = 5000;
const parts = () => document.querySelectorAll("[data-live]");
let banner = null;
// What is shown was deleted: nothing brings it back.
let isGone = false;

function say(text, link) {
  if (banner?.dataset.text === text) return;
  banner?.remove();
  banner = null;
  if (!text) return;
  banner = document.createElement("p");
  banner.className = "news bad lost";
  banner.setAttribute("role", "alert");
  banner.dataset.text = text;
  banner.append(text, ...(link ? [" ", link] : []));
  body.append(banner);
}

// Beside the page, so that nothing on it is lost.
function wayIn() {
  const link = Object.assign(document.createElement("a"), { href: "/login?ended=1", target: "_blank" });
  link.textContent = body.dataset.signIn;
  return link;
}

function isInUse(part) {
  const selection = getSelection();
  const isSelected = selection && !selection.isCollapsed && part.contains(selection.anchorNode);
  if (part.querySelector("input:checked")) return true;
  return isSelected || (part.contains(document.activeElement) && document.activeElement !== part);
}

function replace(part, fresh) {
  const open = [...part.querySelectorAll("details")].map((one) => one.open);
  part.replaceChildren(...fresh.childNodes);
  part.querySelectorAll("details").forEach((one, at) => (one.open = open[at] ?? one.open));
}

// What each part was last replaced by.
const last = new WeakMap();
let isAsking = false;

async function refresh() {
  if (document.hidden || isAsking) return;
  isAsking = true;
  try {
    await ask();
  } finally {
    isAsking = false;
  }
}

async function ask() {
  let answer;
  try {
    answer = await fetch(location.href, { headers: { "x-by-itself": "1", accept: "text/html" } });
    if (answer.status >= 500) throw new Error(String(answer.status));
  } catch {
    say(body.dataset.lost);
    return;
  }
  // The session has ended: the page itself shows the way in, unless something would be lost by it.
  if (answer.redirected && new URL(answer.url).pathname === "/login") {
    stop();
    return hasWork() ? say(body.dataset.ended, wayIn()) : location.reload();
  }
  // What is shown may have been deleted meanwhile: it does not come back.
  if (answer.status === 404 || answer.status === 410) {
    stop();
    isGone = true;
    return say(body.dataset.gone);
  }
  const page = new DOMParser().parseFromString(await answer.text(), "text/html");
  if (!answer.ok) return say(page.querySelector("main .news")?.textContent ?? `${body.dataset.lost} (${answer.status})`);
  say(null);
  for (const part of parts()) {
    const fresh = page.getElementById(part.id);
    if (fresh && !isInUse(part) && fresh.innerHTML !== last.get(part)) {
      last.set(part, fresh.innerHTML);
      replace(part, fresh);
    }
  }
}

let timer = null;

function start() {
  if (!timer && parts().length) timer = setInterval(refresh, EVERY);
}

function stop() {
  clearInterval(timer);
  timer = null;
}

// What a banner says is taken back when it is so no longer: where nothing is kept fresh, nothing else would find out.
let later = null;

function askLater() {
  later ??= setTimeout(askAgain, EVERY);
}

async function askAgain() {
  later = null;
  if (!banner || timer || isGone) return;
  const state = await session();
  if (state === "there") goOn();
  if (state === "lost") askLater();
}

function goOn() {
  say(null);
  if (!isGone) start();
}

// Who has signed in beside this page comes back to it.
const comeBack = () => document.hidden || (timer ? refresh() : askAgain());
document.addEventListener("visibilitychange", comeBack);
addEventListener("focus", comeBack);
start();
