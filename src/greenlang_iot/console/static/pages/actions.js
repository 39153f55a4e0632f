// What a person does about an alert: each is a dialog, one request with the token, and a line in the audit log.

import { html, useEffect, useRef, useState } from "../vendor/preact-htm.js";
import { act } from "../gateway.js";

const NAME = "operator";
const DURATIONS = [[1800, "30 minutes"], [7200, "2 hours"], [28800, "8 hours"], [86400, "1 day"], [604800, "1 week"]];

// The frame of all of them. send: does it; close(true) when it is done, close(false) when not.
function Ask({ title, verb, send, close, children }) {
  const dialog = useRef(null);
  const [state, set] = useState({ busy: false, error: null });
  useEffect(() => dialog.current.showModal(), []);
  const submit = async (event) => {
    event.preventDefault();
    const given = Object.fromEntries(new FormData(event.target));
    set({ busy: true, error: null });
    try {
      if (given.by !== undefined) localStorage.setItem(NAME, given.by);
      await send(given);
      close(true);
    } catch (error) {
      set({ busy: false, error });
    }
  };
  return html`<dialog ref=${dialog} onClose=${() => close(false)} aria-labelledby="ask-title">
    <form onSubmit=${submit}>
      <h2 id="ask-title">${title}</h2>
      ${children}
      ${state.error && html`<p class="error" role="alert">${state.error.message}</p>`}
      <div class="buttons">
        <button type="button" class="button" onClick=${() => dialog.current.close()}>Cancel</button>
        <button class="button main" disabled=${state.busy}>${verb}</button>
      </div>
    </form>
  </dialog>`;
}

const By = () => html`<label>Your name
  <input type="text" name="by" required maxlength="100" autocomplete="name" defaultValue=${localStorage.getItem(NAME) ?? ""} /></label>`;

export function Acknowledge({ alert, close }) {
  const send = ({ by, comment }) => act("POST", `alerts/${encodeURIComponent(alert.alert_id)}/ack`, { by, comment });
  return html`<${Ask} title="Acknowledge" verb="Acknowledge" send=${send} close=${close}>
    <p class="muted">${alert.summary}</p>
    <${By} />
    <label>Comment<textarea name="comment" rows="2" maxlength="1000"></textarea></label>
  </${Ask}>`;
}

// what a silence may cover, from the narrowest to the widest
function scopes(alert) {
  const found = [];
  if (alert.device && alert.metric) found.push([`${alert.metric} of ${alert.device}`, ["device", "metric"]]);
  if (alert.device) found.push([`everything of ${alert.device}`, ["device"]]);
  if (alert.site) found.push([`${alert.rule} at ${alert.site}`, ["org", "site", "rule"]], [`everything at ${alert.site}`, ["org", "site"]]);
  if (found.length === 0) found.push([`every ${alert.rule}`, ["rule"]]);
  return found;
}

export function Silence({ alert, close }) {
  const choices = scopes(alert);
  const send = ({ scope, duration, reason, by }) => {
    // an alert's own names, taken literally: in a pattern [x] stands for x whatever it means
    const literal = (text) => text.replace(/[*?[]/g, "[$&]");
    const match = Object.fromEntries(choices[scope][1].map((name) => [name, literal(alert[name])]));
    return act("POST", "silences", { match, reason, by, duration: Number(duration) });
  };
  return html`<${Ask} title="Silence" verb="Silence" send=${send} close=${close}>
    <p class="muted">Alerts go on, and are stored; nobody is notified of them.</p>
    <label>What<select name="scope">${choices.map(([title], i) => html`<option key=${title} value=${i}>${title}</option>`)}</select></label>
    <label>For<select name="duration">${DURATIONS.map(([s, title]) => html`<option key=${s} value=${s} selected=${s === 7200}>${title}</option>`)}</select></label>
    <label>Reason<input type="text" name="reason" required maxlength="1000" /></label>
    <${By} />
  </${Ask}>`;
}

const MATCHED = [["site", "Site"], ["type", "Type"], ["device", "Device"], ["rule", "Rule"]];

// a silence that no alert asks for: planned works, from now or from later on
export function PlanSilence({ close }) {
  const send = ({ reason, by, duration, starts, ...given }) => {
    const match = Object.fromEntries(MATCHED.map(([name]) => [name, given[name].trim()]).filter(([, pattern]) => pattern));
    const from = starts ? { starts: new Date(starts).toISOString() } : {};
    return act("POST", "silences", { match, reason, by, duration: Number(duration), ...from });
  };
  return html`<${Ask} title="Plan a silence" verb="Silence" send=${send} close=${close}>
    <p class="muted">Of alerts that match all of these nobody is notified; they go on, and are stored. <code>*</code> stands for anything.</p>
    <div class="pairs">${MATCHED.map(([name, title]) => html`<label key=${name}>${title}<input type="text" name=${name} maxlength="200" autocomplete="off" /></label>`)}</div>
    <div class="pairs">
      <label>From (empty: now)<input type="datetime-local" name="starts" /></label>
      <label>For<select name="duration">${DURATIONS.map(([s, title]) => html`<option key=${s} value=${s} selected=${s === 7200}>${title}</option>`)}</select></label>
    </div>
    <label>Reason<input type="text" name="reason" required maxlength="1000" /></label>
    <${By} />
  </${Ask}>`;
}

export function EndSilence({ silence, close }) {
  return html`<${Ask} title="End this silence?" verb="End it" close=${close} send=${() => act("DELETE", `silences/${encodeURIComponent(silence.id)}`)}>
    <p>${Object.entries(silence.match).map(([name, pattern]) => html`<span class="tag" key=${name}>${name} ${pattern}</span> `)}</p>
    <p class="muted">${silence.reason}</p>
  </${Ask}>`;
}
