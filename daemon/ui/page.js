// Draws what the server of this page says, every second. All texts become text nodes: nothing is ever read as HTML.
"use strict";

const PAUSE_MS = 1000;
const KEPT_LINES = 500;
const STORE = "omnilytics";
const HEADER = "X-OmniLytics-Key";
let cursor = "";
let busy = false;
let refusal = "";

// ------------------------------------------------------------------ drawing

// A tree is a text or [tag, attributes, ...trees]. `morph` changes a node's children to be these trees and leaves what
// is the same alone: a button that is about to be clicked stays the one that it was.
function morph(parent, trees) {
  trees.forEach((tree, at) => {
    const old = parent.childNodes[at];
    if (typeof tree === "string") {
      if (old === undefined) parent.append(document.createTextNode(tree));
      else if (old.nodeType !== Node.TEXT_NODE) old.replaceWith(document.createTextNode(tree));
      else if (old.data !== tree) old.data = tree;
      return;
    }
    const [tag, attributes, ...inside] = tree;
    let node = old;
    if (old === undefined || old.nodeType !== Node.ELEMENT_NODE || old.localName !== tag) {
      node = document.createElement(tag);
      if (old === undefined) parent.append(node);
      else old.replaceWith(node);
    }
    // Whether a details element is open is the reader's own.
    for (const { name } of [...node.attributes]) if (!(name in attributes) && name !== "open") node.removeAttribute(name);
    for (const [name, value] of Object.entries(attributes)) {
      if (node.getAttribute(name) !== String(value)) node.setAttribute(name, value);
    }
    morph(node, inside);
  });
  while (parent.childNodes.length > trees.length) parent.lastChild.remove();
}

const badge = ([kind, text]) => ["span", { class: `badge ${kind}` }, text];
const tiles = (list) => ["div", { class: "tiles" }, ...list.map(([value, label]) =>
  ["div", { class: "tile" }, ["b", {}, value], ["span", {}, label]])];
const terms = (list) => ["ul", { class: "terms" }, ...list.map((text) => ["li", {}, text])];
const table = (label, heads, rows, left) => ["div", { class: "scroll", tabindex: 0, role: "region", "aria-label": label },
  ["table", {},
    ["thead", {}, ["tr", {}, ...heads.map((text, at) => ["th", left.includes(at) ? { class: "left" } : {}, text])]],
    ["tbody", {}, ...rows.map((row) => ["tr", {}, ...row.map((text, at) =>
      ["td", left.includes(at) ? { class: "left" } : {}, text])])]]];

function playing(task) {
  return ["section", { class: "card", id: `playing-${task.task}` },
    ["h3", {}, `Task ${task.task}: ${task.place}`],
    ["p", { class: "waiting" }, task.waiting],
    ["p", { class: "said" }, task.late ? `for ${task.late}` : ""],
    terms(task.facts)];
}

function button(task, word, wanted, kind) {
  const attributes = { type: "button", class: kind, "data-task": task, "data-decision": word, "aria-label": `${word} task ${task}` };
  if (!wanted || busy) attributes.disabled = "";
  return ["button", attributes, word[0].toUpperCase() + word.slice(1)];
}

function offer(task) {
  const actions = task.accept || task.refuse
    ? [["div", { class: "actions" }, button(task.task, "accept", task.accept, "yes"), button(task.task, "refuse", task.refuse, "no")]]
    : [];
  return ["section", { class: "card", id: `task-${task.task}` },
    ["div", { class: "head" }, ["h3", {}, `Task ${task.task}`], badge(task.verdict)],
    ["p", { class: "title" }, task.title],
    ["p", { class: "said" }, task.promise],
    terms(task.terms),
    ["p", { class: "said" }, task.reason],
    ...actions];
}

function draw(view) {
  document.title = `${view.health[1]} · ${view.title}`;
  const parts = [
    ["div", { class: "head" }, ["h1", {}, view.title], badge(view.health)],
    ["p", { class: "address quiet" }, view.address],
    ...(refusal ? [["p", { class: "note bad" }, refusal]] : []),
    ...view.notes.map(([kind, text]) => ["p", { class: `note ${kind}` }, text]),
    tiles(view.tiles),
    ["h2", {}, "Playing"],
    ...(view.playing.length ? view.playing.map(playing) : [["p", { class: "quiet" }, "No task yet."]]),
  ];
  if (view.tasks) {
    parts.push(["h2", {}, "Tasks"], ["p", { class: "quiet" }, view.tasks.hint], ...view.tasks.items.map(offer));
    if (!view.tasks.items.length) parts.push(["p", { class: "quiet" }, "No task is open."]);
  }
  if (view.earnings) {
    parts.push(["h2", {}, "Earnings"], tiles(view.earnings.tiles));
    if (view.earnings.rows.length) {
      parts.push(table("earnings by task", ["task", "status", "rounds paid", "paid", "withdrawn", "to be withdrawn", "at stake"], view.earnings.rows, [1]));
    }
  }
  if (view.policy) {
    parts.push(["h2", {}, "Policy"], ["details", {}, ["summary", {}, "what this daemon joins"],
      table("policy", ["key", "value", "", "limits"], view.policy, [0, 1, 2, 3])]);
  }
  morph(document.getElementById("view"), parts);
}

