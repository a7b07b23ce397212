// The way of the data as a graph: along the page's width for a repository, down for one feature.

const LAYERS = ["source", "view", "on-demand view", "service"];
const LETTER = 6.7;

function lineage(graph, title, options) {
  const layers = LAYERS.map((name) => ({
    name, nodes: graph.nodes.map((node, i) => ({ ...node, i })).filter((n) => n.layer === name),
  })).filter((layer) => layer.nodes.length);
  untangle(layers, graph.edges);
  const boxes = options.down ? placeDown(layers, options.width) : placeAcross(layers, options.width);
  const paths = graph.edges.map(([a, b]) =>
    s("path", { class: "edge", "data-from": a, "data-to": b, d: options.down ? bend(boxes[a], boxes[b]) : bow(boxes[a], boxes[b]) }));
  const nodes = layers.flatMap((layer) => layer.nodes.map((node) => box(node, boxes[node.i], options)));
  const labels = layers.map((layer) => s("text", { class: "layer", x: layer.x, y: layer.y }, `${layer.name[0].toUpperCase()}${layer.name.slice(1)}${layer.nodes.length > 1 ? "s" : ""}`));
  const width = options.down ? options.width : Math.max(...boxes.map((b) => b.x + b.w)) + 2;
  const height = Math.max(...boxes.map((b) => b.y + b.h)) + 4;
  const drawing = s("svg", { class: "lineage", width, height, viewBox: `0 0 ${width} ${height}`, role: "group", "aria-label": title },
    s("g", { "aria-hidden": "true" }, paths, labels), nodes);
  for (const event of ["pointerover", "focusin"]) drawing.addEventListener(event, (e) => trace(drawing, graph, e.target.closest("[data-node]")));
  for (const event of ["pointerleave", "focusout"]) drawing.addEventListener(event, () => trace(drawing, graph, null));
  return [drawing, spoken(graph)];
}

function spoken(graph) {
  return h("ul", { class: "spoken" }, graph.edges.map(([a, b]) =>
    h("li", null, `${graph.nodes[a].layer} ${graph.nodes[a].name} feeds ${graph.nodes[b].layer} ${graph.nodes[b].name}`)));
}

// Orders each layer by where its neighbours stand, so that fewer edges cross.
function untangle(layers, edges) {
  for (let sweep = 0; sweep < 6; sweep++) {
    const place = new Map(layers.flatMap((l) => l.nodes.map((n, i) => [n.i, i / l.nodes.length])));
    const ordered = sweep % 2 ? layers.toReversed() : layers;
    for (const layer of ordered) {
      const middle = (node) => {
        const near = edges.filter((e) => e.includes(node.i)).map(([a, b]) => place.get(a === node.i ? b : a));
        return near.length ? near.reduce((x, y) => x + y) / near.length : place.get(node.i);
      };
      const at = new Map(layer.nodes.map((n) => [n.i, middle(n)]));
      layer.nodes.sort((a, b) => at.get(a.i) - at.get(b.i) || a.name.localeCompare(b.name));
      layer.nodes.forEach((n, i) => place.set(n.i, i / layer.nodes.length));
    }
  }
}

function placeAcross(layers, room) {
  const gap = 64, step = 38, top = 26;
  const widths = layers.map((l) => Math.min(260, Math.max(...l.nodes.map((n) => n.name.length)) * LETTER + 26));
  const free = room - widths.reduce((a, b) => a + b, 0) - 4;
  const between = Math.max(gap, Math.min(300, free / Math.max(layers.length - 1, 1)));
  const tallest = Math.max(...layers.map((l) => l.nodes.length)) * step;
  const boxes = [];
  let x = 1;
  layers.forEach((layer, k) => {
    layer.x = x;
    layer.y = 12;
    const pitch = Math.min(step * 2, tallest / layer.nodes.length);
    const start = top + (tallest - pitch * layer.nodes.length) / 2 + (pitch - 28) / 2;
    layer.nodes.forEach((node, i) => { boxes[node.i] = { x, y: start + i * pitch, w: widths[k], h: 28 }; });
    x += widths[k] + between;
  });
  return boxes;
}

function placeDown(layers, room) {
  const boxes = [];
  let y = 0;
  for (const layer of layers) {
    layer.x = 0;
    layer.y = y + 12;
    y += 20;
    let x = 0;
    for (const node of layer.nodes) {
      const w = Math.min(room - 2, node.name.length * LETTER + 24);
      if (x && x + w > room - 2) [x, y] = [0, y + 36];
      boxes[node.i] = { x: x + 1, y, w, h: 28 };
      x += w + 10;
    }
    y += 28 + 26;
  }
  return boxes;
}

function bow(a, b) {
  const [x1, y1, x2, y2] = [a.x + a.w, a.y + a.h / 2, b.x, b.y + b.h / 2];
  const pull = Math.max(24, (x2 - x1) / 2);
  return `M${x1} ${y1}C${x1 + pull} ${y1} ${x2 - pull} ${y2} ${x2} ${y2}`;
}

function bend(a, b) {
  const [x1, y1, x2, y2] = [a.x + Math.min(a.w / 2, 60), a.y + a.h, b.x + Math.min(b.w / 2, 60), b.y];
  const pull = Math.max(16, (y2 - y1) / 2);
  return `M${x1} ${y1}C${x1} ${y1 + pull} ${x2} ${y2 - pull} ${x2} ${y2}`;
}

function box(node, at, options) {
  const letters = Math.floor((at.w - 20) / LETTER);
  const text = node.name.length > letters ? `${node.name.slice(0, letters - 1)}…` : node.name;
  const here = options.here === node.i || (options.here && node.name === options.here && node.layer !== "source");
  const kind = node.layer === "on-demand view" ? "computed" : node.layer;
  return s("a", {
    class: `node ${kind}${here ? " here" : ""}`, href: "#features", "data-node": node.i, "data-key": `node-${options.key}-${node.i}`,
    "aria-label": `${node.layer} ${node.name}${here ? ", this one" : ""}: show its features`,
    onclick: (event) => { event.preventDefault(); options.choose(node); },
  }, s("title", null, `${node.layer} ${node.name}`),
  s("rect", { x: at.x, y: at.y, width: at.w, height: at.h, rx: node.layer === "service" ? 14 : 5 }),
  s("text", { x: at.x + at.w / 2, y: at.y + 18, "text-anchor": "middle" }, text));
}

// Shows what a node is made of and what takes it.
function trace(drawing, graph, target) {
  const on = new Set();
  if (target) {
    const start = Number(target.dataset.node);
    const follow = (node, from, to) => {
      on.add(node);
      for (const edge of graph.edges) if (edge[from] === node) follow(edge[to], from, to);
    };
    follow(start, 0, 1);
    follow(start, 1, 0);
  }
  drawing.classList.toggle("traced", Boolean(target));
  for (const node of drawing.querySelectorAll("[data-node]")) node.classList.toggle("on", on.has(Number(node.dataset.node)));
  for (const edge of drawing.querySelectorAll(".edge")) {
    edge.classList.toggle("on", on.has(Number(edge.dataset.from)) && on.has(Number(edge.dataset.to)));
  }
}
