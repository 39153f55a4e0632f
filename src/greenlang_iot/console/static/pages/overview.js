// How it goes: rates, latency, shards, sinks, what was rejected and why.

import { html, useMemo, useState } from "../vendor/preact-htm.js";
import { Chart } from "../chart.js";
import { Empty, Failed, Meter, useAnswer } from "../pieces.js";
import { ago, bytes, count, duration, latency, percent, plural, rate, words } from "../format.js";
import { Letters } from "./letters.js";

export function OverviewPage({ live }) {
  const { overview: o, history: h } = live;
  const throughput = useMemo(() => h && [h.time, h.readings, h.messages], [h]);
  const delays = useMemo(() => h && [h.time, h.p99, h.p50], [h]);
  const from = h?.time.length ? Math.max(h.time.at(-1) - 600, Math.min(h.time[0], h.time.at(-1) - 60)) : null;
  return html`
    <div class="head">
      <h1 tabindex="-1">Overview</h1>
      <span class="muted">${o ? `${count(o.devices)} devices, ${count(o.series)} series, up for ${duration(o.uptime)}` : ""}</span>
    </div>
    ${o && !o.ready && html`<${Reasons} reasons=${o.reasons} />`}
    <div class="grid">
      <${Figures} o=${o} />
      <section class="card span-6" aria-label="Throughput">
        <header><h2>Throughput</h2><span class="muted small">per second</span></header>
        <div class="body">
          ${throughput && html`<${Chart} data=${throughput} from=${from} format=${rate} label="Readings and messages a second"
            lines=${[{ label: "readings", mark: 1, colour: "accent" }, { label: "messages", mark: 2, colour: "info" }]} />`}
        </div>
      </section>
      <section class="card span-6" aria-label="Latency">
        <header><h2>Acknowledgement time</h2><span class="muted small">from receipt to PUBACK</span></header>
        <div class="body">
          ${delays && html`<${Chart} data=${delays} from=${from} format=${latency} label="Acknowledgement time"
            lines=${[{ label: "p99", mark: 1, colour: "accent", spanGaps: true }, { label: "p50", mark: 2, colour: "info", spanGaps: true }]} />`}
        </div>
      </section>
      <${Sinks} sinks=${o?.sinks ?? []} />
      <${Shards} shards=${o?.shards ?? []} />
      <${DeadLetters} dead=${o?.dead_letters} />
      <${Quality} quality=${o?.quality} />
    </div>`;
}

function Reasons({ reasons }) {
  return html`<section class="card" role="alert">
    <header><h2 class="state critical">The gateway is not ready</h2></header>
    <ul class="body">${reasons.map((reason) => html`<li key=${reason}>${reason}</li>`)}</ul>
  </section><br />`;
}

function Figures({ o }) {
  const open = o ? Object.values(o.alerts_open).reduce((sum, n) => sum + (n ?? 0), 0) : null;
  const rejected = o ? o.dead_letters.kept + o.dead_letters.digested : null;
  return html`
    <${Figure} name="Messages" value=${rate(o?.rates.messages)} unit="/s" note=${o ? `${count(o.totals.messages)} in all` : ""} />
    <${Figure} name="Readings" value=${rate(o?.rates.readings)} unit="/s" note=${o ? `${bytes(o.rates.bytes)}/s received` : ""} />
    <${Figure} name="Acknowledged within" value=${latency(o?.latency.p99)} unit="p99" note=${o ? `p50 ${latency(o.latency.p50)}` : ""} />
    <${Figure} name="Open alerts" value=${count(open)} href="#/alerts" look=${o?.alerts_open.critical ? "critical" : ""}
      note=${o ? `${count(o.alerts_open.critical ?? 0)} critical, ${count(o.alerts_open.warning ?? 0)} warning` : ""} />
    <${Figure} name="Silent devices" value=${count(o?.fleet?.silent)} href="#/devices?state=silent" look=${o?.fleet?.silent ? "critical" : ""}
      note=${o ? `of ${count(o.devices)}; ${count(o.fleet?.never)} never heard${o.fleet?.unknown ? `, ${count(o.fleet.unknown)} unknown` : ""}` : ""} />
    <${Figure} name="Dead letters" value=${count(rejected)} note=${o ? `${count(o.dead_letters.digested)} as digests` : ""} />`;
}

function Figure({ name, value, unit, note, look = "", href = null }) {
  return html`<dl class="card figure span-2">
    <dt>${name}</dt>
    <dd class="value ${look}">${href ? html`<a href=${href}>${value}</a>` : value}${unit && html` <small>${unit}</small>`}</dd>
    <dd class="note">${note}</dd>
  </dl>`;
}

function Sinks({ sinks }) {
  return html`<section class="card span-12">
    <header><h2>Sinks</h2></header>
    ${sinks.length === 0
      ? html`<${Empty} title="No sinks yet" />`
      : html`<div class="table"><table>
          <thead><tr><th>Sink</th><th>State</th><th class="n">Delivered/s</th><th class="n">Request p99</th>
            <th class="n">In flight</th><th>Queue</th><th>Spool</th><th class="n">Refused</th></tr></thead>
          <tbody>
            ${sinks.map((sink) => html`<tr key=${sink.sink}>
              <th scope="row">${words(sink.sink)} ${sink.policy !== "required" && html`<span class="tag">best effort</span>`}</th>
              <td><${SinkState} sink=${sink} /></td>
              <td class="n">${rate(sink.delivered)}</td>
              <td class="n">${latency(sink.p99)}</td>
              <td class="n">${count(sink.in_flight_chunks)}</td>
              <td><${Meter} value=${sink.queue_bytes} of=${sink.queue_bytes_bound} label="Queue" /> ${bytes(sink.queue_bytes)}</td>
              <td>${sink.sink === "lake" ? html`<span class="muted">not needed</span>`
                : html`<${Meter} value=${sink.spool_bytes} of=${sink.spool_bytes_bound} full=${sink.spool_full} label="Spool" />
                  ${bytes(sink.spool_bytes)} ${sink.spool_readings > 0 && html`<span class="muted">${plural(sink.spool_readings, "reading")}</span>`}`}</td>
              <td class="n">${count(sink.refused_readings)}</td>
            </tr>`)}
          </tbody></table></div>`}
  </section>`;
}