function drawTrouble(text, help) {
  document.title = "OmniLytics";
  morph(document.getElementById("view"), [["h1", {}, "OmniLytics"], ["p", { class: "note bad" }, text], ["p", { class: "quiet" }, help]]);
}

function drawLines(told) {
  const list = document.getElementById("lines");
  const below = list.scrollTop + list.clientHeight >= list.scrollHeight - 8;
  for (const [level, clock, event, words] of told.lines) {
    const line = document.createElement("li");
    line.className = level;
    line.textContent = `${clock} ${level.padEnd(7)} ${event}  ${words}`;
    list.append(line);
  }
  while (list.childNodes.length > KEPT_LINES) list.firstChild.remove();
  if (below) list.scrollTop = list.scrollHeight;
  document.getElementById("missed").textContent = told.missed ? `${told.missed} lines were missed; the log file has them` : "";
}

// ------------------------------------------------------------------ asking

async function call(path, body) {
  const options = { headers: { [HEADER]: sessionStorage.getItem(STORE) ?? "" }, cache: "no-store", credentials: "same-origin" };
  if (body !== undefined) {
    options.method = "POST";
    options.headers["Content-Type"] = "application/json";
    options.body = JSON.stringify(body);
  }
  const answer = await fetch(path, options);
  return { status: answer.status, told: await answer.json() };
}

// The token comes in the address's fragment, which no server sees; it is traded for a cookie that no script sees and a
// key that only pages of this very origin hold.
async function enter() {
  const token = new URLSearchParams(location.hash.slice(1)).get("token");
  if (token === null) return;
  history.replaceState(null, "", location.pathname);
  sessionStorage.setItem(STORE, token);
  const { status, told } = await call("/api/session", {});
  if (status === 200) sessionStorage.setItem(STORE, told.key);
}

// One at a time: two readers of the log with one cursor would show its lines twice.
let refreshing = null;
function refresh() {
  refreshing ??= drawAnew().finally(() => { refreshing = null; });
  return refreshing;
}

async function drawAnew() {
  const { status, told } = await call("/api/view");
  if (status === 401) {
    drawTrouble("This page is closed to whoever does not have its token.", "Open the address that omnilytics ui printed.");
    document.getElementById("logs").hidden = true;
    return;
  }
  if (status !== 200) {
    drawTrouble(told.error ?? "The daemon does not answer.", told.help ?? "");
    return;
  }
  draw(told);
  const level = document.getElementById("level").value;
  const lines = await call(`/api/logs?${new URLSearchParams({ cursor, level })}`);
  if (lines.status === 200) {
    document.getElementById("logs").hidden = false;
    if (level === document.getElementById("level").value) {
      cursor = lines.told.cursor;
      drawLines(lines.told);
    }
  }
}

async function decide(task, decision) {
  busy = true;
  try {
    const { status, told } = await call("/api/decide", { task, decision });
    refusal = status === 200 ? "" : `${told.error}: ${told.help ?? ""}`;
  } finally {
    busy = false;
  }
  // What is under way may have been asked before the decision.
  if (refreshing !== null) await refreshing;
  await refresh();
}

document.getElementById("view").addEventListener("click", (event) => {
  const target = event.target.closest("button[data-decision]");
  if (target === null || target.disabled) return;
  target.disabled = true;
  decide(Number(target.dataset.task), target.dataset.decision).catch(unreachable);
});
document.getElementById("level").addEventListener("change", () => {
  cursor = "";
  morph(document.getElementById("lines"), []);
});

function unreachable() {
  drawTrouble("omnilytics ui has ended, or cannot be reached.", "Start it again, and open the address that it prints.");
}

async function live() {
  try {
    if (!document.hidden) await refresh();
  } catch {
    unreachable();
  }
  setTimeout(live, PAUSE_MS);
}

// The address pasted into a page that is open already changes nothing but its fragment.
window.addEventListener("hashchange", () => enter().catch(unreachable));
enter().catch(unreachable).then(live);
