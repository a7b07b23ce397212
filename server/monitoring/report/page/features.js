// The table of features: searched, sorted and walked through by keys. Rows are made as they come
// into sight, so that thousands cost no more than those that are looked at.

const FIRST_ROWS = 120, MORE_ROWS = 240;

const quoted = (text) => (/\s/.test(text) ? `"${text}"` : text);

const COLUMNS = [
  { key: "name", label: "Feature", text: true },
  { key: "state", label: "State", first: "descending" },
  { key: "null_share", label: "Null", first: "descending", wide: 1 },
  { key: "trend", label: "Nulls over time", wide: 4, plain: true },
  { key: "missing_share", label: "Missing", first: "descending", wide: 3 },
  { key: "stale_share", label: "Stale", first: "descending", wide: 3 },
  { key: "outlier_share", label: "Outliers", first: "descending", wide: 4 },
  { key: "drift", label: "Drift", first: "descending", wide: 2 },
  { key: "age", label: "Newest", first: "descending", wide: 2 },
  { key: "rows", label: "Values", first: "descending", wide: 3 },
  { key: "readers", label: "Services", first: "descending", wide: 5 },
  { key: "owner", label: "Owner", text: true, wide: 5 },
];

class FeatureTable {
  constructor(app) {
    this.app = app;
    this.sort = { key: "state", direction: "descending" };
    this.query = "";
    this.limit = FIRST_ROWS;
    this.rows = new Map();
    this.body = byId("rows");
    this.heads = new Map(COLUMNS.map((column) => [column.key, this.head(column)]));
    byId("heads").append(...this.heads.values());
    this.body.addEventListener("keydown", (event) => this.walk(event));
    this.more = byId("more");
    this.more.addEventListener("click", () => this.grow());
    new IntersectionObserver((entries) => {
      if (entries.some((e) => e.isIntersecting)) this.grow();
    }, { rootMargin: "400px" }).observe(this.more);
  }

  head(column) {
    const cell = h("th", { scope: "col", class: `${column.text ? "text" : "figure"} wide-${column.wide ?? 0} col-${column.key}` });
    if (column.plain) cell.append(column.label);
    else {
      cell.append(h("button", { type: "button", "data-key": `sort-${column.key}`, onclick: () => this.sortBy(column) }, column.label, h("span", { class: "arrow", "aria-hidden": "true" })));
    }
    return cell;
  }

  sortBy(column) {
    const first = column.first ?? "ascending";
    const other = first === "ascending" ? "descending" : "ascending";
    const again = this.sort.key === column.key && this.sort.direction === first;
    this.sort = { key: column.key, direction: again ? other : first };
    this.limit = FIRST_ROWS;
    this.show();
  }

  // Takes a new state of the report; rows that have not changed are left alone.
  update(report, channel) {
    this.channel = channel;
    const views = new Map(report.views.map((v) => [v.name, v]));
    const known = this.rows;
    this.rows = new Map();
    for (const feature of report.features) {
      const id = `${feature.view}:${feature.name}`;
      const view = views.get(feature.view);
      const row = known.get(id) ?? { id, line: null };
      row.feature = feature;
      row.view = view;
      row.figures = feature.figures[channel] ?? null;
      row.level = feature.level;
      row.values = this.values(row);
      row.hay = [feature.name, feature.view, feature.description, feature.type, view.owner, view.description,
        ...view.entities, ...feature.services, ...tagWords(feature.tags), ...tagWords(view.tags)].join("\n").toLowerCase();
      const signature = JSON.stringify([feature, channel, view.age, view.freshness, view.owner]);
      if (row.line && row.signature !== signature) this.fill(row);
      row.signature = signature;
      this.rows.set(id, row);
    }
    this.show();
  }

  values(row) {
    const { feature, figures, view } = row;
    return {
      name: feature.name, state: RANK[row.level] * 1000 + feature.problems.length, owner: view.owner || null,
      readers: feature.services.length, age: view.age, drift: figures?.drift?.effect ?? null,
      null_share: figures?.null_share ?? null, missing_share: figures?.missing_share ?? null,
      stale_share: figures?.stale_share ?? null, outlier_share: figures?.outlier_share ?? null, rows: figures?.rows ?? null,
    };
  }

  show() {
    const terms = parse(this.query);
    const found = [...this.rows.values()].filter((row) => terms.every((term) => matches(row, term)));
    const { key, direction } = this.sort;
    const turn = direction === "ascending" ? 1 : -1;
    found.sort((a, b) => {
      const x = a.values[key], y = b.values[key];
      if (x === null || y === null) return (x === null) - (y === null) || a.id.localeCompare(b.id);
      const order = typeof x === "string" ? x.localeCompare(y) : x - y;
      return order * turn || a.id.localeCompare(b.id);
    });
    this.found = found;
    for (const [name, cell] of this.heads) {
      if (name === key) cell.setAttribute("aria-sort", direction);
      else cell.removeAttribute("aria-sort");
    }
    byId("table").setAttribute("aria-rowcount", found.length + 1);
    byId("empty").hidden = found.length > 0;
    this.place();
    this.app.counted(found.length, this.rows.size);
  }

