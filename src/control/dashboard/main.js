// The dashboard: what is shown where, and what keys and buttons do.

import { Refused, ask, key, sessionPath } from "./api.js";
import { Detail } from "./detail.js";
import { Grid, element } from "./grid.js";
import { Kinds } from "./kinds.js";
import { Live } from "./live.js";
import { Model } from "./model.js";
import { age, count, duration, ends, moment, processes, sentence, size, whole } from "./words.js";

const byId = (id) => document.getElementById(id);
/** Lists are sorted anew at most so often, ms. */
const REDRAW = 250;

const model = new Model();
const kinds = new Kinds(byId("kinds"));
const detail = new Detail({ stop: confirmStop, closed: () => current().table.focus() });

/** Whether herd has ever told all there is: before that, a list that is empty says nothing. */
let heard = false;
const once = (text) => (heard ? text : "");

const state = (row) => row.state;
const used = (name) => (row) => row.usage?.[name] ?? -1;
const lists = {
  sessions: {
    columns: [
      { name: "id", label: "Session", text: (row) => row.id, by: (row) => row.id, wide: true },
      { name: "worker-kind", label: "Kind", text: (row) => row.kind, by: (row) => row.kind, wide: true },
      { name: "state", label: "State", text: state, tone: state, by: state },
      { name: "worker", label: "Worker", text: (row) => row.worker ?? "–" },
      { name: "pid", label: "PID", text: (row) => String(row.pid ?? "–"), numeric: true },
      { name: "procs used", label: "Procs", text: (row) => (row.usage ? String(row.usage.processes) : "–"), numeric: true, by: used("processes") },
      { name: "memory used", label: "Memory", text: (row) => (row.usage ? size(row.usage.memory_bytes) : "–"), numeric: true, by: used("memory_bytes") },
      { name: "cpu used", label: "CPU time", text: (row) => (row.usage ? duration(row.usage.cpu_seconds * 1000) : "–"), numeric: true, by: used("cpu_seconds") },
      { name: "held", label: "Holders", text: holders, numeric: true, by: (row) => row.holders, wide: true },
      { name: "age", label: "Age", text: (row, now) => age(now - row.born), numeric: true, by: (row) => -row.generation },
      { name: "ends", label: "Ends", text: ends, by: (row) => row.endsAt ?? Infinity },
    ],
    options: { label: "Sessions", none: () => once("No sessions. The first request that carries a session id makes one."), id: (row) => row.generation },
    rows: () => [...model.rows.values()],
    text: (row) => `${row.id} ${row.kind} ${row.state} ${row.worker ?? ""} ${row.pid ?? ""} ${row.reason ?? ""}`,
    sort: { column: "age", direction: "ascending" },
  },
  ended: {
    columns: [
      { name: "at", label: "Ended", text: (row) => (row.endedAt ? moment(row.endedAt) : "with herd"), wide: true },
      { name: "id", label: "Session", text: (row) => row.id, by: (row) => row.id, wide: true },
      { name: "worker-kind", label: "Kind", text: (row) => row.kind, by: (row) => row.kind, wide: true },
      { name: "reason", label: "Reason", text: (row) => (row.run ? `${row.reason} (former herd)` : (row.reason ?? "")), tone: (row) => row.reason, wide: true, by: (row) => row.reason ?? "" },
      { name: "died", label: "Died", text: died, by: (row) => row.death?.processes ?? -1 },
      { name: "exit", label: "Exit", text: (row) => row.death?.exit ?? "worker is warm again", wide: true },
      { name: "lived", label: "Lived", text: (row) => age(row.lived), numeric: true, by: (row) => row.lived },
    ],
    options: { label: "Ended sessions", none: () => once("No session has ended yet."), id: (row) => row.generation },
    rows: () => model.ended,
    text: (row) => `${row.id} ${row.kind} ${row.reason ?? ""} ${row.worker ?? ""} ${row.death?.exit ?? ""}`,
  },
  events: {
    columns: [
      { name: "at", label: "Time", text: (event) => moment(event.at), wide: true },
      { name: "type", label: "Event", text: (event) => event.type, tone: (event) => event.type, wide: true },
      { name: "worker-kind", label: "Kind", text: (event) => event.kind ?? "", wide: true },
      { name: "told", label: "What", text: sentence, wide: true },
    ],
    options: { label: "Events", none: () => once("Nothing has happened yet."), id: (event) => event },
    rows: () => model.events,
    text: (event) => `${event.type} ${event.kind ?? ""} ${sentence(event)}`,
  },
};

