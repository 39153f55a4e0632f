// Numbers, times and durations, one way everywhere. Nothing here knows the page.

import { now } from "./gateway.js";

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const one = new Intl.NumberFormat("en", { minimumFractionDigits: 1, maximumFractionDigits: 1 });
const four = new Intl.NumberFormat("en", { maximumSignificantDigits: 4 });
const six = new Intl.NumberFormat("en", { maximumSignificantDigits: 6 });
const clock = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const day = new Intl.DateTimeFormat("en-GB", { day: "2-digit", month: "short", hour: "2-digit", minute: "2-digit" });
const year = new Intl.DateTimeFormat("en-GB", { day: "2-digit", month: "short", year: "numeric", hour: "2-digit", minute: "2-digit" });

export const NOTHING = "–";

export const count = (n) => (n == null ? NOTHING : whole.format(n));

export function rate(n) {
  if (n == null) return NOTHING;
  return n >= 100 || n === 0 ? whole.format(n) : one.format(n);
}

// a reading's value: as exact as a person reads
export function value(n) {
  if (n == null) return NOTHING;
  const size = Math.abs(n);
  return size !== 0 && (size >= 1e9 || size < 1e-4) ? n.toExponential(3) : size >= 1e4 ? six.format(n) : four.format(n);
}

// 61.0 ± 2.2: both with the decimals that two digits of the band need, as alerts say it
export function expectation(expected, band) {
  const decimals = band > 0 && Math.abs(expected) < 1e12 ? 1 - Math.floor(Math.log10(band)) : Infinity;
  if (!(decimals <= 9)) return value(expected);
  const digits = { minimumFractionDigits: Math.max(decimals, 0), maximumFractionDigits: Math.max(decimals, 0) };
  return [expected, band].map((n) => n.toLocaleString("en", digits)).join(" ± ");
}

export function bytes(n) {
  if (n == null) return NOTHING;
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let i = 0;
  while (n >= 1024 && i < units.length - 1) (n /= 1024), i++;
  return `${i === 0 || n >= 100 ? whole.format(n) : one.format(n)} ${units[i]}`;
}

// seconds as a latency: 3.4 ms, 1.2 s
export function latency(s) {
  if (s == null) return NOTHING;
  if (s === 0) return "0 ms";
  if (s < 0.001) return `${whole.format(s * 1e6)} µs`;
  if (s < 1) return `${s < 0.1 ? one.format(s * 1e3) : whole.format(s * 1e3)} ms`;
  return `${s < 10 ? one.format(s) : whole.format(s)} s`;
}

// seconds as a duration: 12 s, 4 min, 3 h 05 min, 2 d
export function duration(s) {
  if (s == null) return NOTHING;
  if (s < 60) return `${Math.floor(s)} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min`;
  if (s < 86400) return `${Math.floor(s / 3600)} h ${String(Math.floor((s % 3600) / 60)).padStart(2, "0")} min`;
  return `${Math.floor(s / 86400)} d`;
}

export const ago = (s) => (s == null ? NOTHING : s < 1 ? "now" : `${duration(s)} ago`);

// seconds since 1970; with the day where it is not of the last day, and the year where it is months away
export function time(s) {
  if (s == null) return NOTHING;
  const date = new Date(s * 1000);
  const away = Math.abs(now() - s);
  return (away < 43200 ? clock : away < 15778800 ? day : year).format(date);
}

// on a time axis whose marks are `step` seconds apart
const minute = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit" });
export const mark = (s, step) => (step < 60 ? clock : minute).format(new Date(s * 1000));

export const percent = (share) => (share == null ? NOTHING : `${one.format(share * 100)} %`);

export const plural = (n, word) => `${count(n)} ${word}${n === 1 ? "" : "s"}`;

const SIGNS = { Cel: "°C", degF: "°F", "%RH": "% RH", m3: "m³", "m3/h": "m³/h", 1: "" };
export const unit = (name) => SIGNS[name] ?? name ?? "";

export const words = (name) => name.replaceAll("_", " ");
