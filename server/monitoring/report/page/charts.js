// Pictures, each with its words: a title and a description that say what is to be seen.

let chartCount = 0;

function picture(width, height, title, text, ...children) {
  const id = `chart-${++chartCount}`;
  return s("svg", {
    class: "chart", width, height, viewBox: `0 0 ${width} ${height}`, role: "img",
    "aria-labelledby": `${id}-t ${id}-d`,
  }, s("title", { id: `${id}-t` }, title), s("desc", { id: `${id}-d` }, text), ...children);
}

function ticks(low, high, wanted) {
  const span = high - low || 1;
  const rough = span / wanted;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((m) => m * power).find((m) => m >= rough);
  const found = [];
  // Not -0, which would be written so.
  for (let i = Math.ceil(low / step) || 0; i * step <= high + step * 1e-9; i++) found.push(i * step);
  return found;
}

const axisNumber = (v) => (Math.abs(v) >= 1e4 ? brief.format(v) : precise.format(v));

function axisTime(v, span) {
  const text = new Date(v * 1000).toISOString();
  if (span > 86400 * 300) return text.slice(0, 7);
  return span > 86400 * 2 ? text.slice(5, 10) : text.slice(11, 16);
}

// Shares of values in bins of a number: bars for now, a stepped line for the reference.
function histogram(width, name, shape, hidden) {
  const height = 190;
  const left = 40, right = 8, top = 10, bottom = 24;
  const low = shape.edges[0], high = shape.edges.at(-1);
  const most = Math.max(...shape.current, ...(shape.reference ?? []), 1e-9);
  const x = (v) => left + ((v - low) / (high - low || 1)) * (width - left - right);
  const y = (v) => height - bottom - (v / most) * (height - top - bottom);
  const label = shape.times ? (v) => axisTime(v, high - low) : axisNumber;
  const parts = ticks(0, most, 3).map((v) => [
    s("line", { class: "grid", x1: left, x2: width - right, y1: y(v), y2: y(v) }),
    s("text", { class: "tick", x: left - 6, y: y(v) + 4, "text-anchor": "end" }, share(v)),
  ]);
  const range = (i) =>
    hidden ? `Bin ${i + 1}` : `${label(shape.edges[i])} to ${label(shape.edges[i + 1])}`;
  for (const [i, part] of shape.current.entries()) {
    const words = [`${range(i)}: now ${share(part)}`];
    if (shape.reference) words.push(`reference ${share(shape.reference[i])}`);
    const from = x(shape.edges[i]), to = x(shape.edges[i + 1]);
    parts.push(s("g", { class: "bin" }, s("title", null, words.join(", ")),
      s("rect", { class: "hit", x: from, y: top, width: Math.max(to - from, 1), height: height - top - bottom }),
      s("rect", { class: "now", x: from + 0.75, y: y(part), width: Math.max(to - from - 1.5, 1), height: height - bottom - y(part) })));
  }
  if (shape.reference) {
    let path = `M${x(low)} ${y(0)}`;
    for (const [i, part] of shape.reference.entries()) path += `V${y(part)}H${x(shape.edges[i + 1])}`;
    parts.push(s("path", { class: "reference", d: `${path}V${y(0)}` }));
  }
  parts.push(s("line", { class: "axis", x1: left, x2: width - right, y1: y(0), y2: y(0) }));
  if (!hidden) {
    for (const v of shape.times ? [low, (low + high) / 2, high] : ticks(low, high, width / 90)) {
      const anchor = x(v) > width - 30 ? "end" : x(v) < left + 14 ? "start" : "middle";
      parts.push(s("text", { class: "tick", x: x(v), y: height - 7, "text-anchor": anchor }, label(v)));
    }
  }
  return picture(width, height, `Distribution of ${name}`, shape.text, parts);
}

// Shares of the most frequent values: a bar for now over a thinner, outlined one for the reference.
function categories(width, name, shape) {
  const step = 38, top = 4;
  const height = top + shape.values.length * step;
  const most = Math.max(...shape.current, ...(shape.reference ?? []), 1e-9);
  const room = width - 4;
  const parts = shape.values.map((value, i) => {
    const at = top + i * step;
    const now = shape.current[i], before = shape.reference?.[i];
    const figures = before === undefined ? share(now) : `${share(now)}, was ${share(before)}`;
    const letters = Math.max(8, Math.floor((width - figures.length * 7 - 16) / 7.2));
    const text = value.length > letters ? `${value.slice(0, letters - 1)}…` : value;
    return s("g", null, s("title", null, `${value}: now ${share(now)}${before === undefined ? "" : `, reference ${share(before)}`}`),
      s("text", { class: "name", x: 2, y: at + 12 }, text),
      s("text", { class: "tick", x: width - 2, y: at + 12, "text-anchor": "end" }, figures),
      s("rect", { class: "now", x: 2, y: at + 18, width: Math.max((now / most) * room, 1), height: 7 }),
      before === undefined ? null : s("rect", { class: "reference", x: 2.75, y: at + 27.25, width: Math.max((before / most) * room - 1.5, 0.5), height: 3.5 }));
  });
  return picture(width, height, `Distribution of ${name}`, shape.text, parts);
}

