// All devices: searched, narrowed and paged by the gateway.

import { html, useState } from "../vendor/preact-htm.js";
import { Choice, Empty, Failed, NoDevices, Pager, State, STATES, useAnswer, useSettled } from "../pieces.js";
import { ago, plural, unit, value } from "../format.js";

const PAGE = 50;
const SHOWN = 3;

export function DevicesPage({ where }) {
  const [q, setQ] = useState(where.query.q ?? "");
  const [narrowed, setNarrowed] = useState({
    site: where.query.site ?? "",
    type: where.query.type ?? "",
    state: where.query.state ?? "",
  });
  const [cursors, setCursors] = useState([""]);
  const settled = useSettled(q, 150);
  const query = { q: settled, ...narrowed, limit: PAGE, cursor: cursors.at(-1) };
  const { document: found, error, again } = useAnswer("devices", query, 2000);
  const { document: fleet } = useAnswer("sites", {}, 0);
  const narrow = (change) => {
    setNarrowed({ ...narrowed, ...change });
    setCursors([""]);
  };
  return html`
    <div class="head"><h1 tabindex="-1">Devices</h1>
      <span class="muted" role="status">${found ? `${plural(found.total, "device")}` : ""}</span></div>
    <form class="filters" role="search" onSubmit=${(event) => event.preventDefault()}>
      <label class="grow"><span class="hidden-visually">Search</span>
        <input type="search" placeholder="Search by id, organisation or site" value=${q}
          onInput=${(event) => (setQ(event.target.value), setCursors([""]))} /></label>
      <${Choice} label="Site" value=${narrowed.site} all="All sites" set=${(site) => narrow({ site })}
        options=${(fleet?.sites ?? []).map(({ org, site }) => [`${org}/${site}`, `${org} / ${site}`])} />
      <${Choice} label="Type" value=${narrowed.type} all="All types" set=${(type) => narrow({ type })}
        options=${(fleet?.types ?? []).map((type) => [type, type])} />
      <${Choice} label="State" value=${narrowed.state} all="Any state" set=${(state) => narrow({ state })}
        options=${Object.entries(STATES).map(([state, [, word]]) => [state, word])} />
    </form>
    <section class="card" aria-label="Devices">
      ${error ? html`<${Failed} error=${error} again=${again} />`
        : !found ? html`<${Empty} title="Searching…" />`
        : fleet?.sites.length === 0 ? html`<${NoDevices} />`
        : found.devices.length === 0 ? html`<${Empty} title="No device matches">Try fewer letters, or another state.</${Empty}>`
        : html`<div class="table"><table class="folding">
            <thead><tr><th>Device</th><th>State</th><th>Site</th><th>Type</th><th>Last values</th><th class="n">Heard</th></tr></thead>
            <tbody>${found.devices.map((device) => html`<${Row} key=${device.id} device=${device} />`)}</tbody>
          </table></div>`}
      <${Pager} cursors=${cursors} set=${setCursors} found=${found} size=${PAGE} shown=${found?.devices.length ?? 0} />
    </section>`;
}

function Row({ device }) {
  return html`<tr>
    <th scope="row"><a data-row href="#/devices/${encodeURIComponent(device.id)}">${device.id}</a></th>
    <td class="second"><${State} is=${device.state} /></td>
    <td class="muted">${device.org} / ${device.site}</td>
    <td class="muted second">${device.type}</td>
    <td class="whole"><span class="values">
      ${device.series.slice(0, SHOWN).map((s) => html`<span key=${s.metric}><span class="muted">${s.metric}</span>${value(s.value)} ${s.value != null && unit(s.unit)}</span>`)}
      ${device.series.length > SHOWN && html`<span class="muted">+${device.series.length - SHOWN}</span>`}
    </span></td>
    <td class="n whole">${ago(device.quiet)}</td>
  </tr>`;
}
