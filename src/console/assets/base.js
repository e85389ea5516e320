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

// A form is sent once, however often its button is pressed.
document.addEventListener("submit", (event) => {
  const form = event.target;
  if (form.method !== "post" || form.dataset.busy) {
    if (form.dataset.busy) event.preventDefault();
    return;
  }
  // What is downloaded leaves the page as it is: it may be asked for again.
  if ("download" in form.dataset) return;
  form.dataset.busy = "yes";
  addEventListener("pageshow", () => delete form.dataset.busy, { once: true });
});

// Whether the visitor has begun something that a new load would take away.
const isDirty = (field) =>
  field.type === "checkbox" || field.type === "radio" ? field.checked !== field.defaultChecked : field.value !== field.defaultValue;
const hasWork = () => [...document.querySelectorAll("input:not([type=hidden]), textarea")].some(isDirty);

// Parts that are kept fresh: the same page is asked for again, and what has changed takes the old part's place.
const EVERY = 5000;
const parts = () => document.querySelectorAll("[data-live]");
let lost = null;

function say(text) {
  if (!text) {
    lost?.remove();
    lost = null;
  } else if (!lost) {
    lost = document.createElement("p");
    lost.className = "news bad lost";
    lost.setAttribute("role", "alert");
    lost.textContent = text;
    body.append(lost);
  }
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
  say(null);
  // The session has ended: the page itself shows the way in, unless something would be lost by it.
  if (answer.redirected) return hasWork() ? say(body.dataset.ended) : location.reload();
  // What is shown may have been deleted meanwhile.
  if (!answer.ok) return say(body.dataset.gone);
  const page = new DOMParser().parseFromString(await answer.text(), "text/html");
  for (const part of parts()) {
    const fresh = page.getElementById(part.id);
    if (fresh && !isInUse(part) && fresh.innerHTML !== part.dataset.last) {
      part.dataset.last = fresh.innerHTML;
      replace(part, fresh);
    }
  }
}

if (parts().length) {
  setInterval(refresh, EVERY);
  document.addEventListener("visibilitychange", refresh);
}
