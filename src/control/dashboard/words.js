// Numbers and moments as people read them; the same as the command line prints.

const two = (number) => String(number).padStart(2, "0");

/** `850ms`, `12s`, `3m12s`, `2h03m`, `4d02h`. */
export function duration(ms) {
  const seconds = Math.floor(Math.max(0, ms) / 1000);
  if (seconds === 0) return `${Math.floor(Math.max(0, ms))}ms`;
  if (seconds < 60) return `${seconds}s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)}m${two(seconds % 60)}s`;
  if (seconds < 86_400) return `${Math.floor(seconds / 3600)}h${two(Math.floor(seconds / 60) % 60)}m`;
  return `${Math.floor(seconds / 86_400)}d${two(Math.floor(seconds / 3600) % 24)}h`;
}

/** The same for what goes on: whole seconds. */
export const age = (ms) => (ms < 1000 ? "0s" : duration(ms));

/** `512 B`, `3.1 kB`, `312 MB`: powers of 1000. */
export function size(bytes) {
  let value = bytes;
  let unit = "B";
  for (const larger of ["kB", "MB", "GB", "TB", "PB"]) {
    if (value < 999.5) break;
    value /= 1000;
    unit = larger;
  }
  return unit === "B" || value >= 9.95 ? `${value.toFixed(0)} ${unit}` : `${value.toFixed(1)} ${unit}`;
}

export const count = (number, noun, plural = `${noun}s`) => `${whole(number)} ${number === 1 ? noun : plural}`;
export const processes = (number) => count(number, "process", "processes");
export const whole = (number) => number.toLocaleString("en");

/** The time of day, with the date if that is another day. */
export function moment(text) {
  const at = new Date(text);
  if (Number.isNaN(at.getTime())) return text ?? "";
  const time = `${two(at.getHours())}:${two(at.getMinutes())}:${two(at.getSeconds())}`;
  const sameDay = at.toDateString() === new Date().toDateString();
  return sameDay ? time : `${at.getFullYear()}-${two(at.getMonth() + 1)}-${two(at.getDate())} ${time}`;
}

/** What ends a session, and when. */
export function ends(row, now) {
  if (row.reason) return row.reason;
  if (row.endsAt !== null) {
    const left = `in ${age(row.endsAt - now)}`;
    const why = { max_lifetime: " (max_lifetime)", disconnected: " (disconnected)" }[row.endsFor] ?? "";
    return left + why;
  }
  return row.holders > 0 ? "when released" : "–";
}

function reloaded(event) {
  const told = ["added", "renewed", "adjusted", "removed"].filter((what) => event[what].length > 0);
  return told.map((what) => `${event[what].join(", ")} ${what}`).join("; ") || "every kind of worker is as it was";
}

/** An event in one line. Events of types that are not known here show what they carry. */
export function sentence(event) {
  const who = (by) => (by?.key ? `key ${by.key}` : `uid ${by?.uid ?? "?"}`);
  const command = event.command?.join(" ");
  switch (event.type) {
    case "session.created": return `${event.session} got ${event.worker}${event.pid ? ` (pid ${event.pid})` : ""}`;
    case "session.refused": return `${event.session}: ${event.detail}`;
    case "session.ended": return `${event.session}: ${event.detail}`;
    case "worker.ready": return `${event.worker} can serve`;
    case "worker.failed":
    case "worker.unwell": return `${event.worker}: ${event.detail}`;
    case "worker.gone": {
      const { processes: died, memory_bytes: freed, took_ms: took, exit } = event.death;
      const of = event.session ? ` of ${event.session}` : "";
      return `${event.worker}${of}: ${processes(died)}, ${size(freed)} freed in ${Math.ceil(took)} ms, ${exit}`;
    }
    case "herd.draining": return `bound sessions have ${duration(event.limit_ms)}`;
    case "control.create":
    case "control.stop":
    case "control.hold":
    case "control.token": return `${event.session} by ${who(event.by)}`;
    case "control.exec": return `${event.session} by ${who(event.by)}: ${command}`;
    case "control.drain":
    case "control.reload": return `by ${who(event.by)}`;
    case "exec.ended": return `${event.session}: ${command}: ${event.end.detail}`;
    case "config.reloaded": return `by ${event.cause}: ${reloaded(event)}`;
    case "config.reload_failed": return `by ${event.cause}: ${event.detail}`;
    case "events.lost": return event.missed === null ? "events of an earlier herd were missed" : `${whole(event.missed)} events were missed`;
    default: {
      const { id, at, type, kind, ...rest } = event;
      return Object.entries(rest).map(([name, value]) => `${name}: ${typeof value === "object" ? JSON.stringify(value) : value}`).join(", ");
    }
  }
}