for (const [name, list] of Object.entries(lists)) {
  list.grid = new Grid(byId(`panel-${name}`), list.columns, {
    ...list.options,
    name,
    onSort: (column) => sortBy(list, column),
    onOpen: name === "events" ? undefined : (row) => detail.open(row),
  });
  if (list.sort) list.grid.sorted(list.sort.column, list.sort.direction);
}

let tab = "sessions";
const current = () => lists[tab].grid;

const live = new Live(model, {
  state(word, why) {
    const shown = byId("connection");
    shown.textContent = word;
    shown.dataset.is = word;
    shown.title = why ?? "";
    byId("app").classList.toggle("stale", word !== "live");
    // Not later than it says that all is there.
    if (word !== "live") return;
    heard = true;
    draw();
  },
  changed,
  pools: (pools) => kinds.show(pools),
  host: tellHost,
  version: tellVersion,
  locked: showLogin,
  visible: () => (tab === "sessions" ? lists.sessions.grid.visible : []),
});

// --- Lists

let scheduled = false;

function changed() {
  if (scheduled) return;
  scheduled = true;
  setTimeout(() => {
    scheduled = false;
    draw();
  }, REDRAW);
}

function draw() {
  byId("count-sessions").textContent = whole(model.rows.size);
  byId("count-ended").textContent = whole(model.ended.length);
  byId("count-events").textContent = whole(model.events.length);
  const list = lists[tab];
  const terms = byId("filter").value.toLowerCase().split(/\s+/).filter(Boolean);
  let rows = list.rows();
  if (terms.length) {
    rows = rows.filter((row) => {
      const text = list.text(row).toLowerCase();
      return terms.every((term) => text.includes(term));
    });
  }
  list.grid.show(list.sort ? sorted(rows, list) : [...rows]);
}

function sorted(rows, { sort, columns }) {
  const { by } = columns.find((column) => column.name === sort.column);
  const keyed = rows.map((row) => ({ row, value: by(row) }));
  const way = sort.direction === "ascending" ? 1 : -1;
  // Newest first among equals, whichever way: otherwise rows would jump about.
  keyed.sort((a, b) => (a.value < b.value ? -way : a.value > b.value ? way : b.row.generation - a.row.generation));
  return keyed.map(({ row }) => row);
}

function sortBy(list, { name, numeric }) {
  const same = list.sort?.column === name;
  // Numbers are looked at from the largest, except for how old: the newest is of interest.
  const first = numeric && name !== "age" ? "descending" : "ascending";
  const other = { ascending: "descending", descending: "ascending" };
  list.sort = { column: name, direction: same ? other[list.sort.direction] : first };
  list.grid.sorted(name, list.sort.direction);
  draw();
}

function holders(row) {
  if (row.holders === 0) return "0";
  const parts = [row.requests && `${row.requests} req`, row.streams && `${row.streams} str`, row.holds && `${row.holds} hold`];
  const told = parts.filter(Boolean).join(" ");
  return told ? `${row.holders} · ${told}` : String(row.holders);
}

function died(row) {
  if (!row.death) return "–";
  return `${processes(row.death.processes)}, ${size(row.death.memory_bytes)}, ${Math.ceil(row.death.took_ms)} ms`;
}

