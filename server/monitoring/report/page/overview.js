// What is wrong now: counts that filter the table, then each thing with a way to it.

const RANK = { critical: 3, warning: 2, ok: 1, none: 0 };

function overview(report, app) {
  const features = report.features;
  const driftedCount = features.filter(drifted).length;
  const tiles = [
    ["firing", "Alerts firing", report.alerts.length, report.alerts.length ? worst(report.alerts.map((a) => a.level)) : "ok"],
    ["drifted", "Drifted features", driftedCount, driftedCount ? "warning" : "ok"],
    ["late", "Late views", report.views.filter((v) => v.freshness === "late").length, report.views.some((v) => v.freshness === "late") ? "warning" : "ok"],
    ["nodata", "Without figures", features.filter((f) => !Object.keys(f.figures).length).length, "none"],
  ];
  return [
    h("div", { class: "tiles" }, tiles.map(([kind, label, n, level]) =>
      h("button", { type: "button", class: `tile ${n ? level : "ok"}`, "data-key": `tile-${kind}`, onclick: () => app.search(`is:${kind}`, true) },
        h("span", { class: "tile-number" }, icon(n ? level : "ok"), whole.format(n)),
        h("span", { class: "tile-label" }, label)))),
    troubles(report, app),
  ];
}

const worst = (levels) => levels.reduce((a, b) => (RANK[b] > RANK[a] ? b : a), "none");

function troubles(report, app) {
  const rows = report.alerts.map((alert) => ({
    level: alert.level, what: alert.rule, where: alert, words: alert.message, since: alert.since,
  }));
  const alerted = new Set(report.alerts.map((a) => `${a.view}:${a.feature ?? ""}`));
  for (const view of report.views) {
    if (view.freshness === "late" && !report.alerts.some((a) => a.view === view.name && a.about === "freshness")) {
      rows.push({ level: "warning", what: "Late", where: { view: view.name }, words: `newest row is ${age(view.age)} old, its TTL is ${age(view.ttl_seconds)}`, since: null });
    }
  }
  for (const feature of report.features) {
    if (alerted.has(`${feature.view}:${feature.name}`)) continue;
    for (const problem of feature.problems.filter((p) => p.kind === "drift")) {
      rows.push({ level: problem.level, what: "Drifted", where: { view: feature.view, feature: feature.name }, words: problem.words, since: null });
    }
  }
  if (!rows.length) {
    const figures = report.features.some((f) => Object.keys(f.figures).length);
    return h("p", { class: "calm" }, icon(figures ? "ok" : "none"), figures
      ? "Nothing is wrong: no alert fires, no feature has drifted, no view is late."
      : "No figures yet: the catalogue is all there is to see.");
  }
  rows.sort((a, b) => RANK[b.level] - RANK[a.level]);
  const item = (row) => h("li", { class: row.level },
    icon(row.level), h("span", { class: "level" }, row.level === "critical" ? "Critical" : "Warning"),
    h("span", { class: "what" }, row.what),
    h("a", {
      href: "#features", class: "where", "data-key": `trouble-${row.what}-${row.where.view}-${row.where.feature ?? ""}`,
      onclick: (event) => {
        event.preventDefault();
        if (row.where.feature) app.open(`${row.where.view}:${row.where.feature}`);
        else app.search(`view:${quoted(row.where.view)}`, true);
      },
    }, row.where.feature ? [h("b", null, row.where.feature), ` in ${row.where.view}`] : h("b", null, row.where.view)),
    h("span", { class: "words" }, row.words),
    row.since ? h("span", { class: "since" }, `since ${moment(row.since)}`) : null);
  const shown = 6;
  return [
    h("ul", { class: "troubles" }, rows.slice(0, shown).map(item)),
    rows.length > shown
      ? h("details", { class: "more", "data-key": "troubles-more" }, h("summary", { "data-key": "troubles-summary" }, `${rows.length - shown} more`), h("ul", { class: "troubles" }, rows.slice(shown).map(item)))
      : null,
  ];
}
