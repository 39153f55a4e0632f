// A time series as a picture: uPlot in the colours of the theme, with a line of figures above it.

import { html, useEffect, useRef, useState } from "./vendor/preact-htm.js";
import { mark, time } from "./format.js";

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
const FONT = "12px system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif";

// data: [times in s, …columns]. lines: per column {label, colour, width, points, show}; columns without a
// label are not read out. bands: [{series: [upper, lower], colour}]. format: of a value on the axis and above.
// label: what a screen reader says. from: left end of the time axis. until: as far right as it reaches at least.
export function Chart({ data, lines, bands = [], format, height = 150, label, from = null, until = 0, extra = null, zero = true, marks = [] }) {
  const place = useRef(null);
  const plot = useRef(null);
  const [at, setAt] = useState(null);
  const [theme, setTheme] = useState(document.documentElement.dataset.theme);
  const range = useRef(null);
  range.current = { from: from ?? data[0][0], to: Math.max(data[0].at(-1), until) };
  const marked = useRef(marks);
  marked.current = marks;

  useEffect(() => {
    const changed = () => setTheme(document.documentElement.dataset.theme);
    addEventListener("theme", changed);
    return () => removeEventListener("theme", changed);
  }, []);

  useEffect(() => {
    const grid = { stroke: colour("line"), width: 1 };
    const axis = { stroke: colour("muted"), font: FONT, ticks: { show: false }, grid };
    const options = {
      width: place.current.clientWidth || 300,
      height,
      legend: { show: false },
      cursor: { y: false, points: { size: 6 }, drag: { x: false, y: false } },
      padding: [8, 24, 0, 0], // half a time stamp to the right of its mark
      scales: {
        x: { time: true, range: () => span(range.current) },
        y: { range: (_, low, high) => limits(low, high, zero) },
      },
      axes: [
        { ...axis, grid: { show: false }, space: 70, size: 26, values: (u, splits, axis, space, step) => splits.map((s) => (u.valToPos(s, "x") < 30 ? "" : mark(s, step))) }, // none over the other axis
        { ...axis, size: 58, space: 34, values: (_, splits) => splits.map((v) => format(v)) },
      ],
      series: [
        {},
        ...lines.map((line) => ({
          stroke: line.colour ? colour(line.colour) : "transparent",
          width: line.width ?? 1.75,
          points: line.points
            ? { show: true, size: 7, stroke: colour(line.colour), fill: colour("surface"), width: 2 }
            : { show: false },
          spanGaps: line.spanGaps ?? false,
          paths: line.points ? () => null : undefined,
        })),
      ],
      bands: bands.map((band) => ({ series: band.series, fill: colour(band.colour) })),
      hooks: { draw: [(u) => drawMarks(u, marked.current)], setCursor: [(u) => setAt(u.cursor.idx ?? null)] },
    };
    plot.current = new uPlot(options, data, place.current);
    const sized = new ResizeObserver(() => {
      if (place.current) plot.current?.setSize({ width: place.current.clientWidth, height });
    });
    sized.observe(place.current);
    return () => (sized.disconnect(), plot.current.destroy(), (plot.current = null));
  }, [theme, height, lines.length]);

  useEffect(() => plot.current?.setData(data), [data]);

  const last = data[0].length - 1;
  const shown = at !== null && at <= last ? at : last;
  const named = lines.map((line, i) => [line, data[i + 1]?.[shown]]).filter(([line]) => line.label);
  return html`<div class="chart">
    <p class="readout">
      ${named.map(
        ([line, value]) => html`<span key=${line.label}><i class="line-${line.mark}"></i>${line.label} <b>${format(value)}</b></span>`,
      )}
      ${extra?.(shown)}
      <span class="right">${at !== null && last >= 0 ? time(data[0][shown]) : ""}</span>
    </p>
    <div ref=${place} role="img" aria-label=${label} style=${{ height: `${height}px` }}></div>
  </div>`;
}

// dashed lines at moments that matter
function drawMarks(u, moments) {
  const { ctx, bbox } = u;
  ctx.save();
  ctx.strokeStyle = colour("critical");
  ctx.lineWidth = devicePixelRatio;
  ctx.setLineDash([4 * devicePixelRatio, 4 * devicePixelRatio]);
  for (const moment of moments) {
    const x = u.valToPos(moment, "x", true);
    if (x < bbox.left || x > bbox.left + bbox.width) continue;
    ctx.beginPath();
    ctx.moveTo(x, bbox.top);
    ctx.lineTo(x, bbox.top + bbox.height);
    ctx.stroke();
  }
  ctx.restore();
}

// of the time axis; uPlot's own answer for a single point is a whole day
const span = ({ from, to }) => (from == null ? [0, 1] : [from, Math.max(to, from + 1)]);

function limits(low, high, zero) {
  if (low == null) return [0, 1];
  if (zero) return [0, high > 0 ? high * 1.08 : 1];
  const room = (high - low || Math.abs(high) * 0.05 || 1) * 0.08;
  return [low - room, high + room];
}
