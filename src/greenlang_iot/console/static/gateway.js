// Everything that is said to the gateway: questions, actions with the token, the stream of events.

const TOKEN = "admin-token";
const ANSWER_WITHIN = 30000; // milliseconds; what takes longer will not come any more
const SILENT = 10000; // milliseconds without an event, where one comes every second: nobody is there any more

export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

let askToken = async () => null;

let ahead = 0; // seconds that the gateway's clock is before the browser's, as far as answers say it: to a second

// the time at the gateway, in seconds since 1970
export const now = () => Date.now() / 1000 + ahead;

// how a token is asked for: resolves to the token, or null where the person gives up
export function onToken(ask) {
  askToken = ask;
}

export const hasToken = () => sessionStorage.getItem(TOKEN) !== null;
export const forgetToken = () => sessionStorage.removeItem(TOKEN);

async function send(path, options = {}) {
  const headers = new Headers(options.headers);
  const token = sessionStorage.getItem(TOKEN);
  if (token !== null) headers.set("Authorization", `Bearer ${token}`);
  const answer = await fetch(path, { ...options, headers, cache: "no-store", credentials: "omit" });
  const said = Date.parse(answer.headers.get("Date")) / 1000;
  if (said > 0) ahead = said + 0.5 - Date.now() / 1000;
  return answer;
}

// within: milliseconds for the whole answer
async function withToken(path, given, within = null) {
  const options = () => (within ? { ...given, signal: bounded(given.signal, within) } : given);
  let answer = await send(path, options());
  while (answer.status === 401) {
    const wrong = hasToken();
    forgetToken();
    const token = await askToken(wrong);
    if (token === null) throw new Refused(401, "This needs the token.");
    sessionStorage.setItem(TOKEN, token);
    answer = await send(path, options());
  }
  return answer;
}

// ends with `signal`, and after so many milliseconds (AbortSignal.any is too young for some browsers)
function bounded(signal, within) {
  const ended = new AbortController();
  const end = () => ended.abort();
  signal?.addEventListener("abort", end, { once: true });
  if (signal?.aborted) end();
  setTimeout(end, within);
  return ended.signal;
}

async function parsed(answer) {
  if (!answer.ok) {
    const document = await answer.json().catch(() => ({}));
    const said = [document.error ?? `The gateway answered ${answer.status}.`, ...(document.problems ?? [])];
    throw new Refused(answer.status, said.join(": "));
  }
  return answer.json(); // one that is cut off is none
}

export async function get(path, query = {}, signal = undefined) {
  const given = Object.entries(query).filter(([, v]) => v !== "" && v != null);
  const search = given.length ? `?${new URLSearchParams(given)}` : "";
  return parsed(await withToken(`api/v1/${path}${search}`, { signal }, ANSWER_WITHIN));
}

// an action: asks for the token first, where the page has none yet
export async function act(method, path, body) {
  if (!hasToken()) {
    const token = await askToken(false);
    if (token === null) throw new Refused(401, "This needs the token.");
    sessionStorage.setItem(TOKEN, token);
  }
  const options = { method };
  if (body !== undefined) {
    options.headers = { "Content-Type": "application/json" };
    options.body = JSON.stringify(body);
  }
  return parsed(await withToken(`api/v1/${path}`, options));
}

// Server-sent events over fetch, because EventSource cannot send a token. Reconnects until closed.
// on: event name → function of its document; state: function of "live" | "lost".
export function listen(device, on, state) {
  const ended = new AbortController();
  (async () => {
    let wait = 500;
    while (!ended.signal.aborted) {
      try {
        const query = device ? `?${new URLSearchParams({ device })}` : "";
        const answer = await withToken(`api/v1/events${query}`, { signal: ended.signal });
        if (!answer.ok) throw new Refused(answer.status, "no events");
        state("live");
        wait = 500;
        await read(answer.body, on);
      } catch (error) {
        if (ended.signal.aborted) return;
        if (!(error instanceof TypeError || error instanceof Refused || error.name === "AbortError")) console.error(error);
      }
      if (ended.signal.aborted) return;
      state("lost");
      await new Promise((done) => setTimeout(done, wait));
      wait = Math.min(wait * 2, 4000);
    }
  })();
  return () => ended.abort();
}

async function read(body, on) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    // a gateway that is cut off or stands still ends no stream
    const silent = setTimeout(() => reader.cancel().catch(() => {}), SILENT);
    const { value, done } = await reader.read().finally(() => clearTimeout(silent));
    if (done) return;
    const events = (rest + value).split("\n\n");
    rest = events.pop();
    for (const event of events) {
      const lines = event.split("\n");
      const name = lines.find((line) => line.startsWith("event: "))?.slice(7);
      const data = lines.find((line) => line.startsWith("data: "))?.slice(6);
      if (name !== undefined && data !== undefined) on[name]?.(JSON.parse(data));
    }
  }
}
