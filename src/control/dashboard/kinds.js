// The pools: one card for each kind of workers.

import { element } from "./grid.js";
import { age, whole } from "./words.js";

const PARTS = ["bound", "warm", "starting", "dying"];

export class Kinds {
  #section;
  #cards = new Map();

  constructor(section) {
    this.#section = section;
  }

  show(pools) {
    const names = new Set(pools.map((pool) => pool.kind));
    for (const [name, card] of this.#cards) {
      if (names.has(name)) continue;
      card.root.remove();
      this.#cards.delete(name);
    }
    for (const pool of pools) {
      let card = this.#cards.get(pool.kind);
      if (!card) {
        card = make(pool.kind);
        this.#cards.set(pool.kind, card);
        this.#section.append(card.root);
      }
      fill(card, pool);
    }
  }
}

function make(name) {
  const root = element("article", "kind");
  root.setAttribute("aria-label", name);
  const head = element("div", "kind-head");
  const title = element("h2", "", name);
  title.title = name;
  const isolation = element("span", "isolation");
  const taken = element("span", "taken");
  head.append(title, isolation, element("span", "spring"), taken);
  const gauge = element("div", "gauge");
  gauge.setAttribute("role", "meter");
  gauge.setAttribute("aria-valuemin", "0");
  const legend = element("dl", "legend");
  const parts = {};
  for (const part of PARTS) {
    const bar = element("span", `bar ${part}`);
    gauge.append(bar);
    const term = element("dt", `of ${part}`, part);
    const value = element("dd");
    legend.append(term, value);
    parts[part] = { bar, value };
  }
  const queue = element("p", "queue");
  const trouble = element("p", "trouble");
  root.append(head, gauge, legend, queue, trouble);
  return { root, isolation, taken, gauge, parts, queue, trouble };
}

function fill(card, pool) {
  const taken = PARTS.reduce((sum, part) => sum + pool[part], 0);
  // Lowering max kills nothing: for a while there may be more.
  const slots = Math.max(pool.max, taken, 1);
  write(card.isolation, { on: "sandbox", weaker: "weaker sandbox", off: "no sandbox" }[pool.sandbox] ?? pool.sandbox);
  card.isolation.dataset.is = pool.sandbox;
  write(card.taken, `${whole(taken)} / ${whole(pool.max)}`);
  card.gauge.setAttribute("aria-valuemax", String(pool.max));
  card.gauge.setAttribute("aria-valuenow", String(taken));
  card.gauge.setAttribute("aria-valuetext", PARTS.map((part) => `${pool[part]} ${part}`).join(", "));
  card.gauge.setAttribute("aria-label", "worker slots taken");
  for (const part of PARTS) {
    const { bar, value } = card.parts[part];
    bar.style.width = `${(100 * pool[part]) / slots}%`;
    write(value, whole(pool[part]));
    value.classList.toggle("zero", pool[part] === 0);
  }
  const waited = pool.longest_wait_ms === null ? "" : `, first for ${age(pool.longest_wait_ms)}`;
  write(card.queue, pool.queued === 0 ? `queue empty (at most ${whole(pool.queue_max)})` : `${whole(pool.queued)} of ${whole(pool.queue_max)} queued${waited}`);
  card.queue.classList.toggle("busy", pool.queued > 0);
  write(card.trouble, pool.backoff_ms === null ? "" : `Starts keep failing; new sessions are refused for ${age(pool.backoff_ms)}`);
}

function write(node, text) {
  if (node.textContent !== text) node.textContent = text;
}