function show(name) {
  if (tab === name) return;
  tab = name;
  for (const one of Object.keys(lists)) {
    const chosen = one === name;
    byId(`tab-${one}`).setAttribute("aria-selected", String(chosen));
    byId(`tab-${one}`).tabIndex = chosen ? 0 : -1;
    byId(`panel-${one}`).hidden = !chosen;
  }
  draw();
}

// --- About this herd

let about = {};

function tell(more) {
  about = { ...about, ...more };
  const list = byId("about");
  const shown = [
    ["version", about.version],
    ["up", about.started && age(Date.now() - Date.parse(about.started))],
    ["config", about.config],
    ["sessions at", about.url],
    ["memory free", about.memory],
    ["load", about.load],
  ].filter(([, value]) => value);
  list.replaceChildren(...shown.map(([name, value]) => {
    const pair = element("div", name.replaceAll(" ", "-"));
    pair.append(element("dt", "", name), element("dd", "", value));
    return pair;
  }));
  const draining = Boolean(about.draining);
  byId("drain").disabled = draining;
  byId("drain").textContent = draining ? "Draining" : "Drain…";
}

function tellVersion(version) {
  const generation = version.config_generation ?? version.config?.generation;
  tell({
    version: version.version,
    started: version.started,
    url: version.data_url,
    config: generation === undefined ? null : `generation ${generation}`,
  });
}

function tellHost({ host, draining }) {
  const { memory_available_bytes: free, memory_total_bytes: total, load_average: load, cpus } = host;
  tell({
    draining,
    memory: free !== null && total !== null ? `${size(free)} of ${size(total)}` : null,
    load: load === null ? null : `${load.toFixed(2)} on ${count(cpus, "CPU")}`,
  });
}

// --- Deeds

function notice(text, tone = "") {
  const place = byId("notice");
  place.textContent = text;
  place.dataset.tone = tone;
  clearTimeout(notice.timer);
  notice.timer = setTimeout(() => (place.textContent = ""), tone === "bad" ? 12_000 : 6000);
}

async function deed(method, path, told) {
  try {
    notice(told(await ask(method, path)));
  } catch (error) {
    if (error instanceof Refused && error.status === 401) return showLogin(error);
    notice(error instanceof Refused ? error.message : `herd cannot be reached: ${error.message}`, "bad");
  }
}

function confirm({ title, text, yes, focus, then }) {
  const dialog = byId("confirm");
  if (dialog.open) return;
  byId("confirm-title").textContent = title;
  byId("confirm-text").textContent = text;
  byId("confirm-yes").textContent = yes;
  byId("confirm-yes").onclick = () => {
    dialog.close();
    then();
  };
  byId("confirm-no").onclick = () => dialog.close();
  dialog.showModal();
  byId(focus).focus();
}

function confirmStop(row) {
  if (row.state === "ended") return;
  const held = row.holders ? ` ${count(row.holders, "holder")} will lose it.` : "";
  confirm({
    title: `Stop ${row.id}?`,
    text: `Its worker's whole process tree is killed at once.${held}`,
    yes: "Stop session",
    // Somebody who has asked for it by key goes on by key.
    focus: "confirm-yes",
    then: () => deed("DELETE", sessionPath(row.id, "", [`generation=${row.generation}`]), stopped),
  });
}

function stopped({ id: own, principal, outcome, death }) {
  const id = principal ? `${principal}/${own}` : own;
  if (outcome === "never_started") return `Stopped ${id}: its worker had not started yet`;
  if (outcome === "forgotten") return `Forgot ${id}: its worker had crashed; the id is free again`;
  if (!death) return `Stopped ${id}: its worker is warm again`;
  return `Stopped ${id}: ${processes(death.processes)}, ${size(death.memory_bytes)} freed, ${Math.ceil(death.took_ms)} ms`;
}

function confirmDrain() {
  confirm({
    title: "Drain and end this herd?",
    text: "New sessions are refused from now on. Bound ones go on for at most drain_timeout; then herd ends. This cannot be taken back.",
    yes: "Drain herd",
    focus: "confirm-no",
    then: () => deed("POST", "/v1/drain", ({ bound }) => `Draining: ${bound ? count(bound, "session goes on", "sessions go on") : "no session is bound"}`),
  });
}

