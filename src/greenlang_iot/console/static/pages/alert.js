// One alert: its picture, what happened to it, and what can be done.

import { html, useState } from "../vendor/preact-htm.js";
import { Empty, Failed, Severity, useAnswer } from "../pieces.js";
import { now } from "../gateway.js";
import { count, expectation, plural, time, value, words } from "../format.js";
import { Acknowledge, Silence } from "./actions.js";
import { AlertState, AlertTable, seconds } from "./alerts.js";
import { Metric } from "./device.js";

const BEFORE = 10; // minutes shown before it opened
const SHOWN = 50;

export function AlertPage({ where, live }) {
  const { document: alert, error, again } = useAnswer(`alerts/${encodeURIComponent(where.id)}`, {}, 15000, live.overview?.alert_changes);
  const [action, setAction] = useState(null);
  if (error)
    return html`<div class="head"><h1 tabindex="-1">Alert ${where.id}</h1></div>
      <section class="card"><${Failed} error=${error} again=${again} /><p class="empty"><a href="#/alerts">All alerts</a></p></section>`;
  return html`
    <div class="head">
      <h1 tabindex="-1">${alert?.summary ?? "Alert"}</h1>
      ${alert && html`<span class="right actions">
        <button class="button" disabled=${alert.state !== "open"} onClick=${() => setAction(() => Acknowledge)}>Acknowledge</button>
        <button class="button" disabled=${alert.state === "resolved"} onClick=${() => setAction(() => Silence)}>Silence</button></span>`}
    </div>
    ${alert && html`<div class="grid">
      ${alert.device && alert.metric && html`<${Picture} alert=${alert} />`}
      <section class="card span-6">
        <header><h2>About</h2></header>
        <div class="body"><dl class="facts">
          <dt>State</dt><dd><${AlertState} alert=${alert} /></dd>
          <dt>Severity</dt><dd><${Severity} is=${alert.severity} /></dd>
          <dt>Rule</dt><dd>${words(alert.rule)}</dd>
          <dt>Site</dt><dd>${alert.site ? html`<a href="#/devices?${new URLSearchParams({ site: `${alert.org}/${alert.site}` })}">${alert.org} / ${alert.site}</a>` : "the gateway"}</dd>
          ${alert.device && html`<dt>Device</dt><dd><a href="#/devices/${encodeURIComponent(alert.device)}">${alert.device}</a></dd>`}
          ${alert.metric && html`<dt>Metric</dt><dd>${alert.metric}</dd>`}
          ${alert.value != null && html`<dt>Value</dt><dd>${value(alert.value)}</dd>`}
          ${alert.expected != null && html`<dt>Expected</dt><dd>${expectation(alert.expected, alert.band)}</dd>`}
          <dt>Opened</dt><dd>${time(seconds(alert.opened))}</dd>
          ${alert.group && html`<dt>Incident</dt><dd><a href="#/alerts/${encodeURIComponent(alert.group)}">${alert.group}</a></dd>`}
          <dt>Name</dt><dd><code>${alert.alert_id}</code></dd>
        </dl></div>
      </section>
      <section class="card span-6">
        <header><h2>What happened</h2></header>
        <ol class="body timeline">${[...alert.transitions].reverse().map((item, i, all) => html`<li key=${item.transition_id}>
          <span class="muted">${time(seconds(item.at))}</span> <${AlertState} alert=${item} />
          <p class="muted small">${item.summary}${item.comment && item.comment !== all[i + 1]?.comment ? `: “${item.comment}”` : ""}</p></li>`)}</ol>
      </section>
      ${alert.members?.length > 0 && html`<section class="card span-12">
        <header><h2>Members</h2><span class="muted small">${plural(alert.members.length, "alert")}${alert.members.length > SHOWN ? `, the first ${count(SHOWN)}` : ""}</span></header>
        <${AlertTable} alerts=${alert.members.slice(0, SHOWN)} /></section>`}
    </div>`}
    ${action && html`<${action} alert=${alert} close=${(done) => (setAction(null), done && again())} />`}`;
}

function Picture({ alert }) {
  const { document: device } = useAnswer(`devices/${encodeURIComponent(alert.device)}`, {}, 5000);
  const opened = seconds(alert.opened);
  const minutes = Math.min(1440, Math.max(15, Math.ceil((now() - opened) / 60) + BEFORE));
  // what is silent has no reading where the picture would else end
  const until = alert.state === "resolved" ? 0 : now();
  const series = device?.series.find(({ metric }) => metric === alert.metric);
  if (!series) return html`<section class="card span-12"><${Empty} title=${alert.metric}>${device ? "No shard answers for it." : "Reading…"}</${Empty}></section>`;
  // the band that it was judged by, for readings whose own is not known
  const judged = alert.expected != null ? { expected: alert.expected, band: alert.band } : {};
  return html`<${Metric} device=${alert.device} series=${{ ...series, ...judged }} minutes=${minutes} every=${5000} marks=${[opened]} until=${until} height=${220} wide=${true} />`;
}