  place() {
    const shown = this.found.slice(0, this.limit);
    const lines = shown.map((row, i) => {
      row.line ??= this.line(row);
      row.line.setAttribute("aria-rowindex", i + 2);
      return row.line;
    });
    const same = lines.length === this.body.children.length && lines.every((line, i) => line === this.body.children[i]);
    if (!same) keepFocus(() => this.body.replaceChildren(...lines));
    this.more.hidden = shown.length === this.found.length;
    this.more.textContent = `Show more (${whole.format(this.found.length - shown.length)} left)`;
    this.mark();
  }

  grow() {
    if (this.more.hidden) return;
    this.limit += MORE_ROWS;
    this.place();
  }

  line(row) {
    row.button = h("button", { type: "button", class: "open", tabindex: -1, "data-key": `row-${row.id}`, "aria-expanded": "false", "aria-controls": "details", onclick: () => this.app.open(row.id, row.button) }, parted(row.feature.name));
    row.line = h("tr", { onclick: (event) => { if (!event.target.closest("button, a") && !String(getSelection())) this.app.open(row.id, row.button); } });
    row.head = h("th", { scope: "row", class: "text col-name" }, row.button, h("span", { class: "sub" }));
    row.line.append(row.head);
    this.fill(row);
    return row.line;
  }

  fill(row) {
    const { feature, figures, view } = row;
    row.line.className = row.level;
    row.head.lastChild.replaceChildren(...parted(feature.view), " ", ...marks(feature));
    const cells = COLUMNS.slice(1).map((column) => h("td", { class: `${column.text ? "text" : "figure"} wide-${column.wide ?? 0} col-${column.key}` }, this.cell(column.key, feature, figures, view, row)));
    while (row.line.children.length > 1) row.line.lastChild.remove();
    row.line.append(...cells);
  }

  cell(key, feature, figures, view, row) {
    switch (key) {
      case "state": return [icon(row.level), h("span", null, feature.state)];
      case "trend": return figures?.trend ? spark(figures.trend) : null;
      case "drift": return figures?.drift ? [figures.drift.drifted ? h("span", { class: "flag" }, "drifted ") : null, effect(figures.drift.effect)] : NONE;
      case "age": return view.age === null ? NONE : age(view.age);
      case "rows": return count(figures?.rows);
      case "readers": return count(feature.services.length);
      case "owner": return view.owner ? h("span", { title: view.owner }, view.owner.split("@")[0]) : NONE;
      default: return share(figures?.[key]);
    }
  }

  // One row can be reached by Tab; from it the arrows lead on.
  mark() {
    const lines = this.found.slice(0, this.limit);
    const current = lines.find((r) => r.id === this.current) ?? lines[0];
    for (const row of lines) row.button.tabIndex = row === current ? 0 : -1;
    for (const row of this.rows.values()) {
      if (!row.line) continue;
      const chosen = row.id === this.app.chosen;
      row.line.classList.toggle("chosen", chosen);
      row.button.setAttribute("aria-expanded", String(chosen));
    }
  }

  focus(index) {
    if (index >= this.limit) this.grow();
    const row = this.found[Math.min(Math.max(index, 0), this.found.length - 1)];
    if (!row) return;
    if (!row.line?.isConnected) {
      this.limit = this.found.length;
      this.place();
    }
    this.current = row.id;
    this.mark();
    row.button.focus();
    row.line.scrollIntoView({ block: "nearest" });
    if (this.app.chosen) this.app.open(row.id, row.button, false);
  }

  walk(event) {
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    const at = this.found.findIndex((row) => row.button === event.target);
    if (at < 0) return;
    const to = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: this.found.length - 1, PageDown: at + 15, PageUp: at - 15 }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    if (to < 0) byId("search").focus();
    else this.focus(to);
  }
}

const tagWords = (tags) => Object.entries(tags).map(([k, v]) => `${k}=${v}`);

function parse(query) {
  return (query.toLowerCase().match(/(?:[a-z]+:)?"[^"]*"?|\S+/g) ?? []).map((word) => {
    const [, field, text] = /^(?:(is|view|owner|service|entity|tag|type|source):)?(.*)$/s.exec(word);
    return { field, text: text.replaceAll('"', "") };
  });
}

function matches(row, { field, text }) {
  const { feature, view } = row;
  const has = (values) => values.some((v) => v.toLowerCase().includes(text));
  switch (field) {
    case "view": return feature.view.toLowerCase() === text;
    case "owner": return view.owner.toLowerCase().includes(text);
    case "service": return has(feature.services);
    case "entity": return has(view.entities);
    case "source": return has(view.sources);
    case "type": return feature.type.toLowerCase().includes(text);
    case "tag": return has([...tagWords(feature.tags), ...tagWords(view.tags)]);
    case "is": return is(row, text);
    default: return row.hay.includes(text);
  }
}

const drifted = (feature) => Object.values(feature.figures).some((f) => f.drift?.drifted);

function is({ feature, view }, text) {
  const problem = (kind) => feature.problems.some((p) => p.kind === kind);
  switch (text) {
    case "firing": return problem("alert");
    case "drifted": return drifted(feature);
    case "late": return view.freshness === "late";
    case "problem": return feature.problems.length > 0;
    case "pii": return feature.marks.pii;
    case "deprecated": return Boolean(feature.marks.deprecated || feature.marks.sunset);
    case "unread": return feature.services.length === 0;
    case "nodata": return Object.keys(feature.figures).length === 0;
    default: return true;
  }
}
