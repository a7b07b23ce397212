// The rest of the catalogue: views, services, entities and sources, as tables.

function catalogueTables(report, app) {
  const find = (text, query, key) => link(text, query, app, key);
  const several = (items, prefix, key) => (items.length ? items.map((name, i) => [i ? ", " : "", find(name, `${prefix}:${quoted(name)}`, `${key}-${name}`)]) : NONE);
  const about = (thing) => [h("span", { class: "name" }, thing.shown ?? thing.name), " ", ...marks(thing), thing.description ? h("span", { class: "sub" }, thing.description) : null];
  swap(byId("views-table"), report.views, () => table("Feature views", [
    ["View", (v) => about({ ...v, shown: find(v.name, `view:${quoted(v.name)}`, `view-${v.name}`) }), "head"],
    ["Kind", (v) => `${v.kind}${v.versions.length > 1 ? `, version ${v.version} of ${v.versions.length}` : v.version ? `, version ${v.version}` : ""}`],
    ["Looked up by", (v) => several(v.entities, "entity", `view-${v.name}`)],
    ["Features", (v) => count(v.features), "figure"],
    ["Freshness", (v) => (v.problem ? [icon("none"), " ", v.problem] : v.age === null && !v.ttl_seconds ? NONE : freshness(v))],
    ["Materialized until", (v) => moment(v.materialized_until)],
    ["Services", (v) => several(v.services, "service", `view-${v.name}`)],
    ["Owner", (v) => v.owner || NONE],
  ], report.views));
  const most = Math.max(...report.services.map((x) => x.rows ?? 0), 1);
  swap(byId("services-table"), report.services, () => table("Feature services", [
    ["Service", (x) => about({ ...x, shown: find(x.name, `service:${quoted(x.name)}`, `service-${x.name}`) }), "head"],
    ["Views", (x) => several(x.views, "view", `service-${x.name}`)],
    ["Features", (x) => count(x.features), "figure"],
    ["Values seen", (x) => (x.rows === null ? NONE : [h("meter", { min: 0, max: most, value: x.rows, "aria-hidden": "true" }), " ", count(x.rows)]), "figure"],
    ["Callers", (x) => x.callers.join(", ") || NONE],
    ["Owner", (x) => x.owner || NONE],
  ], report.services));
  swap(byId("entities-table"), report.entities, () => table("Entities", [
    ["Entity", (e) => about({ ...e, shown: find(e.name, `entity:${quoted(e.name)}`, `entity-${e.name}`) }), "head"],
    ["Join key", (e) => e.join_key],
    ["Type", (e) => e.type],
    ["Views", (e) => several(e.views, "view", `entity-${e.name}`)],
    ["Owner", (e) => e.owner || NONE],
  ], report.entities));
  swap(byId("sources-table"), report.sources, () => table("Data sources", [
    ["Source", (x) => about({ ...x, shown: find(x.name, `source:${quoted(x.name)}`, `source-${x.name}`) }), "head"],
    ["Kind", (x) => x.kind],
    ["Feeds", (x) => several(x.views, "view", `source-${x.name}`)],
    ["Owner", (x) => x.owner || NONE],
  ], report.sources));
}

function table(caption, columns, rows) {
  if (!rows.length) return h("p", { class: "note" }, "There are none.");
  return h("table", null, h("caption", { class: "spoken" }, caption),
    h("thead", null, h("tr", null, columns.map(([label, , kind]) => h("th", { scope: "col", class: kind === "figure" ? "figure" : "text" }, label)))),
    h("tbody", null, rows.map((row) => h("tr", null, columns.map(([, cell, kind]) =>
      (kind === "head" ? h("th", { scope: "row", class: "text" }, cell(row)) : h("td", { class: kind ?? "text" }, cell(row))))))));
}
