// One session beside the list: what is known of it, and its worker's output as it comes.

import { Refused, ask, sessionPath, stream } from "./api.js";
import { element } from "./grid.js";
import { count, duration, ends, moment, processes, size, whole } from "./words.js";

/** Lines that are kept on the page, and from the past when it is opened. */
const LINES = 5000;
const TAIL = 500;
const REFRESH = 2000;

export class Detail {
  #root = document.getElementById("detail");
  #title = document.getElementById("detail-id");
  #stop = document.getElementById("detail-stop");
  #facts = document.getElementById("detail-facts");
  #log = new Log();
  #shown = null;
  #closing = null;
  #back = null;

  /** `stop(row)`: somebody wants to stop it. `closed()`. */
  constructor({ stop, closed }) {
    this.onClosed = closed;
    this.#stop.addEventListener("click", () => this.#shown && stop(this.#shown));
    document.getElementById("detail-close").addEventListener("click", () => this.close());
  }

  get row() {
    return this.#root.hidden ? null : this.#shown;
  }

  open(row) {
    if (this.row?.generation === row.generation && this.row.id === row.id) return;
    if (this.#root.hidden) this.#back = document.activeElement;
    this.#closing?.abort();
    this.#closing = new AbortController();
    this.#shown = row;
    this.#title.textContent = row.id;
    this.#root.hidden = false;
    this.#facts.replaceChildren();
    this.#look(this.#closing.signal);
    this.#log.follow(row, this.#closing.signal);
  }

  close() {
    if (this.#root.hidden) return;
    this.#closing?.abort();
    this.#root.hidden = true;
    this.#back?.focus?.();
    this.onClosed();
  }

  async #look(signal) {
    const { id, generation } = this.#shown;
    while (!signal.aborted) {
      try {
        const history = await ask("GET", sessionPath(id), signal);
        const session = [history, ...history.earlier].find((one) => one.generation === generation);
        if (session) {
          this.#tell(session, history.earlier.length);
          if (session.state === "ended") return;
        }
      } catch (error) {
        if (signal.aborted) return;
        // It is not going to be answered in another way: asking on would only be noise.
        if (error instanceof Refused && error.status < 500) return this.#untold(error);
      }
      await new Promise((resolve) => setTimeout(resolve, REFRESH));
    }
  }

  #untold({ status, message }) {
    this.#stop.hidden = true;
    if (!this.#facts.childElementCount) this.#fact("state", status === 404 ? "herd does not remember it any more" : message);
  }

  #tell(session, earlier) {
    const now = performance.now();
    const endsAt = session.ends_in_ms === null ? null : now + session.ends_in_ms;
    const over = session.ended !== null || session.state === "ended";
    const facts = [
      ["state", session.detail ? `${session.state}: ${session.detail}` : session.state],
      ["kind", { on: `${session.kind}, in a sandbox`, weaker: `${session.kind}, in a weaker sandbox` }[session.sandbox] ?? `${session.kind}, no sandbox`],
      ["worker", session.worker && [session.worker, session.pid && `pid ${session.pid}`, session.endpoint].filter(Boolean).join(", ")],
      ["created", `${moment(session.created)}, ${over ? "lived" : "for"} ${duration(session.age_ms)}`],
    ];
    if (!over) {
      const held = [
        session.requests && count(session.requests, "request"),
        session.streams && count(session.streams, "stream"),
        session.holds && count(session.holds, "hold"),
      ].filter(Boolean).join(", ");
      facts.push(["held by", held || "nothing"]);
      facts.push(["ends", ends({ ...session, endsAt, endsFor: session.ends_for }, now)]);
    }
    if (session.usage) {
      const { processes: number, memory_bytes: memory, cpu_seconds: cpu } = session.usage;
      facts.push(["uses", `${processes(number)}, ${size(memory)}, ${duration(cpu * 1000)} of processor time`]);
    }
    if (session.death) {
      const { processes: number, memory_bytes: memory, took_ms: took, exit } = session.death;
      facts.push(["exit", exit], ["died", `${processes(number)}, ${size(memory)} freed, ${Math.ceil(took)} ms`]);
    }
    if (session.disconnect_to_dead_ms != null) facts.push(["all gone", `${session.disconnect_to_dead_ms.toFixed(1)} ms after its client had left, disconnect_grace not counted`]);
    if (session.run) facts.push(["herd", `a former one, which started ${moment(session.run)}`]);
    if (earlier) facts.push(["before", count(earlier, "earlier session") + " of this id"]);
    this.#facts.replaceChildren();
    for (const [name, text] of facts) if (text) this.#fact(name, text);
    this.#stop.hidden = session.state === "ended";
  }

