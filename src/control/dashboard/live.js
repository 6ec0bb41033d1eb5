// The connection to herd: one stream of events, and lists in the background for what events do not tell (holders, time
// left, use). When it breaks, it is tried again from the last event that was seen.

import { Refused, ask, events } from "./api.js";

/** Sessions of one page, and the time between two. The first round through all pages does not wait. */
const PAGE = 500;
const PERIOD = 2000;
const POOLS = 1000;
const HOST = 5000;
/** Rows in sight that are looked at by name, where a round takes longer than PERIOD. */
const SIGHT = 100;
const REPLAY = 200;
const BACKOFF = [250, 500, 1000, 2000, 5000];

export class Live {
  usage = false;
  #model;
  #on;
  #stopping = null;
  #herd = null;
  #last = null;
  #round = 0;

  /** `on`: {state(word, why), changed(), pools(list), host(pressure), version(version), locked(error), visible()}. */
  constructor(model, on) {
    this.#model = model;
    this.#on = on;
  }

  start() {
    this.stop();
    this.#stopping = new AbortController();
    this.#run(this.#stopping.signal);
  }

  stop() {
    this.#stopping?.abort();
  }

  async #run(signal) {
    for (let tries = 0; !signal.aborted; tries++) {
      const connection = new AbortController();
      const ended = AbortSignal.any([signal, connection.signal]);
      try {
        await this.#connection(ended, () => (tries = -1));
      } catch (error) {
        if (signal.aborted) return;
        if (error instanceof Refused && (error.status === 401 || error.status === 403)) return this.#on.locked(error);
        this.#on.state("reconnecting", error.message);
      } finally {
        connection.abort();
      }
      await pause(BACKOFF[Math.min(Math.max(tries, 0), BACKOFF.length - 1)], signal);
    }
  }

  /** Ends only by an error. */
  async #connection(signal, connected) {
    const version = await ask("GET", "/v1/version", signal);
    const herd = `${version.pid} ${version.started}`;
    if (herd !== this.#herd) await this.#meet(herd, signal);
    this.#on.version(version);
    const stream = events("/v1/events", { signal, last: this.#last });
    // Open before the first list is asked for: what happens meanwhile comes as an event.
    this.#take((await stream.next()).value ?? []);
    connected();
    this.#round = 0;
    await Promise.race([this.#events(stream), this.#pages(signal), this.#sight(signal), this.#pools(signal), this.#host(signal)]);
  }

  /** Another herd than before, or the first: what it remembers. */
  async #meet(herd, signal) {
    this.#model.clear();
    const { sessions } = await ask("GET", "/v1/sessions?all=true&state=ended", signal);
    this.#model.remember(sessions);
    let last = null;
    for await (const batch of events(`/v1/events?replay=${REPLAY}&follow=false`, { signal })) {
      for (const event of batch) {
        this.#model.note(event);
        last = event.id;
      }
    }
    this.#last = last;
    this.#herd = herd;
  }

  async #events(stream) {
    for await (const batch of stream) this.#take(batch);
    throw new Error("herd has closed the stream of events");
  }

  #take(batch) {
    for (const event of batch) {
      this.#last = event.id ?? this.#last;
      this.#model.note(event);
      this.#model.apply(event);
      if (event.type === "events.lost") this.#round = 0;
    }
    if (batch.length) this.#on.changed();
  }

  async #pages(signal) {
    let after = -1;
    for (;;) {
      const asked = performance.now();
      const place = after < 0 ? "" : `&after=${after}`;
      const list = await ask("GET", `/v1/sessions?limit=${PAGE}${place}${this.#used()}`, signal);
      this.#model.page(list, after, asked);
      this.#on.changed();
      after = list.next === null ? -1 : Number(list.next);
      if (after < 0 && this.#round++ === 0) this.#on.state("live");
      if (this.#round > 0) await pause(PERIOD, signal);
    }
  }

  async #sight(signal) {
    for (;;) {
      await pause(PERIOD, signal);
      if (this.#model.rows.size <= PAGE) continue;
      const rows = this.#on.visible().slice(0, SIGHT);
      if (rows.length === 0) continue;
      const asked = performance.now();
      const ids = rows.map((row) => encodeURIComponent(row.id)).join(",");
      const list = await ask("GET", `/v1/sessions?id=${ids}${this.#used()}`, signal);
      this.#model.refresh(list.sessions, asked);
      this.#on.changed();
    }
  }

  async #pools(signal) {
    for (;;) {
      this.#on.pools((await ask("GET", "/v1/workers", signal)).workers);
      await pause(POOLS, signal);
    }
  }

  async #host(signal) {
    for (;;) {
      this.#on.host(await ask("GET", "/v1/pressure", signal));
      await pause(HOST, signal);
      this.#on.version(await ask("GET", "/v1/version", signal));
    }
  }

  #used() {
    return this.usage ? "&usage=true" : "";
  }
}

/** Throws if `signal` aborts first. */
function pause(ms, signal) {
  return new Promise((resolve, reject) => {
    const stop = () => {
      clearTimeout(timer);
      reject(signal.reason);
    };
    const timer = setTimeout(() => {
      signal.removeEventListener("abort", stop);
      resolve();
    }, ms);
    signal.addEventListener("abort", stop, { once: true });
    if (signal.aborted) stop();
  });
}
