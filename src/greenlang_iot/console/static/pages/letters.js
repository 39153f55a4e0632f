// Dead letters as samples: when, why, what came.

import { html } from "../vendor/preact-htm.js";
import { Empty } from "../pieces.js";
import { bytes, time, words } from "../format.js";

export function Letters({ letters, note, none }) {
  if (letters.length === 0) return html`<${Empty} title=${none}>${note}</${Empty}>`;
  return html`<ul>
    ${letters.map((letter) => html`<li class="letter" key=${letter.id}>
      <p>
        <span class="muted">${time(letter.time)}</span>
        ${letter.paths.length > 0
          ? letter.paths.map(({ path, reason }, i) => html`<span key=${i}><b>${words(reason)}</b>${path && html` <code>${path}</code>`}</span>`)
          : html`<b>${letter.reasons.map(words).join(", ")}</b>`}
        ${letter.sink && html`<span class="tag">${letter.sink}</span>`}
        ${letter.device && html`<a href="#/devices/${encodeURIComponent(letter.device)}">${letter.device}</a>`}
      </p>
      ${letter.topic && html`<p class="small muted"><code>${letter.topic}</code></p>`}
      ${letter.answer && html`<p class="small muted">${letter.answer}</p>`}
      <pre tabindex="0" aria-label="What came">${letter.payload || "(empty)"}</pre>
      ${(letter.cut || letter.encoding === "base64") && html`<p class="small muted">${letter.cut ? "The first 2,000 of " : ""}${bytes(letter.bytes)}${letter.encoding === "base64" ? ", as base64" : ""}.</p>`}
    </li>`)}
  </ul>`;
}
