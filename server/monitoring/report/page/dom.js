// Elements, and words for figures. Whatever the registry says becomes text, never markup.

const SVG = "http://www.w3.org/2000/svg";
const NONE = "–";

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(Infinity).filter((c) => c !== null && c !== undefined && c !== false));
  return element;
}

const h = (tag, attributes, ...children) =>
  fill(document.createElement(tag), attributes, children);
const s = (tag, attributes, ...children) =>
  fill(document.createElementNS(SVG, tag), attributes, children);
const byId = (id) => document.getElementById(id);

// Puts new content into a container, unless it would be the same, and leaves what the reader did
// to it: focus, place and open sections, each known by its data-key.
function swap(container, data, build) {
  const signature = JSON.stringify(data);
  if (container.signature === signature) return;
  container.signature = signature;
  const top = container.scrollTop;
  const open = new Map(
    [...container.querySelectorAll("details[data-key]")].map((d) => [d.dataset.key, d.open]),
  );
  keepFocus(() => container.replaceChildren(...[build()].flat(Infinity).filter(Boolean)));
  for (const details of container.querySelectorAll("details[data-key]")) {
    if (open.has(details.dataset.key)) details.open = open.get(details.dataset.key);
  }
  container.scrollTop = top;
}

function keepFocus(change) {
  const focused = document.activeElement;
  const key = focused?.dataset?.key;
  change();
  if (document.activeElement === focused || focused === document.body) return;
  const again = focused?.isConnected ? focused : key && document.querySelector(`[data-key="${CSS.escape(key)}"]`);
  again?.focus({ preventScroll: true });
}

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const precise = new Intl.NumberFormat("en", { maximumSignificantDigits: 4 });
const brief = new Intl.NumberFormat("en", { notation: "compact", maximumSignificantDigits: 3 });

function number(value) {
  if (value === null || value === undefined) return NONE;
  if (Number.isInteger(value) || Math.abs(value) >= 1e4) return whole.format(value);
  return value !== 0 && Math.abs(value) < 1e-4 ? value.toExponential(2) : precise.format(value);
}

function count(value) {
  if (value === null || value === undefined) return NONE;
  return value < 100000 ? whole.format(value) : brief.format(value);
}

function share(value) {
  if (value === null || value === undefined) return NONE;
  if (value === 0) return "0%";
  if (value < 0.001) return "<0.1%";
  if (value > 0.999 && value < 1) return ">99.9%";
  return `${precise.format(Math.round(value * 1000) / 10)}%`;
}

function probability(value) {
  if (value === null || value === undefined) return NONE;
  return value < 0.0001 ? "<0.0001" : precise.format(value);
}

function age(seconds) {
  if (seconds === null || seconds === undefined) return NONE;
  const steps = [[86400, "d"], [3600, "h"], [60, "min"]];
  const sign = seconds < 0 ? "-" : "";
  const size = Math.abs(seconds);
  for (const [length, unit] of steps) {
    if (size >= length * 1.5) {
      const amount = size / length;
      return `${sign}${amount < 10 ? Math.round(amount * 10) / 10 : whole.format(amount)}\u00a0${unit}`;
    }
  }
  return `${sign}${whole.format(size)}\u00a0s`;
}

function moment(seconds) {
  if (seconds === null || seconds === undefined) return NONE;
  return `${new Date(seconds * 1000).toISOString().slice(0, 16).replace("T", " ")} UTC`;
}

function effect(value) {
  if (value === null || value === undefined) return NONE;
  return value < 0.005 ? "<0.01" : value.toFixed(2);
}

// Long names may break after each part.
const parted = (name) => name.split(/(?<=_)/).flatMap((part) => [document.createElement("wbr"), part]).slice(1);

const plural = (n, one, many = `${one}s`) => `${whole.format(n)} ${n === 1 ? one : many}`;

// Shapes stand beside every colour, and words beside every shape.
const SHAPES = {
  critical: "M5.5 1h5L15 5.5v5L10.5 15h-5L1 10.5v-5zM7.1 4v5h1.8V4zm0 6.4v1.8h1.8v-1.8z",
  warning: "M8 1.2 15.6 14.6H.4zM7.2 6v4.4h1.6V6zm0 5.6v1.6h1.6v-1.6z",
  ok: "M8 .8a7.2 7.2 0 1 1 0 14.4A7.2 7.2 0 0 1 8 .8zM6.9 11.6l5-5.4-1.2-1.1-3.8 4.1-1.7-1.7L4 8.7z",
  none: "M8 .8a7.2 7.2 0 1 1 0 14.4A7.2 7.2 0 0 1 8 .8zm0 1.6a5.6 5.6 0 1 0 0 11.2A5.6 5.6 0 0 0 8 2.4zM5 7.2h6v1.6H5z",
};
const icon = (level) =>
  s("svg", { class: `icon ${level}`, viewBox: "0 0 16 16", "aria-hidden": "true" },
    s("path", { d: SHAPES[level], "fill-rule": "evenodd" }));

const badge = (text, kind, title) => h("span", { class: `badge ${kind}`, title }, text);

function marks(of) {
  const list = [];
  if (of.marks.pii) list.push(badge("PII", "pii", "Describes a person"));
  if (of.marks.deprecated) {
    const words = of.marks.deprecated === "true" ? "Deprecated" : `Deprecated: ${of.marks.deprecated}`;
    list.push(badge(of.marks.sunset ? `Deprecated, gone ${of.marks.sunset}` : "Deprecated", "old", words));
  } else if (of.marks.sunset) list.push(badge(`Gone ${of.marks.sunset}`, "old", "Sunset"));
  return list;
}
