// The page as a whole: where its figures come from, and what keys, links and the address do.

const inline = (id) => JSON.parse(byId(id).textContent);

class App {
  constructor() {
    this.report = inline("report");
    this.channel = null;
    this.chosen = null;
    this.paused = false;
    this.folds = new Set();
    this.table = new FeatureTable(this);
    this.panel = new Details(this);
    this.search_ = byId("search");
    this.search_.addEventListener("input", () => this.search(this.search_.value));
    document.addEventListener("keydown", (event) => this.key(event));
    addEventListener("hashchange", () => this.follow());
    byId("channel").addEventListener("change", (event) => {
      this.channel = event.target.value;
      this.table.update(this.report, this.channel);
    });
    for (const fold of document.querySelectorAll("details.fold")) {
      fold.addEventListener("toggle", () => this.unfold(fold));
    }
    this.themes();
    this.helps();
    this.take(this.report);
    this.follow();
    if (this.report.interval) this.live();
  }

  take(report) {
    this.report = report;
    const channels = report.channels;
    if (!channels.includes(this.channel)) this.channel = channels[0] ?? null;
    const select = byId("channel");
    byId("channel-field").hidden = channels.length < 2;
    swap(select, channels, () => channels.map((name) => h("option", { value: name }, CHANNELS[name] ?? name)));
    select.value = this.channel ?? "";
    swap(byId("now-content"), [report.alerts, report.views, report.features], () => overview(report, this));
    swap(byId("chips"), report.features, () => this.chips(report));
    this.table.update(report, this.channel);
    for (const fold of this.folds) this.fillFold(fold);
    byId("made").textContent = `${report.figures} · ${moment(report.made_at)}`;
    if (this.chosen && this.table.rows.has(this.chosen)) this.panel.show(this.table.rows.get(this.chosen), false);
    else if (this.chosen) this.close();
  }

  // Sections that are closed are not made.
  unfold(fold) {
    if (!fold.open || this.folds.has(fold)) return;
    this.folds.add(fold);
    this.fillFold(fold);
  }

  fillFold(fold) {
    if (fold.id === "lineage") {
      const place = byId("lineage-graph");
      swap(place, [this.report.lineage, Math.round(place.clientWidth / 50)], () =>
        lineage(this.report.lineage, "Lineage of all feature views", { width: place.clientWidth, key: "all", choose: (node) => this.choose(node) }));
    } else catalogueTables(this.report, this);
  }

  chips(report) {
    const kinds = [["problem", "Problems"], ["firing", "Alerts"], ["drifted", "Drifted"], ["late", "Late"], ["pii", "PII"], ["deprecated", "Deprecated"], ["unread", "In no service"]];
    const views = new Map(report.views.map((v) => [v.name, v]));
    return kinds.map(([kind, label]) => {
      const n = report.features.filter((feature) => is({ feature, view: views.get(feature.view) }, kind)).length;
      const query = `is:${kind}`;
      return n || this.words().includes(query)
        ? h("button", { type: "button", class: "chip", "data-key": `chip-${kind}`, "data-query": query, "aria-pressed": String(this.words().includes(query)), onclick: () => this.toggle(query) }, label, h("span", { class: "n" }, whole.format(n)))
        : null;
    }).filter(Boolean);
  }

