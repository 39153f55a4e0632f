// The page of a replay: the series with its band, below it the scores; all zoom together.
const data = JSON.parse(document.getElementById("data").textContent);
const place = document.getElementById("pictures");
const sync = uPlot.sync("replay");
const colours = ["#c2410c", "#7a1f1f"];
const utc = uPlot.tzDate ? (s) => uPlot.tzDate(new Date(s * 1e3), "UTC") : undefined;
const plots = [];
const full = [data.t[0], data.t[data.t.length - 1]];
let busy = false;

// ISO dates and 24 hours, in UTC: as precise as the marks are far apart; a day is named where it begins
const stamps = (u, splits, axis, space, step) => {
  let named = "";
  return splits.map((s) => {
    const iso = new Date(s * 1e3).toISOString();
    const day = iso.slice(0, 10);
    if (step >= 86400) return day;
    const time = iso.slice(11, step >= 60 ? 16 : 19);
    return day === named ? time : ((named = day), `${time}\n${day}`);
  });
};

function zoom(low, high) {
  if (busy) return;
  busy = true;
  for (const plot of plots) plot.setScale("x", { min: low, max: high });
  busy = false;
}

const shade = (alerts, colour) => (u) => {
  u.ctx.save();
  u.ctx.fillStyle = colour + "26";
  for (const [from, to] of alerts) {
    const left = Math.max(u.valToPos(from, "x", true), u.bbox.left);
    const right = Math.min(u.valToPos(to, "x", true), u.bbox.left + u.bbox.width);
    if (right >= left) u.ctx.fillRect(left, u.bbox.top, Math.max(right - left, devicePixelRatio), u.bbox.height);
  }
  u.ctx.restore();
};

function plot(height, columns, series, more) {
  const options = {
    width: place.clientWidth,
    height,
    tzDate: utc,
    cursor: { sync: { key: sync.key }, drag: { x: true, y: false } },
    scales: { x: { time: true }, ...more.scales },
    axes: [{ values: stamps, space: 90 }, { size: 70, label: more.label, labelSize: 20 }],
    series: [{ value: "{YYYY}-{MM}-{DD} {HH}:{mm}:{ss}" }, ...series],
    bands: more.bands,
    hooks: {
      drawClear: more.shades,
      setScale: [(u, key) => key === "x" && zoom(u.scales.x.min, u.scales.x.max)],
      draw: more.draw ? [more.draw] : [],
    },
  };
  plots.push(new uPlot(options, columns, place));
}

const brief = (u, v) => (v == null ? "–" : Number(v.toPrecision(6)).toString());
const points = (colour) => ({ stroke: colour, paths: () => null, points: { show: true, size: 5, fill: colour }, value: brief });
const suspects = data.replays.map((r) => data.value.map((v, i) => (r.suspect[i] ? v : null)));
plot(
  380,
  [data.t, data.high, data.low, data.value, ...suspects],
  [
    { label: "band to", stroke: "transparent", points: { show: false }, value: brief },
    { label: "band from", stroke: "transparent", points: { show: false }, value: brief },
    { label: "reading", stroke: "#1f5f8b", width: 1, value: brief },
    ...data.replays.map((r, i) => ({ ...points(colours[i]), label: `suspect ${r.name}` })),
  ],
  {
    label: "value",
    scales: { y: { range: data.y } },
    bands: [{ series: [1, 2], fill: "#9ec9e270" }],
    shades: data.replays.map((r, i) => shade(r.alerts, colours[i])),
  },
);
data.replays.forEach((r, i) => {
  const detector = (u, v, s, at) => (at == null || v == null ? "–" : `${brief(u, v)} (${r.detector[at]})`);
  plot(
    170,
    [data.t, r.score],
    [{ label: `score ${r.name}`, stroke: "#1f5f8b", width: 1, value: detector }],
    {
      label: `score ${r.name}`,
      scales: { y: { range: (_, low, high) => [0, Math.max(high ?? 0, r.threshold) * 1.15] } },
      shades: [shade(r.alerts, colours[i])],
      draw: (u) => {
        const y = u.valToPos(r.threshold, "y", true);
        u.ctx.save();
        u.ctx.strokeStyle = colours[i];
        u.ctx.setLineDash([6, 4]);
        u.ctx.beginPath();
        u.ctx.moveTo(u.bbox.left, y);
        u.ctx.lineTo(u.bbox.left + u.bbox.width, y);
        u.ctx.stroke();
        u.ctx.restore();
      },
    },
  );
});

document.getElementById("all").onclick = () => zoom(...full);
addEventListener("resize", () => plots.forEach((p) => p.setSize({ width: place.clientWidth, height: p.height })));
for (const row of document.querySelectorAll("tr[data-at]")) {
  const look = () => {
    const [from, to] = [Number(row.dataset.at), Number(row.dataset.end)];
    const room = Math.max(to - from, (full[1] - full[0]) / 100) * 1.5;
    zoom(Math.max(from - room, full[0]), Math.min(to + room, full[1]));
    scrollTo({ top: 0, behavior: "smooth" });
  };
  row.onclick = look;
  row.onkeydown = (event) => event.key === "Enter" && look();
}
