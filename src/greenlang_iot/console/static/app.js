// The frame: which page, the live state that all pages share, keys, token, theme.

import { html, render, useEffect, useRef, useState } from "./vendor/preact-htm.js";
import { get, listen, onToken } from "./gateway.js";
import { Icon } from "./pieces.js";
import { OverviewPage } from "./pages/overview.js";
import { AlertPage } from "./pages/alert.js";
import { AlertsPage } from "./pages/alerts.js";
import { DevicesPage } from "./pages/devices.js";
import { DevicePage, KEPT } from "./pages/device.js";
import { FleetPage } from "./pages/fleet.js";

const PAGES = [
  { name: "overview", title: "Overview", key: "o", show: OverviewPage },
  { name: "alerts", title: "Alerts", key: "a", show: AlertsPage, one: AlertPage },
  { name: "devices", title: "Devices", key: "d", show: DevicesPage, one: DevicePage },
  { name: "fleet", title: "Fleet", key: "f", show: FleetPage },
];
const HISTORY = 600;

// "#/devices/pump-7?q=x" → {page, id, query}
function place() {
  const [path, search = ""] = location.hash.replace(/^#\/?/, "").split("?");
  const [page = "", ...rest] = path.split("/");
  const known = PAGES.some(({ name }) => name === page);
  return {
    page: known ? page : "overview",
    id: decoded(rest.join("/")),
    query: Object.fromEntries(new URLSearchParams(search)),
  };
}

// a percent sign that was typed by hand stands for itself
function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

function App() {
  const [where, setWhere] = useState(place);
  const [live, setLive] = useState({ overview: null, history: null, device: null, state: "starting" });
  const [help, setHelp] = useState(false);
  const device = where.page === "devices" ? where.id : "";

  useEffect(() => {
    const moved = () => setWhere(place());
    addEventListener("hashchange", moved);
    return () => removeEventListener("hashchange", moved);
  }, []);

  const path = `${where.page}/${where.id}`;
  const first = useRef(true);
  useEffect(() => {
    const page = PAGES.find(({ name }) => name === where.page);
    document.title = `${where.id || page.title} · greenlang-iot`;
    // the first page keeps the focus where the browser put it
    if (!first.current) document.querySelector("h1")?.focus();
    first.current = false;
    scrollTo(0, 0);
  }, [path]);

  useEffect(() => {
    const history = async () => {
      const document = await get("overview");
      setLive((old) => ({ ...old, overview: document, history: followed(document.history, old.history) }));
    };
    const stop = listen(
      device,
      {
        overview: (overview) => setLive((old) => ({ ...old, overview, history: appended(old.history, overview.second) })),
        device: (news) => setLive((old) => ({ ...old, device: joined(old.device, news) })),
      },
      (state) => {
        setLive((old) => ({ ...old, state }));
        if (state === "live") history().catch(() => {});
      },
    );
    return () => (stop(), setLive((old) => ({ ...old, device: null })));
  }, [device]);

  useKeys(() => setHelp((open) => !open));
  const page = PAGES.find(({ name }) => name === where.page);
  const shown = where.id && page.one ? page.one : page.show;
  return html`<div class=${live.state === "lost" ? "stale" : ""}>
    <a class="skip" href="#main" onClick=${skip}>Skip to content</a>
    <${Bar} where=${where} live=${live} help=${() => setHelp(true)} />
    <main id="main" tabindex="-1"><${shown} key=${path} where=${where} live=${live} /></main>
    <p role="status" class=${live.state === "lost" ? "notice" : "hidden-visually"}>
      ${live.state === "lost" ? "No connection to the gateway. Trying again…" : ""}
    </p>
    ${help && html`<${Help} close=${() => setHelp(false)} />`}
    <${TokenDialog} />
  </div>`;
}

function Bar({ where, live, help }) {
  const overview = live.overview;
  const open = Object.values(overview?.alerts_open ?? {}).reduce((sum, n) => sum + (n ?? 0), 0);
  const dark = document.documentElement.dataset.theme === "dark";
  const [, redraw] = useState(0);
  useEffect(() => {
    const changed = () => redraw((n) => n + 1);
    addEventListener("theme", changed);
    return () => removeEventListener("theme", changed);
  }, []);
  return html`<header class="bar">
    <a class="brand" href="#/overview"><img src="console/icon.svg" alt="" />greenlang-iot <span>${overview?.instance}</span></a>
    <nav class="nav" aria-label="Pages">
      ${PAGES.map(
        ({ name, title }) => html`<a key=${name} href="#/${name}" aria-current=${where.page === name ? "page" : undefined}>${title}
            ${name === "alerts" && open > 0 && html`<span class="count" aria-label="${open} open">${open > 999 ? "999+" : open}</span>`}</a>`,
      )}
    </nav>
    <div class="tools">
      <${Health} live=${live} />
      <button class="icon-button" onClick=${() => window.toggleTheme()} aria-label=${dark ? "Light theme" : "Dark theme"} title="Theme (t)">
        <${Icon} name=${dark ? "sun" : "moon"} />
      </button>
      <button class="icon-button keyboard-only" onClick=${help} aria-label="Keyboard shortcuts" title="Keys (?)"><${Icon} name="help" /></button>
    </div>
  </header>`;
}

function Health({ live }) {
  if (live.state === "lost") return html`<span class="state critical">offline</span>`;
  if (!live.overview) return html`<span class="state muted hollow">connecting</span>`;
  return live.overview.ready
    ? html`<span class="state ok">ready</span>`
    : html`<span class="state critical" title=${live.overview.reasons.join("\n")}>not ready</span>`;
}

function Help({ close }) {
  const dialog = useRef(null);
  useEffect(() => dialog.current.showModal(), []);
  const keys = [
    ...PAGES.map(({ key, title }) => [["g", key], title]),
    [["/"], "Search"],
    [["j"], "Next row"],
    [["k"], "Row before"],
    [["Enter"], "Open the row"],
    [["t"], "Light or dark"],
    [["?"], "These keys"],
  ];
  return html`<dialog ref=${dialog} onClose=${close} aria-labelledby="help-title">
    <form method="dialog">
      <h2 id="help-title">Keys</h2>
      <dl class="keys">
        ${keys.map(
          ([pressed, what]) => html`<dt>${pressed.map((key) => html`<kbd key=${key}>${key}</kbd> `)}</dt><dd>${what}</dd>`,
        )}
      </dl>
      <div class="buttons"><button class="button main">Close</button></div>
    </form>
  </dialog>`;
}

// One dialog for whoever needs the token; several that ask at once wait for the same answer.
function TokenDialog() {
  const dialog = useRef(null);
  const field = useRef(null);
  const waiting = useRef([]);
  const [wrong, setWrong] = useState(false);
  useEffect(() => {
    onToken((again) => {
      setWrong(again);
      if (!dialog.current.open) dialog.current.showModal();
      return new Promise((done) => waiting.current.push(done));
    });
  }, []);
  const answer = (token) => {
    const asked = waiting.current.splice(0);
    if (field.current) field.current.value = "";
    dialog.current.close();
    asked.forEach((done) => done(token));
  };
  const submit = (event) => {
    event.preventDefault();
    answer(field.current.value.trim() || null);
  };
  return html`<dialog ref=${dialog} onCancel=${() => answer(null)} aria-labelledby="token-title">
    <form onSubmit=${submit}>
      <h2 id="token-title">Token</h2>
      <p class="muted">It is in the file <code>admin-token</code> of the gateway's data folder. This tab keeps it until you close it.</p>
      <label>Token<input type="password" ref=${field} autocomplete="off" required aria-invalid=${wrong} /></label>
      ${wrong && html`<p class="error" role="alert">The gateway did not accept that token.</p>`}
      <div class="buttons">
        <button type="button" class="button" onClick=${() => answer(null)}>Cancel</button>
        <button class="button main">Use it</button>
      </div>
    </form>
  </dialog>`;
}

function skip(event) {
  event.preventDefault();
  document.getElementById("main").focus();
}

// How a device stands now, with every point that came since its page was opened: several events may come
// before a page draws, and what only one of them said must not be lost.
function joined(old, news) {
  if (old?.id !== news.id) return { ...news, points: new Map(Object.entries(news.points)) };
  const points = new Map(old.points);
  for (const [metric, fresh] of Object.entries(news.points)) points.set(metric, [...(points.get(metric) ?? []), ...fresh].slice(-KEPT));
  return { ...news, points };
}

// The seconds that the gateway remembers, and those that came as events while it said so.
function followed(history, old) {
  const after = history.time.at(-1) ?? 0;
  const from = old?.time.findIndex((time) => time > after && time < after + 60) ?? -1;
  if (from < 0) return history;
  return Object.fromEntries(Object.entries(history).map(([name, column]) => [name, [...column, ...old[name].slice(from)].slice(-HISTORY)]));
}

function appended(history, second) {
  if (!history || !second || history.time.at(-1) === second.time) return history;
  return Object.fromEntries(Object.entries(history).map(([name, column]) => [name, [...column, second[name]].slice(-HISTORY)]));
}

function useKeys(toggleHelp) {
  useEffect(() => {
    let before = "";
    const pressed = (event) => {
      const typing = event.target.closest?.("input, textarea, select, dialog");
      if (typing || event.ctrlKey || event.metaKey || event.altKey) return;
      const page = before === "g" && PAGES.find(({ key }) => key === event.key);
      before = event.key;
      if (page) location.hash = `#/${page.name}`;
      else if (event.key === "/") document.querySelector("input[type=search]")?.focus();
      else if (event.key === "j" || event.key === "k") step(event.key === "j" ? 1 : -1);
      else if (event.key === "t") window.toggleTheme();
      else if (event.key === "?") toggleHelp();
      else return;
      event.preventDefault();
    };
    addEventListener("keydown", pressed);
    return () => removeEventListener("keydown", pressed);
  }, []);
}

// rows are walked by the link or button that opens them
function step(by) {
  const rows = [...document.querySelectorAll("main [data-row]")];
  if (!rows.length) return;
  const at = rows.indexOf(document.activeElement);
  rows[at < 0 ? 0 : Math.max(0, Math.min(rows.length - 1, at + by))].focus();
}

render(html`<${App} />`, document.getElementById("app"));
document.querySelector(".starting")?.remove();