  words() {
    return (this.search_.value.match(/(?:[a-z]+:)?"[^"]*"?|\S+/g) ?? []);
  }

  toggle(query) {
    const words = this.words();
    this.search(words.includes(query) ? words.filter((w) => w !== query).join(" ") : [...words, query].join(" "));
  }

  search(text, jump = false) {
    if (this.search_.value !== text) this.search_.value = text;
    this.table.query = text;
    this.table.limit = FIRST_ROWS;
    this.table.show();
    for (const chip of byId("chips").children) chip.setAttribute("aria-pressed", String(this.words().includes(chip.dataset.query)));
    this.note();
    if (!jump) return;
    if (this.panel.narrow.matches) this.close();
    byId("features").scrollIntoView();
    this.search_.focus({ preventScroll: true });
  }

  counted(found, all) {
    byId("count").textContent = found === all ? plural(all, "feature") : `${whole.format(found)} of ${plural(all, "feature")}`;
  }

  choose(node) {
    const prefix = node.layer === "service" || node.layer === "source" ? node.layer : "view";
    this.search(`${prefix}:${quoted(node.name)}`, true);
  }

  open(id, from = null, focus = true) {
    const row = this.table.rows.get(id);
    if (!row) return;
    this.chosen = id;
    this.table.current = id;
    this.from = from ?? row.button ?? null;
    this.table.mark();
    this.panel.show(row, focus);
    this.note();
    if (!from && !this.panel.narrow.matches) byId("features").scrollIntoView();
  }

  close() {
    if (!this.chosen) return;
    const row = this.table.rows.get(this.chosen);
    this.chosen = null;
    this.panel.hide();
    this.table.mark();
    this.note();
    const back = row?.button?.isConnected ? row.button : this.search_;
    back.focus({ preventScroll: true });
  }

  // The address leads back to what is seen.
  note() {
    const at = new URLSearchParams();
    if (this.chosen) at.set("feature", this.chosen);
    if (this.search_.value) at.set("q", this.search_.value);
    const hash = at.size ? `#${at}` : " ";
    if (location.hash !== hash.trim()) history.replaceState(null, "", hash.trim() || location.pathname + location.search);
  }

  follow() {
    if (!location.hash.includes("=")) return;
    const at = new URLSearchParams(location.hash.slice(1));
    if (at.has("q")) this.search(at.get("q"));
    if (at.has("feature") && at.get("feature") !== this.chosen) this.open(at.get("feature"));
  }

  key(event) {
    if (event.key === "Escape" && !byId("help").open) {
      if (event.target === this.search_ && this.search_.value) this.search("");
      else this.close();
      return;
    }
    if (event.ctrlKey || event.metaKey || event.altKey || !this.shortcuts) return;
    if (event.target.closest?.("input:not([type=radio], [type=checkbox]), textarea, select, [contenteditable]")) {
      if (event.target === this.search_ && event.key === "ArrowDown") {
        event.preventDefault();
        this.table.focus(0);
      }
      return;
    }
    if (event.key === "/") {
      event.preventDefault();
      if (this.panel.narrow.matches) this.close();
      this.search_.focus();
      this.search_.select();
    } else if (event.key === "?") byId("help").showModal();
  }

  helps() {
    let stored = null;
    try {
      stored = localStorage.getItem("hotfeast-shortcuts");
    } catch {
      // As for the theme.
    }
    this.shortcuts = stored !== "off";
    const box = byId("shortcuts");
    box.checked = this.shortcuts;
    box.addEventListener("change", () => {
      this.shortcuts = box.checked;
      remember("hotfeast-shortcuts", box.checked ? "on" : "off");
    });
    byId("help-open").addEventListener("click", () => byId("help").showModal());
    byId("help-close").addEventListener("click", () => byId("help").close());
  }

  themes() {
    const button = byId("theme");
    const root = document.documentElement;
    const names = { "": "System", light: "Light", dark: "Dark" };
    const tell = () => {
      byId("theme-name").textContent = names[root.dataset.theme ?? ""];
    };
    button.addEventListener("click", () => {
      const order = ["", "light", "dark"];
      const next = order[(order.indexOf(root.dataset.theme ?? "") + 1) % order.length];
      if (next) root.dataset.theme = next;
      else delete root.dataset.theme;
      remember("hotfeast-theme", next);
      tell();
    });
    tell();
  }

  details(row) {
    if (this.report.interval) {
      const at = new URLSearchParams({ view: row.feature.view, feature: row.feature.name });
      return this.fetch(`api/feature.json?${at}`);
    }
    // Each view's details are text until one of its features is opened.
    this.parsed ??= new Map();
    const { view, name } = row.feature;
    if (!this.parsed.has(view)) {
      const place = document.querySelector(`script[data-view="${CSS.escape(view)}"]`);
      this.parsed.set(view, place ? JSON.parse(place.textContent) : {});
    }
    return this.parsed.get(view)[name] ?? { channels: {} };
  }

  async fetch(address) {
    const answer = await fetch(address, { cache: "no-cache" });
    if (!answer.ok) throw new Error(`the gateway answered ${answer.status}`);
    return answer.json();
  }

  live() {
    const button = byId("pause");
    button.hidden = false;
    button.addEventListener("click", () => {
      this.paused = !this.paused;
      button.setAttribute("aria-pressed", String(this.paused));
      byId("live").textContent = this.paused ? "Paused" : "Live";
      if (!this.paused) this.refresh();
    });
    byId("live").textContent = "Live";
    this.schedule();
  }

  schedule() {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.refresh(), this.report.interval * 1000);
  }

  async refresh() {
    if (!this.paused && !document.hidden) {
      try {
        this.take(await this.fetch("api/report.json"));
        this.reached(true);
      } catch (error) {
        this.reached(false, error);
      }
    }
    this.schedule();
  }

  // Says once that the gateway cannot be reached, and once that it can again.
  reached(now, error) {
    if (now === (this.answers ?? true)) return;
    this.answers = now;
    byId("live").textContent = now ? "Live" : `No answer: figures of ${moment(this.report.made_at)}`;
    byId("live").title = now ? "" : String(error);
  }
}

function remember(name, value) {
  try {
    if (value) localStorage.setItem(name, value);
    else localStorage.removeItem(name);
  } catch {
    // As for the theme.
  }
}

globalThis.hotfeastReport = new App();
