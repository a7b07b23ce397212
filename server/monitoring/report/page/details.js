// All that is known of one feature, beside the table, or above it where the page is narrow.

const CHANNELS = {
  served: "Served", pushed: "Pushed", materialized: "Materialized",
};

class Details {
  constructor(app) {
    this.app = app;
    this.panel = byId("details");
    this.content = byId("details-content");
    this.narrow = matchMedia("(max-width: 1000px)");
    this.narrow.addEventListener("change", () => this.cover());
    byId("details-close").addEventListener("click", () => app.close());
    let width = 0;
    new ResizeObserver(() => {
      if (this.panel.hidden || Math.abs(this.content.clientWidth - width) < 8) return;
      width = this.content.clientWidth;
      this.draw();
    }).observe(this.content);
  }

  // Shows a feature; what is in sight stays until its figures have come.
  async show(row, focus) {
    const opened = this.panel.hidden || this.row?.id !== row.id;
    this.row = row;
    this.panel.hidden = false;
    document.body.classList.add("detailed");
    this.cover();
    byId("details-title").textContent = row.feature.name;
    let data = null;
    try {
      data = await this.app.details(row);
    } catch (error) {
      data = { failure: String(error.message ?? error) };
    }
    if (this.row !== row || this.panel.hidden) return;
    this.data = data;
    if (opened) this.content.scrollTop = 0;
    this.draw();
    if (focus) byId("details-title").focus({ preventScroll: true });
  }

  hide() {
    this.panel.hidden = true;
    this.row = null;
    document.body.classList.remove("detailed");
    this.cover();
  }

  // Over a narrow page the panel is all that can be reached.
  cover() {
    const over = this.narrow.matches && !this.panel.hidden;
    for (const part of document.querySelectorAll("[data-beside]")) part.inert = over;
    document.body.classList.toggle("covered", over);
  }

  draw() {
    if (!this.row || !this.data) return;
    const width = Math.max(260, this.content.clientWidth - 2);
    const { row, data } = this;
    const channels = Object.keys(data.channels ?? {});
    const channel = channels.includes(this.channel ?? this.app.channel) ? this.channel ?? this.app.channel : channels[0];
    swap(this.content, [row.signature, data, channel, width], () => [
      head(row, this.app),
      problems(row),
      facts(row, this.app),
      data.failure ? h("p", { class: "calm" }, icon("warning"), `The figures could not be fetched: ${data.failure}`) : null,
      channels.length > 1 ? this.picker(channels, channel) : null,
      channel ? figures(row, data.channels[channel], width, channel) : data.failure ? null : h("p", { class: "calm" }, icon("none"), "Nothing was seen of it yet."),
      data.lineage ? section("Lineage", lineage(data.lineage, `Lineage of ${row.feature.name}`, { down: true, width, here: row.feature.view, key: "details", choose: (node) => this.app.choose(node) })) : null,
      data.lineage ? readers(row, data) : null,
    ]);
  }

  picker(channels, chosen) {
    return h("fieldset", { class: "picker" }, h("legend", null, "Figures of values that were"),
      channels.map((name) => h("label", null,
        h("input", { type: "radio", name: "details-channel", value: name, checked: name === chosen, "data-key": `channel-${name}`, onchange: () => { this.channel = name; this.draw(); } }),
        CHANNELS[name] ?? name)));
  }
}

const section = (title, ...children) => h("section", null, h("h3", null, title), ...children);

function head(row, app) {
  const { feature } = row;
  return h("div", { class: "head" },
    h("p", { class: "sub" }, "in ", link(feature.view, `view:${quoted(feature.view)}`, app, "head-view"), ` · ${feature.type}`, " ", ...marks(feature)),
    feature.description ? h("p", { class: "description" }, feature.description) : null);
}

const link = (text, query, app, key) =>
  h("a", { href: "#features", "data-key": `link-${key}`, onclick: (event) => { event.preventDefault(); app.search(query, true); } }, text);

