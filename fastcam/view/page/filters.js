// The form of conditions, and a histogram in which a range is drawn.

import { json } from "/page/data.js";

const WITHOUT_VALUE = new Set(["is missing", "is there"]);

const element = (name, properties = {}) => Object.assign(document.createElement(name), properties);

function options(select, names, chosen) {
  select.replaceChildren(...names.map((name) => element("option", { value: name, textContent: name.replaceAll("_", " ") })));
  if (chosen !== undefined) select.value = chosen;
}

export class Filters {
  constructor(about, changed) {
    this.about = about;
    this.changed = changed;
    this.form = document.querySelector("#filters");
    this.form.addEventListener("submit", (event) => event.preventDefault());
    document.querySelector("#add-filter").addEventListener("click", () => {
      this.add({ column: "predicted_name", operator: "is", value: "" }).querySelector("select").focus();
    });
  }

  add({ column, operator, value }) {
    const kind = () => this.about.columns[columns.value];
    const set = element("fieldset");
    const columns = element("select", { ariaLabel: "Column" });
    const operators = element("select", { ariaLabel: "Comparison" });
    const values = element("input", { type: "text", ariaLabel: "Value", value: value ?? "" });
    const list = element("datalist", { id: `values-${Math.random().toString(36).slice(2)}` });
    const remove = element("button", { type: "button", textContent: "Remove" });
    values.setAttribute("list", list.id);
    options(columns, Object.keys(this.about.columns), column);
    const fit = async () => {
      options(operators, this.about.operators[kind()], this.about.operators[kind()].includes(operators.value) ? operators.value : undefined);
      values.hidden = WITHOUT_VALUE.has(operators.value);
      const known = await json(`/api/values?column=${columns.value}`).catch(() => []);
      list.replaceChildren(...known.filter(([each]) => each !== null).map(([each]) => element("option", { value: String(each) })));
    };
    options(operators, this.about.operators[kind()], operator);
    fit();
    columns.addEventListener("change", async () => { await fit(); this.changed(); });
    operators.addEventListener("change", () => { values.hidden = WITHOUT_VALUE.has(operators.value); this.changed(); });
    values.addEventListener("change", () => this.changed());
    remove.addEventListener("click", () => { set.remove(); this.changed(); });
    set.read = () => {
      if (WITHOUT_VALUE.has(operators.value)) return { column: columns.value, operator: operators.value };
      if (values.value === "") return null;
      const typed = { text: String, number: Number, truth: (text) => text === "true" }[kind()](values.value);
      return { column: columns.value, operator: operators.value, value: typed };
    };
    set.append(columns, operators, values, list, remove);
    this.form.append(set);
    return set;
  }

  get where() {
    return [...this.form.children].map((set) => set.read()).filter((each) => each !== null);
  }

  /** Replace the conditions on a column by a range of it; null leaves an end open. */
  range(column, low, high) {
    for (const set of [...this.form.children]) if (set.querySelector("select").value === column) set.remove();
    if (low !== null) this.add({ column, operator: "at least", value: low });
    if (high !== null) this.add({ column, operator: "at most", value: high });
    this.changed();
  }
}

export class Histogram {
  constructor(about, filters) {
    this.filters = filters;
    this.canvas = document.querySelector("#histogram");
    this.column = document.querySelector("#histogram-column");
    const numbers = Object.keys(about.columns).filter((name) => about.columns[name] === "number");
    options(this.column, numbers, "score");
    this.column.addEventListener("change", () => this.show());
    this.ends = [...document.querySelectorAll("#histogram-ends input")];
    for (const end of this.ends) end.addEventListener("change", () => this.typed());
    let start = null;
    const share = (event) => {
      const { left, width } = this.canvas.getBoundingClientRect();
      return Math.min(1, Math.max(0, (event.clientX - left) / width));
    };
    this.canvas.addEventListener("pointerdown", (event) => { start = share(event); this.canvas.setPointerCapture(event.pointerId); });
    this.canvas.addEventListener("pointermove", (event) => { if (start !== null) this.draw(start, share(event)); });
    this.canvas.addEventListener("pointerup", (event) => {
      const [low, high] = [start, share(event)].sort((a, b) => a - b);
      start = null;
      const at = (place) => Number((this.found.low + place * (this.found.high - this.found.low)).toPrecision(6));
      if (high - low > 0.01) this.filters.range(this.column.value, at(low), at(high));
    });
  }

  async show() {
    const query = new URLSearchParams({ column: this.column.value, where: JSON.stringify(this.filters.where) });
    this.found = await json(`/api/histogram?${query}`);
    this.draw();
    const limits = { "at least": this.found.low, "at most": this.found.high };
    Object.entries(limits).forEach(([operator, limit], end) => {
      const set = this.filters.where.find((each) => each.column === this.column.value && each.operator === operator);
      Object.assign(this.ends[end], { value: set?.value ?? "", placeholder: Number(limit.toPrecision(4)) });
    });
  }

  /** Filter by the limits that were typed; one that was not is left open. */
  typed() {
    const limits = this.ends.map((end) => (end.value === "" ? null : Number(end.value)));
    if (!limits.includes(null)) limits.sort((a, b) => a - b);
    this.filters.range(this.column.value, ...limits);
  }

  draw(from = 0, to = 0) {
    const context = this.canvas.getContext("2d");
    const { width, height } = this.canvas;
    const style = getComputedStyle(document.body);
    context.clearRect(0, 0, width, height);
    const most = Math.max(1, ...this.found.counts);
    const bar = width / this.found.counts.length;
    context.fillStyle = style.getPropertyValue("color");
    context.globalAlpha = 0.55;
    this.found.counts.forEach((count, place) => {
      const tall = count ? Math.max(1, (count / most) * height) : 0;
      context.fillRect(place * bar, height - tall, bar - 1, tall);
    });
    context.globalAlpha = 0.2;
    context.fillRect(Math.min(from, to) * width, 0, Math.abs(to - from) * width, height);
    context.globalAlpha = 1;
  }
}
