// What is known of sessions. Lists come in pages, in the background; between them events tell what has changed.
//
// A page is a picture of a moment that lies behind it: what an event has told since it was asked for is newer. So a row
// remembers when an event last touched it, and a session that is gone stays known as gone for a while.

const ENDED = 1000;
const EVENTS = 1000;
const GONE = 60_000;

export class Model {
  /** Live sessions by generation. */
  rows = new Map();
  /** Newest first. */
  ended = [];
  events = [];
  #endedKnown = new Set();
  #gone = new Map();
  /** herd's clock minus this one's, ms. */
  #skew = 0;

  clear() {
    this.rows.clear();
    this.ended.length = 0;
    this.#endedKnown.clear();
    this.#gone.clear();
  }

  /** A page that was asked for at `asked`, after the session `after`. */
  page(list, after, asked) {
    const received = performance.now();
    const listed = new Set();
    for (const session of list.sessions) {
      listed.add(session.generation);
      if (this.#gone.has(session.generation)) continue;
      const known = this.rows.get(session.generation);
      if (known && known.touched > asked) continue;
      this.rows.set(session.generation, row(session, received, known));
      this.#skew = Date.parse(session.created) + session.age_ms - Date.now();
    }
    const last = list.next === null ? Infinity : Number(list.next);
    for (const [generation, known] of this.rows) {
      if (generation > after && generation <= last && !listed.has(generation) && known.touched <= asked) {
        this.rows.delete(generation);
      }
    }
    for (const [generation, at] of this.#gone) if (received - at > GONE) this.#gone.delete(generation);
  }

  /** Some sessions, looked at once more. */
  refresh(sessions, asked) {
    const received = performance.now();
    for (const session of sessions) {
      const known = this.rows.get(session.generation);
      if (known && known.touched <= asked) this.rows.set(session.generation, row(session, received, known));
    }
  }

  /** Sessions that have ended before, oldest first. */
  remember(sessions) {
    for (const session of sessions) {
      if (session.state === "ended") this.#bury({ ...row(session, performance.now()), lived: session.age_ms });
    }
  }

  /** An event for the list of events. */
  note(event) {
    this.events.unshift(event);
    if (this.events.length > EVENTS) this.events.length = EVENTS;
  }

  apply(event) {
    const now = performance.now();
    switch (event.type) {
      case "session.created": {
        if (this.#gone.has(event.generation)) return;
        const known = this.rows.get(event.generation) ?? blank(event, now - Math.max(0, Date.now() + this.#skew - Date.parse(event.at)));
        const { worker, pid } = event;
        this.rows.set(event.generation, { ...known, state: "bound", worker, pid, touched: now });
        break;
      }
      case "session.ended": {
        const known = this.rows.get(event.generation) ?? blank(event, now);
        const { reason, detail } = event;
        const ending = { ...known, state: "ending", reason, detail, holders: 0, endsAt: null, endedAt: event.at, touched: now };
        if (event.recycled) this.#end(ending, now);
        else if (!this.#gone.has(event.generation)) this.rows.set(event.generation, ending);
        break;
      }
      case "worker.gone": {
        const known = event.generation === null ? undefined : this.rows.get(event.generation);
        if (known) this.#end({ ...known, death: event.death, endedAt: known.endedAt ?? event.at }, now);
        break;
      }
    }
  }

  #end(row, now) {
    this.rows.delete(row.generation);
    this.#gone.set(row.generation, now);
    this.#bury({ ...row, state: "ended", lived: now - row.born });
  }

  #bury(row) {
    if (this.#endedKnown.has(row.generation)) return;
    this.#endedKnown.add(row.generation);
    this.ended.unshift(row);
    for (const old of this.ended.splice(ENDED)) this.#endedKnown.delete(old.generation);
  }
}

/** A session as the API tells it, its spans turned into moments of this page's clock. */
function row(session, received, known) {
  // A list without usage does not take away what one with it has told.
  const usage = session.usage ?? (session.pid === known?.pid ? known?.usage : null) ?? null;
  return {
    // As commands name it: with `auth`, ids belong to principals.
    id: session.principal ? `${session.principal}/${session.id}` : session.id,
    generation: session.generation,
    kind: session.kind,
    state: session.state,
    reason: session.reason,
    detail: session.detail,
    worker: session.worker,
    pid: session.pid,
    born: received - session.age_ms,
    holders: session.holders,
    requests: session.requests,
    streams: session.streams,
    holds: session.holds,
    endsAt: session.ends_in_ms === null ? null : received + session.ends_in_ms,
    endsFor: session.ends_for,
    endedAt: session.ended,
    death: session.death,
    usage,
    run: session.run ?? null,
    touched: known?.touched ?? 0,
  };
}

/** A session of which only an event is known; the next page tells the rest. */
function blank(event, born) {
  return {
    id: event.session, generation: event.generation, kind: event.kind, state: "bound", reason: null, detail: null,
    worker: null, pid: null, born, holders: 0, requests: 0, streams: 0, holds: 0, endsAt: null, endsFor: null,
    endedAt: null, death: null, usage: null, run: null, touched: 0,
  };
}