function problems({ feature, level }) {
  if (!feature.problems.length) {
    return level === "ok" ? h("p", { class: "calm" }, icon("ok"), "Nothing is wrong with it.") : null;
  }
  return h("ul", { class: "troubles" }, feature.problems.map((p) =>
    h("li", { class: p.level }, icon(p.level), h("span", { class: "level" }, p.level === "critical" ? "Critical" : "Warning"), h("span", { class: "words" }, p.words))));
}

function facts({ feature, view }, app) {
  const tags = { ...view.tags, ...feature.tags };
  const list = [
    ["Owner", view.owner ? link(view.owner, `owner:${quoted(view.owner)}`, app, "owner") : null],
    ["Looked up by", view.entities.length ? view.entities.map((e, i) => [i ? " and " : "", link(e, `entity:${quoted(e)}`, app, `entity-${e}`)]) : view.kind === "on-demand" ? "computed for a request" : "nothing: one row for all"],
    ["Kind of view", `${view.kind}${view.version || view.versions.length ? `, version ${view.version}` : ""}${view.versions.length > 1 ? ` of ${view.versions.length}` : ""}`],
    ["Freshness", freshness(view)],
    ["Materialized until", view.materialized_until === null ? null : moment(view.materialized_until)],
    ["Tags", Object.keys(tags).length ? h("span", { class: "tags" }, Object.entries(tags).map(([k, v]) => h("span", { class: "tag" }, h("span", { class: "sub" }, `${k} `), v))) : null],
  ];
  return h("dl", { class: "facts" }, list.filter(([, value]) => value).map(([name, value]) => h("div", null, h("dt", null, name), h("dd", null, value))));
}

const FRESHNESS = { fresh: "ok", aging: "warning", late: "warning", unknown: "none" };

// Words, with a picture before them.
function freshness(view) {
  if (view.age === null) return view.ttl_seconds ? `TTL ${age(view.ttl_seconds)}; no row seen` : null;
  const words = `newest row ${age(view.age)} old, ${view.ttl_seconds ? `TTL ${age(view.ttl_seconds)}` : "no TTL"}`;
  return [freshnessBar(160, view.age, view.ttl_seconds, FRESHNESS[view.freshness]), " ", view.freshness === "late" || view.freshness === "aging" ? h("b", null, view.freshness === "late" ? "Late: " : "Aging: ") : null, words];
}

function figures(row, data, width, channel) {
  const { name } = row.feature;
  const parts = [];
  const shape = data.distribution;
  if (shape) {
    const legend = h("ul", { class: "legend", "aria-hidden": "true" },
      h("li", null, h("span", { class: "key now" }), `${CHANNELS[channel] ?? channel}, ${count(data.values)} values`),
      shape.reference ? h("li", null, h("span", { class: "key reference" }), `Reference${data.reference_name ? ` ${data.reference_name}` : ""}`) : h("li", null, "No reference to compare with"));
    parts.push(section("Distribution", legend,
      shape.kind === "category" ? categories(width, name, shape) : histogram(width, name, shape, data.hidden),
      h("p", { class: "note" }, shape.text, data.hidden ? " Values are hidden: the feature is tagged PII." : ""),
      numbers("distribution", ["Value", "Now", ...(shape.reference ? ["Reference"] : [])], tableOf(shape, data.hidden))));
  }
  const history = data.history;
  if (history?.time.length) {
    if (LINES.some(([key]) => history[key].some((v) => v !== null))) {
      parts.push(section("Null, missing and stale over time", sharesOverTime(width, name, history, data.null_limit),
        numbers("history", ["Time", ...LINES.map(([, label]) => label)], history.time.map((t, i) => [moment(t), ...LINES.map(([key]) => share(history[key][i]))]))));
    }
    if (!data.hidden && history.mean.some((v) => v !== null)) {
      parts.push(section("Mean over time", meanOverTime(width, name, history, data.reference_mean),
        h("p", { class: "note" }, `The band is one standard deviation either way${data.reference_mean ? "; dashed lines are the reference's" : ""}.`)));
    }
  }
  parts.push(drift(data));
  if (data.statistics.length) {
    const compared = data.statistics.some((r) => r.reference !== null);
    parts.push(section("Statistics", h("table", { class: "numbers" },
      h("thead", null, h("tr", null, h("th", { scope: "col", class: "text" }, "Figure"), h("th", { scope: "col" }, "Now"), compared ? h("th", { scope: "col" }, "Reference") : null)),
      h("tbody", null, data.statistics.map((r) => h("tr", null, h("th", { scope: "row", class: "text" }, r.label), h("td", null, written(r.now, r.unit)), compared ? h("td", null, written(r.reference, r.unit)) : null))))));
  }
  return parts;
}

