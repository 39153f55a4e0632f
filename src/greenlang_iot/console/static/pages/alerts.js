// Alerts as a live table: narrowed, searched, acknowledged, silenced; and the silences that hold.

import { html, useState } from "../vendor/preact-htm.js";
import { Choice, Empty, Failed, Pager, Severity, useAnswer, useSettled } from "../pieces.js";
import { now } from "../gateway.js";
import { plural, time, words } from "../format.js";
import { Acknowledge, EndSilence, PlanSilence, Silence } from "./actions.js";

const PAGE = 50;
const STATES = { live: "pending,open,acknowledged", open: "open", acknowledged: "acknowledged", resolved: "resolved", all: "" };
const NAMES = { live: "Not resolved", open: "Open", acknowledged: "Acknowledged", resolved: "Resolved", all: "All" };

export const seconds = (ns) => ns / 1e9;
export const flagged = (alert, flag) => (alert.flags ?? []).includes(flag);

export function AlertsPage({ where, live }) {
  const [q, setQ] = useState(where.query.q ?? "");
  const [state, setState] = useState(STATES[where.query.state] === undefined ? "live" : where.query.state);
  const [severity, setSeverity] = useState("");
  const [cursors, setCursors] = useState([""]);
  const [action, setAction] = useState(null);
  const settled = useSettled(q, 150);
  const query = { q: settled, state: STATES[state], severity, limit: PAGE, cursor: cursors.at(-1) };
  const { document: found, error, again } = useAnswer("alerts", query, 15000, live.overview?.alert_changes);
  const narrow = (change) => (change(), setCursors([""]));
  return html`
    <div class="head"><h1 tabindex="-1">Alerts</h1>
      <span class="muted" role="status">${found ? plural(found.total, "alert") : ""}</span></div>
    <form class="filters" role="search" onSubmit=${(event) => event.preventDefault()}>
      <label class="grow"><span class="hidden-visually">Search</span>
        <input type="search" placeholder="Search by device, site, metric, rule or words" value=${q}
          onInput=${(event) => narrow(() => setQ(event.target.value))} /></label>
      <${Choice} label="State" value=${state} set=${(name) => narrow(() => setState(name))} options=${Object.entries(NAMES)} />
      <${Choice} label="Severity" value=${severity} all="Any severity" set=${(name) => narrow(() => setSeverity(name))}
        options=${["critical", "warning", "info"].map((name) => [name, name])} />
    </form>
    <section class="card" aria-label="Alerts">
      ${error ? html`<${Failed} error=${error} again=${again} />`
        : !found ? html`<${Empty} title="Reading…" />`
        : found.alerts.length === 0 ? html`<${Empty} title=${settled || severity ? "No alert matches" : "Nothing to look after"}>
            ${settled || severity ? "Try fewer letters, or another state." : "Alerts appear here the moment they open."}</${Empty}>`
        : html`<${AlertTable} alerts=${found.alerts} act=${setAction} />`}
      <${Pager} cursors=${cursors} set=${setCursors} found=${found} size=${PAGE} shown=${found?.alerts.length ?? 0} />
    </section>
    <${Silences} version=${live.overview?.alert_changes} />
    ${action && html`<${action.what === "silence" ? Silence : Acknowledge} alert=${action.alert}
      close=${(done) => (setAction(null), done && again())} />`}`;
}

// act: function of {what, alert}; without it the table only shows
export function AlertTable({ alerts, act = null }) {
  return html`<div class="table"><table class="folding alerts">
    <thead><tr><th>Severity</th><th>What</th><th>State</th><th class="n">Opened</th>${act && html`<th><span class="hidden-visually">Actions</span></th>`}</tr></thead>
    <tbody>${alerts.map((alert) => html`<tr key=${alert.alert_id}>
      <td><${Severity} is=${alert.severity} /></td>
      <td class="wide"><a class="title" data-row href="#/alerts/${encodeURIComponent(alert.alert_id)}">${alert.summary}</a>
        <span class="muted small place">${[alert.org, alert.site, alert.device, alert.metric].filter(Boolean).join(" / ")}
          <span class="tag">${words(alert.rule)}</span>${flagged(alert, "flapping") && html` <span class="tag">flapping</span>`}</span></td>
      <td class="second"><${AlertState} alert=${alert} /></td>
      <td class="n muted">${time(seconds(alert.opened))}</td>
      ${act && html`<td class="right whole"><span class="actions">
        <button class="button slim" disabled=${alert.state !== "open"} onClick=${() => act({ what: "acknowledge", alert })}
          aria-label="Acknowledge: ${alert.summary}">Acknowledge</button>
        <button class="button slim" disabled=${alert.state === "resolved"} onClick=${() => act({ what: "silence", alert })}
          aria-label="Silence: ${alert.summary}">Silence</button></span></td>`}
    </tr>`)}</tbody></table></div>`;
}

const LOOKS = { pending: "muted hollow", open: "critical", acknowledged: "info", resolved: "ok" };

export function AlertState({ alert }) {
  return html`<span class="state ${LOOKS[alert.state] ?? "muted"}">${alert.state}</span>
    ${alert.by && alert.state === "acknowledged" && html` <span class="muted small">${alert.by}</span>`}
    ${flagged(alert, "silenced") && html` <span class="tag">silenced</span>`}`;
}

function Silences({ version }) {
  const { document: found, error, again } = useAnswer("silences", {}, 30000, version);
  const [ending, setEnding] = useState(null);
  const [planning, setPlanning] = useState(false);
  const silences = found?.silences ?? [];
  return html`<section class="card after" aria-label="Silences">
    <header><h2>Silences</h2>
      <button class="button slim" onClick=${() => setPlanning(true)}>Plan a silence</button></header>
    ${error ? html`<${Failed} error=${error} again=${again} />`
      : silences.length === 0 ? html`<${Empty} title="Nothing is silenced" />`
      : html`<div class="table"><table class="folding">
        <thead><tr><th>What</th><th>Why</th><th>By</th><th>Until</th><th><span class="hidden-visually">Actions</span></th></tr></thead>
        <tbody>${silences.map((silence) => html`<tr key=${silence.id}>
          <th scope="row">${Object.entries(silence.match).map(([name, pattern]) => html`<span class="tag" key=${name}>${name} ${pattern}</span> `)}</th>
          <td class="wide whole">${silence.reason}</td>
          <td class="muted">${silence.by}</td>
          <td class="muted second">${seconds(silence.starts) > now() ? `${time(seconds(silence.starts))} – ` : ""}${time(seconds(silence.until))}</td>
          <td class="right"><button class="button slim" onClick=${() => setEnding(silence)}>End</button></td>
        </tr>`)}</tbody></table></div>`}
    ${planning && html`<${PlanSilence} close=${(done) => (setPlanning(false), done && again())} />`}
    ${ending && html`<${EndSilence} silence=${ending} close=${(done) => (setEnding(null), done && again())} />`}
  </section>`;
}
