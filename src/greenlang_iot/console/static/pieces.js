// Small pieces that every page uses.

import { html, useEffect, useRef, useState } from "./vendor/preact-htm.js";
import { get, Refused } from "./gateway.js";
import { bytes, count } from "./format.js";

export const STATES = {
  ok: ["ok", "heard"],
  silent: ["critical", "silent"],
  never: ["muted hollow", "never heard"],
  disabled: ["muted hollow", "disabled"],
  unknown: ["muted hollow", "unknown"],
};

export function State({ is }) {
  const [look, word] = STATES[is] ?? ["muted", is];
  return html`<span class="state ${look}">${word}</span>`;
}

export const LOOKS = { critical: "critical", warning: "warning", info: "info" };

export function Severity({ is }) {
  return html`<span class="state ${LOOKS[is] ?? "muted"}">${is}</span>`;
}

// A list of choices; an empty one stands for all.
export function Choice({ label, value, all, options, set }) {
  return html`<label><span class="hidden-visually">${label}</span>
    <select value=${value} onChange=${(event) => set(event.target.value)}>
      ${all && html`<option value="">${all}</option>`}
      ${options.map(([name, title]) => html`<option key=${name} value=${name} selected=${name === value}>${title}</option>`)}
    </select></label>`;
}

// Pages of a list that the gateway cuts: where we are, one back, one on.
export function Pager({ cursors, set, found, size, shown }) {
  const first = (cursors.length - 1) * size;
  // what stood on the last page is gone: there are others before it
  useEffect(() => {
    if (found?.total > 0 && shown === 0 && cursors.length > 1) set(cursors.slice(0, -1));
  }, [found]);
  return html`<div class="pager">
    <span class="muted">${found && found.total > 0 ? `${count(first + 1)} – ${count(first + shown)} of ${count(found.total)}` : ""}</span>
    <span class="right">
      <button class="button" disabled=${cursors.length === 1} onClick=${() => set(cursors.slice(0, -1))}>Previous</button>
      <button class="button" disabled=${!found?.next} onClick=${() => set([...cursors, found.next])}>Next</button>
    </span>
  </div>`;
}

export function Meter({ value, of, label, full }) {
  const share = of > 0 ? Math.min(1, (value ?? 0) / of) : 0;
  return html`<span class="meter ${full || share > 0.9 ? "full" : ""}" role="img"
    aria-label="${label}: ${bytes(value)} of ${bytes(of)}"><i style=${{ width: `${share * 100}%` }}></i></span>`;
}

export function Empty({ title, children }) {
  return html`<div class="empty"><strong>${title}</strong>${children}</div>`;
}

export const NoDevices = () =>
  html`<${Empty} title="The registry is empty">The gateway hears nobody. <code>greenlang-iot devices discover</code> proposes one.</${Empty}>`;

export function Failed({ error, again }) {
  const missing = error.status === 404;
  return html`<div class="empty" role="alert"><strong>${missing ? "Not found" : "This did not work"}</strong>${error.message}
    ${again && !missing && html`<p><button class="button slim" onClick=${again}>Try again</button></p>`}</div>`;
}

const RETRY = 2000; // milliseconds after which a gateway that was away is asked again

// What an address answers. Keeps the last answer while the next one is on its way: no flicker.
// every: milliseconds after which it is asked again; 0 = once.
// version: asked again when it changes, at most once a second.
export function useAnswer(path, query, every = 0, version = 0) {
  const [state, set] = useState({ document: null, error: null });
  const key = path + JSON.stringify(query);
  const latest = useRef(null);
  useEffect(() => {
    const ended = new AbortController();
    let timer;
    let asked = 0;
    let shown = 0;
    const ask = async () => {
      clearTimeout(timer);
      const number = ++asked;
      let wait = every;
      try {
        const document = await get(path, query, ended.signal);
        if (ended.signal.aborted || number < shown) return; // a later question was answered before
        shown = number;
        set({ document, error: null });
      } catch (error) {
        if (ended.signal.aborted || number < shown) return;
        // while the gateway is away the page says so once, and shows what it had
        if (error instanceof Refused) (shown = number), set({ document: null, error });
        else wait = RETRY;
      }
      if (wait && number === asked) timer = setTimeout(ask, wait);
    };
    latest.current = ask;
    ask();
    return () => (ended.abort(), clearTimeout(timer));
  }, [key, every]);
  const asked = useRef({ version, at: Date.now() });
  useEffect(() => {
    if (version === asked.current.version) return;
    const wait = Math.max(0, asked.current.at + 1000 - Date.now());
    const timer = setTimeout(() => {
      asked.current = { version, at: Date.now() };
      latest.current?.();
    }, wait);
    return () => clearTimeout(timer);
  }, [version]);
  return { ...state, again: () => latest.current?.() };
}

// The value as it was `ms` ago, once it stands still: for a search while somebody types.
export function useSettled(value, ms) {
  const [settled, set] = useState(value);
  useEffect(() => {
    const timer = setTimeout(() => set(value), ms);
    return () => clearTimeout(timer);
  }, [value, ms]);
  return settled;
}

const PATHS = {
  sun: "M12 4V2m0 20v-2m8-8h2M2 12h2m13.7-5.7 1.4-1.4M4.9 19.1l1.4-1.4m0-11.4L4.9 4.9m14.2 14.2-1.4-1.4M16 12a4 4 0 1 1-8 0 4 4 0 0 1 8 0",
  moon: "M20 14.5A8.5 8.5 0 0 1 9.5 4a8.5 8.5 0 1 0 10.5 10.5",
  help: "M9.2 9a3 3 0 0 1 5.8 1c0 2-3 2.5-3 4m0 3.5v.1M21 12a9 9 0 1 1-18 0 9 9 0 0 1 18 0",
};
export const Icon = ({ name }) => html`<svg viewBox="0 0 24 24" fill="none" stroke="currentColor" stroke-width="1.8"
  stroke-linecap="round" stroke-linejoin="round" aria-hidden="true"><path d=${PATHS[name]} /></svg>`;