const written = (value, unit) => ({ share, count, time: moment, age, number, text: (v) => v ?? NONE }[unit](value));

function tableOf(shape, hidden) {
  const label = shape.times ? moment : axisNumber;
  const names = shape.kind === "category" ? shape.values : shape.current.map((_, i) => (hidden ? `Bin ${i + 1}` : `${label(shape.edges[i])} to ${label(shape.edges[i + 1])}`));
  return names.map((n, i) => [n, share(shape.current[i]), ...(shape.reference ? [share(shape.reference[i])] : [])]);
}

function numbers(key, heads, rows) {
  return h("details", { class: "as-table", "data-key": `numbers-${key}` },
    h("summary", { "data-key": `numbers-${key}-summary` }, "As a table"),
    h("table", { class: "numbers" }, h("thead", null, h("tr", null, heads.map((t, i) => h("th", { scope: "col", class: i ? "" : "text" }, t)))),
      h("tbody", null, rows.map(([first, ...rest]) => h("tr", null, h("th", { scope: "row", class: "text" }, first), rest.map((c) => h("td", null, c)))))));
}

function drift(data) {
  if (!data.drift) return null;
  const d = data.drift;
  const rows = [
    ["Test", d.test], ["Statistic", number(d.statistic)], ["p", probability(d.p_value)],
    ["p, corrected for all features", probability(d.adjusted_p)], ["Effect", effect(d.effect)],
    ["PSI", number(d.psi)], ["Wasserstein, in reference deviations", number(d.wasserstein)],
    ["Rows without a value", share(d.empty)], ["The same, reference", share(d.empty_reference)],
  ].filter(([, v]) => v !== null && v !== NONE);
  return section("Drift", h("p", { class: "verdict" }, icon(d.drifted ? "warning" : "ok"), verdict(d)),
    h("table", { class: "numbers" }, h("tbody", null, rows.map(([n, v]) => h("tr", null, h("th", { scope: "row", class: "text" }, n), h("td", null, v))))));
}

function verdict(d) {
  if (d.values_drifted) return "Drifted from the reference.";
  return d.drifted ? "Values are as in the reference, the share of rows without one is not." : "Not drifted from the reference.";
}

function readers({ feature }, data) {
  const rows = data.readers ?? [];
  const list = feature.services.length
    ? h("p", null, `In ${plural(feature.services.length, "feature service")}: `, feature.services.map((name, i) => [i ? ", " : "", h("b", null, name)]), ".")
    : h("p", null, "No feature service has it.");
  return section("Who reads it", list, rows.length
    ? h("table", { class: "numbers" }, h("thead", null, h("tr", null, h("th", { scope: "col", class: "text" }, "Service"), h("th", { scope: "col", class: "text" }, "Caller"), h("th", { scope: "col" }, "Values seen"))),
      h("tbody", null, rows.map((r) => h("tr", null, h("th", { scope: "row", class: "text" }, r.service || "by name"), h("td", { class: "text" }, r.caller || NONE), h("td", null, count(r.rows))))))
    : h("p", { class: "note" }, "No reads of it were seen."));
}