function SinkState({ sink }) {
  const failing = Object.keys(sink.failing).map(words).join(", ");
  if (sink.up === null) return html`<span class="state muted hollow">opening</span>`;
  if (!sink.up) return html`<span class="state critical">down</span> <span class="muted">${failing}</span>`;
  if (sink.spool_full) return html`<span class="state critical">spool full</span>`;
  if (failing) return html`<span class="state warning">retrying</span> <span class="muted">${failing}</span>`;
  return sink.spool_bytes > 0 && sink.spool_readings > 0
    ? html`<span class="state warning">catching up</span>`
    : html`<span class="state ok">up</span>`;
}

function Shards({ shards }) {
  return html`<section class="card span-12">
    <header><h2>Shards</h2></header>
    <div class="table"><table>
      <thead><tr><th>Shard</th><th>State</th><th class="n">Messages/s</th><th class="n">Readings/s</th><th class="n">p99</th>
        <th class="n">CPU</th><th class="n">Memory</th><th class="n">Unacknowledged</th><th>Back pressure</th><th class="n">Last message</th><th class="n">Restarts</th></tr></thead>
      <tbody>
        ${shards.map((s) => html`<tr key=${s.shard}>
          <th scope="row">${s.shard}</th>
          <td><${ShardState} shard=${s} /></td>
          <td class="n">${rate(s.messages)}</td>
          <td class="n">${rate(s.readings)}</td>
          <td class="n">${latency(s.p99)}</td>
          <td class="n">${percent(s.cpu)}</td>
          <td class="n">${bytes(s.resident_bytes)}</td>
          <td class="n">${count(s.unacked)}</td>
          <td><${Meter} value=${s.ledger_bytes} of=${s.ledger_bytes_bound} full=${s.connections_paused > 0} label="Unsettled bytes" />
            ${s.connections_paused > 0 ? html`<span class="critical">paused</span>` : bytes(s.ledger_bytes)}</td>
          <td class="n">${ago(s.last_message_age)}</td>
          <td class="n">${count(s.restarts)}</td>
        </tr>`)}
      </tbody></table></div>
  </section>`;
}

function ShardState({ shard }) {
  if (!shard.up) return html`<span class="state critical">not running</span>`;
  if (!(shard.connections_up >= shard.connections_wanted))
    return html`<span class="state warning">${count(shard.connections_up)} of ${count(shard.connections_wanted)} connected</span>`;
  return html`<span class="state ok">connected</span>`;
}

function DeadLetters({ dead }) {
  const [reason, setReason] = useState("");
  const most = Math.max(1, ...(dead?.reasons ?? []).map((item) => item.count));
  return html`<section class="card span-8">
    <header><h2>Dead letters by reason</h2><span class="muted small">since the start</span></header>
    ${!dead || dead.reasons.length === 0
      ? html`<${Empty} title="Nothing was rejected">Messages and readings that do not pass validation appear here with their reason.</${Empty}>`
      : html`<div class="table"><table class="bars"><tbody>
          ${dead.reasons.map((item) => html`<tr key=${item.reason}>
            <th scope="row"><button class="button slim" data-row aria-expanded=${reason === item.reason}
              onClick=${() => setReason(reason === item.reason ? "" : item.reason)}>${words(item.reason)}</button></th>
            <td style=${{ width: "60%" }}><span class="meter"><i style=${{ width: `${(100 * item.count) / most}%` }}></i></span></td>
            <td class="n">${count(item.count)}</td>
          </tr>`)}
        </tbody></table></div>`}
    ${reason && html`<${Samples} reason=${reason} />`}
  </section>`;
}

function Samples({ reason }) {
  const { document, error, again } = useAnswer("dead-letters", { reason, limit: 3 });
  if (error) return html`<${Failed} error=${error} again=${again} />`;
  if (!document) return html`<p class="letter muted">Reading…</p>`;
  return html`<${Letters} letters=${document.letters} note=${document.note} none="No sample is among the newest dead letters." />`;
}

function Quality({ quality }) {
  const figures = Object.entries(quality ?? {});
  return html`<section class="card span-4">
    <header><h2>Data quality</h2><span class="muted small">${figures.some(([, f]) => f.score != null) ? "of the fleet" : ""}</span></header>
    ${figures.length === 0
      ? html`<${Empty} title="Not measured">Quality is switched off.</${Empty}>`
      : html`<div class="table"><table class="bars"><tbody>
          ${figures.map(([name, { score, target, below }]) => html`<tr key=${name} title=${below ? `${plural(below, "device")} below the target` : ""}>
            <th scope="row">${words(name)}</th>
            <td class="n ${score != null && score < target ? "critical" : ""}">${percent(score)}</td>
            <td class="n muted small">target ${percent(target)}</td>
          </tr>`)}</tbody></table></div>
        ${figures.every(([, f]) => f.score == null) && html`<p class="empty small">The first window is not over yet.</p>`}`}
  </section>`;
}
