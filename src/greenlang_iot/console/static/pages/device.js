// One device: last values, each metric as a picture with its expected band, what was rejected.

import { html, useEffect, useMemo, useState } from "../vendor/preact-htm.js";
import { Chart } from "../chart.js";
import { Empty, Failed, State, useAnswer } from "../pieces.js";
import { now } from "../gateway.js";
import { ago, unit, value } from "../format.js";
import { AlertTable } from "./alerts.js";
import { Letters } from "./letters.js";

const SPANS = [[15, "15 min"], [60, "1 h"], [360, "6 h"], [1440, "24 h"]];
export const KEPT = 2000; // points of a series

export function DevicePage({ where, live }) {
  const { document: device, error, again } = useAnswer(`devices/${encodeURIComponent(where.id)}`, {}, 5000);
  const [minutes, setMinutes] = useState(15);
  const news = live.device?.id === where.id ? live.device : null;
  if (error)
    return html`<div class="head"><h1 tabindex="-1">${where.id}</h1></div>
      <section class="card"><${Failed} error=${error} again=${again} /><p class="empty"><a href="#/devices">All devices</a></p></section>`;
  const series = (device?.series ?? []).map((s) => ({ ...s, ...news?.series.find(({ metric }) => metric === s.metric) }));
  const quiet = series.map((s) => s.quiet).filter((q) => q != null);
  return html`
    <div class="head">
      <h1 tabindex="-1">${where.id}</h1>
      ${device && html`<${State} is=${device.state} />
        <span class="muted">${device.org} / ${device.site} · ${device.type}${device.registered ? "" : " · not registered"}${quiet.length ? ` · heard ${ago(Math.min(...quiet))}` : device.state === "unknown" ? " · its shard does not answer" : ""}</span>`}
      <span class="right choice" role="group" aria-label="Time shown">
        ${SPANS.map(([span, title]) => html`<button key=${span} aria-pressed=${minutes === span} onClick=${() => setMinutes(span)}>${title}</button>`)}
      </span>
    </div>
    <div class="grid">
      ${device && series.length === 0 && html`<section class="card span-12"><${Empty} title="No shard answers for this device">It may be starting; this page tries again.</${Empty}></section>`}
      ${series.map((s) => html`<${Metric} key=${s.metric} device=${where.id} series=${s} minutes=${minutes} fresh=${news?.points.get(s.metric)} />`)}
      ${device && html`<section class="card span-12">
        <header><h2>Alerts</h2><a class="small" href="#/alerts?${new URLSearchParams({ q: where.id, state: "all" })}">all of this device</a></header>
        <${AlertsOf} device=${where.id} version=${live.overview?.alert_changes} />
      </section>`}
      ${device && html`<section class="card span-12">
        <header><h2>Rejected</h2><span class="muted small">the newest dead letters of this device</span></header>
        <${Letters} letters=${device.dead_letters} none="Nothing of this device is among the newest dead letters." />
      </section>`}
    </div>`;
}

function AlertsOf({ device, version }) {
  const { document: found, error } = useAnswer("alerts", { device, limit: 5 }, 0, version);
  if (error) return html`<${Failed} error=${error} />`;
  if (!found) return html`<p class="letter muted">Reading…</p>`;
  if (found.alerts.length === 0) return html`<${Empty} title="No alert of this device is remembered." />`;
  return html`<${AlertTable} alerts=${found.alerts} />`;
}

// every: milliseconds after which the series is asked for again: where no events bring it, or the lake was busy.
export function Metric({ device, series: s, minutes, fresh, every = 60000, marks = [], until = 0, height = 140, wide = false }) {
  const { document: past } = useAnswer(`devices/${encodeURIComponent(device)}/series`, { metric: s.metric, minutes }, every);
  const [points, setPoints] = useState([]);
  // a thinned past stands for all up to its end: what came since is drawn reading by reading
  const since = (given) => (past?.thinned ? given.filter(([ts]) => ts > past.points.at(-1)[0]) : given);
  useEffect(() => past && setPoints((old) => merged(past.points, since(old))), [past]);
  useEffect(() => fresh && setPoints((old) => merged(old, since(fresh))), [fresh]);
  const to = points.at(-1)?.[0] ?? now();
  const shown = useMemo(() => points.filter(([ts]) => ts >= to - minutes * 60), [points, to, minutes]);
  // A series that began a moment ago fills its picture; a minute at least, so that a few readings stand still.
  const from = Math.max(to - minutes * 60, Math.min(shown[0]?.[0] ?? to, to - 60));
  const data = useMemo(() => columns(shown, s.expected, s.band), [shown, s.expected, s.band]);
  const sign = unit(s.unit);
  const suspects = shown.filter((point) => point[5]).length;
  return html`<section class="card ${wide ? "span-12" : "span-6"}">
    <header>
      <h2>${s.metric}</h2>
      <span><b class="figure-value">${value(s.value)}</b> <span class="muted">${sign}</span></span>
    </header>
    <div class="body">
      <p class="small muted">${s.ts == null ? ""
        : s.learning ? "Learning what is normal."
        : s.expected == null ? "A counter: what is expected depends on the time between readings."
        : html`expected ${value(s.expected)} ± ${value(s.band)} ${sign}`}
        ${suspects > 0 && html` · <span class="critical">${suspects} suspect</span>`}
        ${past?.thinned && html` · ${past.note}`}</p>
      ${shown.length > 0
        ? html`<${Chart} data=${data} from=${from} format=${value} height=${height} marks=${marks} until=${until} zero=${false} label="${s.metric} of the last ${minutes} minutes"
            lines=${[{ label: s.metric, mark: 1, colour: "accent", spanGaps: true }, {}, {}, {}, {}, { colour: "critical", points: true }]}
            bands=${[{ series: [3, 2], colour: "band" }, { series: [5, 4], colour: "band-now" }]}
            extra=${(i) => html`<span>score <b>${shown[i]?.[2] == null ? "–" : shown[i][2].toFixed(3)}</b></span>`} />`
        : html`<div class="empty chart-space">${past ? (past.note || (s.ts == null ? "Nothing has come yet." : "Nothing in this time.")) : "Reading…"}</div>`}
    </div>
  </section>`;
}

// [time, value, score, expected, band, suspect]: of one time the newer knowledge wins, which has a band
function merged(older, newer) {
  const at = new Map(older.map((point) => [point[0], point]));
  for (const point of newer) if (point[3] != null || !at.has(point[0])) at.set(point[0], point);
  return [...at.values()].sort((a, b) => a[0] - b[0]).slice(-KEPT);
}

// uPlot's columns. Where a reading's own band is not known, today's is drawn, lighter.
function columns(points, expected, band) {
  const known = expected != null && band != null;
  const own = (point, sign) => (point[3] == null || point[4] == null ? null : point[3] + sign * point[4]);
  const now = (point, sign) => (known && point[3] == null ? expected + sign * band : null);
  return [
    points.map((p) => p[0]),
    points.map((p) => p[1]),
    points.map((p) => own(p, -1)),
    points.map((p) => own(p, 1)),
    points.map((p) => now(p, -1)),
    points.map((p) => now(p, 1)),
    points.map((p) => (p[5] ? p[1] : null)),
  ];
}