const LINES = [
  ["null_share", "Null", "line-null"],
  ["missing_share", "Missing", "line-missing"],
  ["stale_share", "Stale", "line-stale"],
];

// Shares over time, one line each, told apart by dashes and by the names at their ends.
function sharesOverTime(width, name, history, limit) {
  const height = 160, left = 40, right = 64, top = 10, bottom = 24;
  const drawn = LINES.filter(([key]) => history[key].some((v) => v !== null));
  const values = drawn.flatMap(([key]) => history[key]).filter((v) => v !== null);
  const most = Math.max(...values, limit ?? 0, 0.01) * 1.08;
  const axes = timeAxes(history.time, width, height, { left, right, top, bottom }, 0, most, share);
  const parts = [axes.parts];
  if (limit) {
    parts.push(s("line", { class: "limit", x1: left, x2: width - right, y1: axes.y(limit), y2: axes.y(limit) }));
  }
  const ends = [];
  for (const [key, label, style] of drawn) {
    const line = polyline(history.time, history[key], axes);
    parts.push(s("path", { class: style, d: line.path }), line.alone.map(([x, y]) => s("circle", { class: `${style} dot`, cx: x, cy: y, r: 2.5 })));
    if (line.last) ends.push([line.last[1], label]);
  }
  if (limit) ends.push([axes.y(limit), "Limit"]);
  parts.push(endLabels(ends, width - right + 6, top + 6, height - bottom));
  const last = (key) => history[key].findLast((v) => v !== null);
  const text = drawn.map(([key, label]) => `${label} ${share(last(key))} at the end, at most ${share(Math.max(...history[key].filter((v) => v !== null)))}`).join("; ");
  return picture(width, height, `Null, missing and stale values of ${name} over time`, `${moment(history.time[0])} to ${moment(history.time.at(-1))}. ${text}.`, parts);
}

// The mean over time with one standard deviation around it, beside the reference's.
function meanOverTime(width, name, history, reference) {
  const height = 160, left = 52, right = 76, top = 10, bottom = 24;
  const known = history.mean.map((m, i) => [i, m, history.std[i] ?? 0]).filter(([, m]) => m !== null);
  const marks = known.flatMap(([, m, d]) => [m - d, m + d]);
  if (reference) marks.push(reference.mean - reference.std, reference.mean + reference.std);
  let low = Math.min(...marks), high = Math.max(...marks);
  if (low === high) [low, high] = [low - 1, high + 1];
  const axes = timeAxes(history.time, width, height, { left, right, top, bottom }, low, high, axisNumber);
  const { x, y } = axes;
  const at = ([i]) => x(history.time[i]);
  const band = known.length > 1
    ? `M${known.map((k) => `${at(k)} ${y(k[1] + k[2])}`).join("L")}L${known.toReversed().map((k) => `${at(k)} ${y(k[1] - k[2])}`).join("L")}Z`
    : "";
  const line = polyline(history.time, history.mean, axes);
  const ends = [];
  const parts = [axes.parts, s("path", { class: "band", d: band })];
  if (reference) {
    const [a, b] = [width - right, left];
    for (const v of [reference.mean - reference.std, reference.mean + reference.std]) {
      parts.push(s("line", { class: "reference faint", x1: b, x2: a, y1: y(v), y2: y(v) }));
    }
    parts.push(s("line", { class: "reference", x1: b, x2: a, y1: y(reference.mean), y2: y(reference.mean) }));
    ends.push([y(reference.mean), "Reference"]);
  }
  parts.push(s("path", { class: "line-null", d: line.path }), line.alone.map(([cx, cy]) => s("circle", { class: "line-null dot", cx, cy, r: 2.5 })));
  if (line.last) ends.push([line.last[1], "Mean"]);
  parts.push(endLabels(ends, width - right + 6, top + 6, height - bottom));
  const end = known.at(-1);
  const text = `Mean ${number(end[1])} at the end${reference ? `, ${number(reference.mean)} in the reference` : ""}.`;
  return picture(width, height, `Mean of ${name} over time`, text, parts);
}