  #fact(name, text) {
    this.#facts.append(element("dt", "", name), element("dd", "", text));
  }
}

/** A worker's output: the last lines, then what comes. Bounded; what was dropped is told. */
class Log {
  #view = document.getElementById("log");
  #state = document.getElementById("log-state");
  #end = document.getElementById("log-end");
  #pending = "";
  #chunks = [];
  #lines = 0;
  #dropped = 0;
  #following = true;
  #scheduled = false;

  constructor() {
    this.#view.addEventListener("scroll", () => {
      const left = this.#view.scrollHeight - this.#view.scrollTop - this.#view.clientHeight;
      this.#following = left < 8;
      this.#end.hidden = this.#following;
    }, { passive: true });
    this.#end.addEventListener("click", () => this.#toEnd());
  }

  async follow(row, signal) {
    this.#clear();
    const path = sessionPath(row.id, "/logs", ["follow", `tail=${TAIL}`, `generation=${row.generation}`]);
    while (!signal.aborted) {
      try {
        this.#tell("…");
        // What was shown comes again with this answer. Until there is one, it may be the only copy that is left.
        const begins = () => !signal.aborted && this.#clear();
        for await (const text of stream(path, { signal, begins })) {
          if (signal.aborted) return;
          this.#tell("live");
          this.#add(text);
        }
        if (signal.aborted) return;
        // What came last tells that it is live, and is not drawn yet.
        this.#draw();
        this.#tell("ended");
        return;
      } catch (error) {
        if (signal.aborted) return;
        // No worker yet: it will come.
        if (error instanceof Refused && error.code !== "no_worker_yet") return this.#tell(this.#lost(error));
        this.#draw();
        this.#tell(error instanceof Refused ? "waits for a worker" : "reconnecting");
        await new Promise((resolve) => setTimeout(resolve, 1000));
      }
    }
  }

  #lost({ status, message }) {
    const why = status === 404 ? "not kept" : message;
    return this.#lines ? `${why}; shown is what came before` : why;
  }

  #clear() {
    this.#view.replaceChildren();
    this.#pending = "";
    this.#chunks.length = 0;
    this.#lines = this.#dropped = 0;
    this.#following = true;
    this.#end.hidden = true;
  }

  #add(text) {
    this.#pending += text;
    if (this.#scheduled) return;
    this.#scheduled = true;
    // Once a frame at most, and still when the page is not in sight.
    setTimeout(() => {
      this.#scheduled = false;
      this.#draw();
    }, 50);
  }

  #draw() {
    let text = this.#pending;
    if (!text) return;
    this.#pending = "";
    // A flood: lines that would be dropped at once are not drawn at all.
    let lines = newlines(text);
    if (lines > LINES) {
      let at = 0;
      for (let skip = lines - LINES; skip > 0; skip--) at = text.indexOf("\n", at) + 1;
      this.#dropped += lines - LINES;
      text = text.slice(at);
      lines = LINES;
    }
    const chunk = document.createTextNode(text);
    this.#view.append(chunk);
    this.#chunks.push({ chunk, lines });
    this.#lines += lines;
    while (this.#lines > LINES && this.#chunks.length > 1) {
      const old = this.#chunks.shift();
      old.chunk.remove();
      this.#lines -= old.lines;
      this.#dropped += old.lines;
    }
    this.#tell("live");
    if (this.#following) this.#toEnd();
  }

  #toEnd() {
    this.#view.scrollTop = this.#view.scrollHeight;
    this.#following = true;
    this.#end.hidden = true;
  }

  #tell(state) {
    const dropped = this.#dropped ? `; ${whole(this.#dropped)} older lines are no longer shown` : "";
    const text = state + dropped;
    if (this.#state.textContent !== text) this.#state.textContent = text;
  }
}

function newlines(text) {
  let found = 0;
  for (let at = text.indexOf("\n"); at >= 0; at = text.indexOf("\n", at + 1)) found++;
  return found;
}
