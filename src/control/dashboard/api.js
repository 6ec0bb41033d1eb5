// Requests to herd's control API. A key, where herd asks for one, stays in this tab's sessionStorage.

const KEY = "herd.key";
/** Longer than herd's heartbeats of 15 s: a stream that says nothing for so long is dead. */
const SILENCE = 40_000;
const PATIENCE = 15_000;

/** herd's own refusal: a problem document. */
export class Refused extends Error {
  constructor(status, code, detail) {
    super(detail);
    this.status = status;
    this.code = code;
  }
}

export const key = {
  get: () => sessionStorage.getItem(KEY),
  set: (value) => sessionStorage.setItem(KEY, value),
  forget: () => sessionStorage.removeItem(KEY),
  /** `herd dashboard` hands its token over in the fragment, which no browser sends anywhere. It does not stay there. */
  takeFromAddress() {
    const found = /^#key=([A-Za-z0-9_~.+/=-]{1,512})$/.exec(location.hash);
    if (location.hash) history.replaceState(null, "", location.pathname);
    if (found) this.set(found[1]);
    return Boolean(found);
  },
};

/** The path of a session by the name that commands use: `id`, or `principal/id`. */
export function sessionPath(name, rest = "", parameters = []) {
  const [id, principal] = name.split("/").reverse();
  const query = principal ? [`principal=${encodeURIComponent(principal)}`, ...parameters] : parameters;
  return `/v1/sessions/${encodeURIComponent(id)}${rest}${query.length > 0 ? "?" : ""}${query.join("&")}`;
}

async function request(method, path, signal, headers = {}) {
  const presented = key.get();
  if (presented) headers.authorization = `Bearer ${presented}`;
  // Relative to this page, wherever a proxy may have put it.
  const answer = await fetch(path.slice(1), {
    method, headers, signal, cache: "no-store", credentials: "omit", redirect: "error",
  });
  if (answer.ok) return answer;
  const problem = await answer.json().catch(() => ({}));
  throw new Refused(answer.status, problem.code ?? "", problem.detail ?? `herd answered with ${answer.status}`);
}

/** The JSON of an answer. */
export async function ask(method, path, signal) {
  const limit = AbortSignal.timeout(PATIENCE);
  const answer = await request(method, path, signal ? AbortSignal.any([signal, limit]) : limit);
  return answer.json();
}

/** The text of an answer as it comes. `begins()`: it is there. `alive: true`: it has to say something from time to time. */
export async function* stream(path, { signal, headers, begins, alive = false }) {
  const quiet = new AbortController();
  const answer = await request("GET", path, AbortSignal.any([signal, quiet.signal]), headers);
  begins?.();
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let timer;
  try {
    for (;;) {
      if (alive) timer = setTimeout(() => quiet.abort(new Error("silent")), SILENCE);
      const { done, value } = await reader.read();
      clearTimeout(timer);
      if (done) return;
      yield value;
    }
  } finally {
    clearTimeout(timer);
    reader.cancel().catch(() => {});
  }
}

/** Server-sent events as herd writes them: one `data` line of JSON each. Gives arrays, and `[]` for a sign of life. */
export async function* events(path, { signal, last }) {
  const headers = last ? { "last-event-id": last } : {};
  let rest = "";
  for await (const text of stream(path, { signal, headers, alive: true })) {
    const blocks = (rest + text).split("\n\n");
    rest = blocks.pop();
    const found = [];
    for (const block of blocks) {
      const line = block.split("\n").find((line) => line.startsWith("data: "));
      if (line) found.push(JSON.parse(line.slice(6)));
    }
    yield found;
  }
}