function timeAxes(times, width, height, pad, low, high, label) {
  const from = times[0], to = times.at(-1);
  const span = to - from;
  const x = (t) => (span ? pad.left + ((t - from) / span) * (width - pad.left - pad.right) : (pad.left + width - pad.right) / 2);
  const y = (v) => height - pad.bottom - ((v - low) / (high - low || 1)) * (height - pad.top - pad.bottom);
  const parts = ticks(low, high, 3).map((v) => [
    s("line", { class: "grid", x1: pad.left, x2: width - pad.right, y1: y(v), y2: y(v) }),
    s("text", { class: "tick", x: pad.left - 6, y: y(v) + 4, "text-anchor": "end" }, label(v)),
  ]);
  const shown = span ? [from, (from + to) / 2, to] : [from];
  shown.forEach((t, i) => {
    const anchor = span ? ["start", "middle", "end"][i] : "middle";
    parts.push(s("text", { class: "tick", x: x(t), y: height - 7, "text-anchor": anchor }, axisTime(t, span)));
  });
  parts.push(s("line", { class: "axis", x1: pad.left, x2: width - pad.right, y1: height - pad.bottom, y2: height - pad.bottom }));
  return { x, y, parts };
}

// A line with gaps where nothing is known; points that have no neighbour stand alone.
function polyline(times, values, { x, y }) {
  let path = "", last = null;
  const alone = [];
  values.forEach((value, i) => {
    if (value === null) return;
    const before = values[i - 1] ?? null, after = values[i + 1] ?? null;
    last = [x(times[i]), y(value)];
    if (before === null && after === null) alone.push(last);
    path += `${before === null ? "M" : "L"}${last[0].toFixed(1)} ${last[1].toFixed(1)}`;
  });
  return { path, alone, last };
}

// Names beside the ends of lines, moved apart where they would cover each other.
function endLabels(ends, x, top, bottom) {
  const placed = ends.toSorted((a, b) => a[0] - b[0]);
  let floor = top;
  for (const end of placed) {
    end[0] = Math.max(end[0] + 4, floor);
    floor = end[0] + 13;
  }
  const over = Math.max(0, (placed.at(-1)?.[0] ?? 0) - bottom);
  return placed.map(([y, label]) => s("text", { class: "end", x, y: y - over }, label));
}

// How old the newest row is, against the view's TTL.
function freshnessBar(width, seconds, ttl, level) {
  const height = 10;
  const most = ttl ? Math.max(ttl * 1.2, Math.min(seconds, ttl * 2)) : Math.max(seconds, 1);
  const x = (v) => (Math.min(Math.max(v, 0), most) / most) * (width - 2) + 1;
  return s("svg", { class: "freshness", width, height, viewBox: `0 0 ${width} ${height}`, "aria-hidden": "true" },
    s("rect", { class: "track", x: 0.5, y: 2.5, width: width - 1, height: 5, rx: 2.5 }),
    s("rect", { class: `age ${level}`, x: 1, y: 3, width: Math.max(x(seconds) - 1, 2), height: 4, rx: 2 }),
    ttl ? s("line", { class: "mark half", x1: x(ttl / 2), x2: x(ttl / 2), y1: 1, y2: height - 1 }) : null,
    ttl ? s("line", { class: "mark", x1: x(ttl), x2: x(ttl), y1: 0, y2: height }) : null);
}

// Nulls over time in a table's cell; the cell's own text has the figure.
function spark(values) {
  const width = 84, height = 22;
  const known = values.filter((v) => v !== null);
  if (known.length < 2) return null;
  const most = Math.max(...known, 0.02);
  const x = (i) => 1 + (i / (values.length - 1)) * (width - 2);
  const y = (v) => height - 2 - (v / most) * (height - 5);
  const line = polyline(values.map((_, i) => i), values, { x, y });
  return s("svg", { class: "spark", width, height, viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `at most ${share(Math.max(...known))} null, now ${share(known.at(-1))}` },
    s("title", null, `Nulls over time: at most ${share(Math.max(...known))}, now ${share(known.at(-1))}`),
    s("line", { class: "axis", x1: 0, x2: width, y1: height - 1.5, y2: height - 1.5 }),
    s("path", { class: "line-null", d: line.path }),
    line.last ? s("circle", { class: "line-null dot", cx: line.last[0], cy: line.last[1], r: 2 }) : null);
}