// --- Keys and buttons

byId("drain").addEventListener("click", confirmDrain);
byId("help").addEventListener("click", () => byId("keys").showModal());
byId("keys-close").addEventListener("click", () => byId("keys").close());
byId("filter").addEventListener("input", draw);
byId("filter").addEventListener("keydown", (pressed) => {
  if (pressed.key === "Enter" || pressed.key === "ArrowDown") {
    pressed.preventDefault();
    current().table.focus();
    if (!current().chosen) current().choose(0);
  }
});
byId("usage").addEventListener("change", (changed) => {
  live.usage = changed.target.checked;
  byId("app").classList.toggle("with-usage", live.usage);
  // What is sorted by has to be seen.
  const { sort, columns } = lists.sessions;
  if (!live.usage && sort.column.endsWith(" used")) sortBy(lists.sessions, columns.find(({ name }) => name === "age"));
  draw();
});
const tabs = Object.keys(lists);
for (const name of tabs) {
  byId(`tab-${name}`).addEventListener("click", () => show(name));
  byId(`tab-${name}`).addEventListener("keydown", (pressed) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[pressed.key];
    if (!step) return;
    const next = tabs[(tabs.indexOf(name) + step + tabs.length) % tabs.length];
    show(next);
    byId(`tab-${next}`).focus();
  });
}

document.addEventListener("keydown", (pressed) => {
  if (pressed.ctrlKey || pressed.metaKey || pressed.altKey || byId("app").hidden) return;
  if (document.querySelector("dialog[open]")) return;
  const typing = pressed.target instanceof HTMLInputElement && pressed.target.type !== "checkbox";
  if (pressed.key === "Escape") {
    if (typing && byId("filter").value) byId("filter").value = "";
    else if (detail.row) detail.close();
    else byId("filter").value = "";
    if (typing) current().table.focus();
    return draw();
  }
  if (typing) return;
  const act = {
    "/": () => byId("filter").select(),
    "?": () => byId("keys").showModal(),
    1: () => show("sessions"),
    2: () => show("ended"),
    3: () => show("events"),
    u: () => byId("usage").click(),
    x: () => {
      const row = detail.row ?? (tab === "sessions" ? current().chosen : null);
      if (row) confirmStop(model.rows.get(row.generation) ?? row);
    },
    ArrowDown: () => pressed.target === document.body && (current().table.focus(), current().choose(0)),
  }[pressed.key];
  // The page's own arrow keys are the grid's where it has the focus.
  if (!act || (pressed.key === "ArrowDown" && pressed.target !== document.body)) return;
  pressed.preventDefault();
  act();
});

// --- The key

function showLogin(error) {
  live.stop();
  detail.close();
  const had = key.get() !== null;
  if (error?.status === 401) key.forget();
  byId("app").hidden = true;
  byId("login").hidden = false;
  byId("login-why").textContent = had || error?.status === 403 ? error.message : "This herd asks for a key.";
  byId("login-why").classList.toggle("bad", had || error?.status === 403);
  byId("login-key").value = "";
  byId("login-key").focus();
}

function open() {
  byId("login").hidden = true;
  byId("app").hidden = false;
  byId("forget").hidden = key.get() === null;
  current().table.focus({ preventScroll: true });
  live.start();
}

byId("login-form").addEventListener("submit", (submitted) => {
  submitted.preventDefault();
  key.set(byId("login-key").value.trim());
  byId("login-key").value = "";
  open();
});
byId("forget").addEventListener("click", () => {
  key.forget();
  model.clear();
  showLogin(null);
});
addEventListener("hashchange", () => key.takeFromAddress() && open());
// Ages and time left go on by themselves.
setInterval(() => current().draw(), 1000);

key.takeFromAddress();
open();
