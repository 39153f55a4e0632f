// The fleet by site: who is silent.

import { html, useState } from "../vendor/preact-htm.js";
import { Empty, Failed, useAnswer } from "../pieces.js";
import { count, duration, percent, plural } from "../format.js";

const SHOWN = 20;
const PARTS = ["ok", "silent", "never", "disabled", "unknown"];

export function FleetPage() {
  const { document: fleet, error, again } = useAnswer("sites", {}, 3000);
  const [open, setOpen] = useState("");
  const sites = fleet?.sites ?? [];
  const total = (part) => sites.reduce((sum, site) => sum + site[part], 0);
  return html`
    <div class="head"><h1 tabindex="-1">Fleet</h1>
      <span class="muted">${fleet ? `${plural(sites.length, "site")}, ${plural(total("devices"), "device")}, ${count(total("silent"))} silent, ${count(total("never"))} never heard` : ""}</span></div>
    <section class="card" aria-label="Sites">
      ${error ? html`<${Failed} error=${error} again=${again} />`
        : !fleet ? html`<${Empty} title="Asking the shards…" />`
        : sites.length === 0 ? html`<${Empty} title="The registry is empty" />`
        : html`<div class="table"><table>
            <thead><tr><th>Site</th><th class="n">Devices</th><th class="roomy">Heard, silent, never heard</th><th class="n roomy">Heard</th><th class="n">Silent</th><th class="n roomy">Never</th><th class="n roomy">Disabled</th><th></th></tr></thead>
            <tbody>${sites.map((site) => {
              const name = `${site.org}/${site.site}`;
              return html`<${Site} key=${name} site=${site} open=${open === name} toggle=${() => setOpen(open === name ? "" : name)} />`;
            })}</tbody>
          </table></div>`}
      ${fleet?.answering === 0 ? html`<p class="empty error" role="alert">No shard answers at the moment.</p>`
        : total("unknown") > 0 && html`<p class="empty error" role="alert">Not every shard answers: of ${plural(total("unknown"), "device")} nothing is known.</p>`}
    </section>`;
}

function Site({ site, open, toggle }) {
  const name = `${site.org}/${site.site}`;
  return html`<tr>
      <th scope="row"><a data-row href="#/devices?${new URLSearchParams({ site: name })}">${site.org} / ${site.site}</a></th>
      <td class="n">${count(site.devices)}</td>
      <td class="roomy"><span class="stack" role="img" aria-label="${percent(site.ok / site.devices)} heard">
        ${PARTS.map((part) => html`<i key=${part} class="s-${part}" style=${{ width: `${(100 * site[part]) / site.devices}%` }}></i>`)}</span></td>
      <td class="n roomy">${count(site.ok)}</td>
      <td class="n ${site.silent ? "critical" : ""}">${count(site.silent)}</td>
      <td class="n roomy">${count(site.never)}</td>
      <td class="n roomy">${count(site.disabled)}</td>
      <td class="right"><button class="button slim" aria-expanded=${open} disabled=${site.silent === 0} onClick=${toggle}><span>Who<span class="roomy"> is silent</span></span></button></td>
    </tr>
    ${open && html`<tr><td colspan="8"><${Silent} site=${name} /></td></tr>`}`;
}

function Silent({ site }) {
  const { document: found, error } = useAnswer("devices", { site, state: "silent", limit: SHOWN }, 3000);
  if (error) return html`<${Failed} error=${error} />`;
  if (!found) return html`<span class="muted">Asking…</span>`;
  return html`<ul class="silent-list">
    ${found.devices.map((device) => html`<li key=${device.id}><a href="#/devices/${encodeURIComponent(device.id)}">${device.id}</a>
      <span class="muted"> ${device.type}, ${device.quiet == null ? "nothing since the start" : `quiet for ${duration(device.quiet)}`}</span></li>`)}
    ${found.total > found.devices.length && html`<li><a href="#/devices?${new URLSearchParams({ site, state: "silent" })}">all ${count(found.total)}</a></li>`}
  </ul>`;
}
