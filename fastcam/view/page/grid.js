// A grid of any number of maps, of which those in sight exist.

import { mapsOf, photographOf } from "/page/data.js";
import { draw } from "/page/drawing.js";

const CAPTION = 60; // pixels below a picture
const TALLEST = 16_000_000; // that browsers scroll; beyond, a step of the bar is more than a pixel of the grid

export class Grid {
  constructor(about, look, opened, chosen) {
    const [hasPhotographs, folders] = [about.photographs, about.stores.map((store) => store.name)];
    Object.assign(this, { hasPhotographs, folders, look, opened, chosen, size: 160, selected: 0, figures: new Map(), wanted: false, isFilling: false, filledAt: 0 });
    this.main = document.querySelector("#grid");
    this.canvas = document.querySelector("#canvas");
    this.main.addEventListener("scroll", () => this.show());
    new ResizeObserver(() => this.show()).observe(this.main);
  }

  get columns() { return Math.max(1, Math.floor((this.main.clientWidth - 16) / this.size)); }
  /** The width of a cell: the wanted size, and its share of what is left over. */
  get cell() { return Math.floor((this.main.clientWidth - 16) / this.columns); }
  get pitch() { return this.cell + CAPTION; }
  get whole() { return Math.ceil(this.rows.count / this.columns) * this.pitch; }
  get height() { return Math.min(this.whole, TALLEST); }
  /** Where the top of the window lies in the whole grid. */
  get top() {
    const room = Math.max(1, this.height - this.main.clientHeight);
    return this.whole <= TALLEST ? this.main.scrollTop : (this.main.scrollTop / room) * (this.whole - this.main.clientHeight);
  }

  /** Show rows; captions have the numbers of a column, or of the score. */
  async use(rows, column) {
    Object.assign(this, { rows, column });
    await rows.load(0);
    this.selected = 0;
    this.main.scrollTop = this.filledAt = 0;
    this.clear();
    document.querySelector("#nothing").hidden = rows.count > 0;
    await this.show();
  }

  clear() {
    for (const figure of this.figures.values()) figure.remove();
    this.figures.clear();
  }

  /** The first and last row in sight, and so many screens before and after. */
  range(before, after) {
    const { columns, pitch, top, rows } = this;
    const tall = this.main.clientHeight;
    const first = Math.max(0, Math.floor((top - before * tall) / pitch)) * columns;
    const last = Math.min(rows.count, Math.ceil((top + (1 + after) * tall) / pitch) * columns) - 1;
    return [first, last];
  }

  /** Put what is there in its place, and bring what is not. */
  async show() {
    if (!this.rows) return;
    this.canvas.style.height = `${this.height}px`;
    const [first, last] = this.range(2, 2);
    for (const [place, figure] of this.figures) {
      if (place < first || place > last) { figure.remove(); this.figures.delete(place); } else this.lay(figure, place);
    }
    this.wanted = true;
    if (this.isFilling) return; // who fills looks again, so that scrolling on never keeps the grid empty
    this.isFilling = true;
    try {
      while (this.wanted) {
        this.wanted = false;
        await this.fill(...this.range(0, 0));
        const moved = (this.top - this.filledAt) / this.main.clientHeight;
        this.filledAt = this.top;
        const ahead = (screens) => (moved < 0 ? this.range(screens, 0) : this.range(0, screens));
        if (this.wanted || Math.abs(moved) > 2) continue; // after a jump nobody knows yet where it goes on
        await this.fill(...ahead(1));
        if (!this.wanted) await this.fetch(...ahead(4));
      }
    } finally {
      this.isFilling = false;
    }
  }

  /** Show rows, as soon as they and their maps are known. */
  async fill(first, last) {
    const { rows } = this;
    const found = await this.fetch(first, last);
    if (rows !== this.rows) return;
    const fresh = found.flatMap(([row, map], index) => (this.figures.has(first + index) ? [] : [this.add(row, map, first + index)]));
    if (fresh.length) this.paint(fresh);
  }

  /** Return rows with their maps, which are then kept. */
  async fetch(first, last) {
    if (last < first) return [];
    const found = await this.rows.between(first, last);
    const maps = await mapsOf(found.map((row) => row.place));
    return found.map((row) => [row, maps.get(row.place)]);
  }

  lay(figure, place) {
    const { columns } = this;
    const shift = this.main.scrollTop - this.top;
    figure.style.width = `${this.cell}px`;
    figure.style.left = `${8 + (place % columns) * this.cell}px`;
    figure.style.top = `${8 + Math.floor(place / columns) * this.pitch + shift}px`;
    figure.setAttribute("aria-selected", place === this.selected);
  }

  add(row, map, place) {
    const figure = document.createElement("figure");
    const canvas = document.createElement("canvas");
    const caption = document.createElement("figcaption");
    const side = Math.min(256, this.size);
    Object.assign(canvas, { width: side, height: side });
    figure.setAttribute("role", "gridcell");
    const name = row.target_name ?? (row.target === null ? row.status : `class ${row.target}`);
    const strong = document.createElement("b");
    strong.textContent = name;
    if (row.is_right === false) strong.className = "wrong";
    const number = row[this.column] ?? row.confidence ?? row.score;
    const made = [row.method, this.folders.length > 1 ? this.folders[row.store] : null].filter(Boolean).join(" · ");
    const first = document.createElement("div");
    first.append(strong, typeof number === "number" ? ` ${number.toPrecision(3)}` : "");
    caption.append(first, ...[made, row.image_id].map((text) => Object.assign(document.createElement("div"), { textContent: text })));
    figure.title = [name, made, row.image_id].filter(Boolean).join(", ");
    figure.setAttribute("aria-label", figure.title);
    figure.append(canvas, caption);
    Object.assign(figure, { row, map });
    figure.addEventListener("click", () => { this.select(place); this.opened(row); });
    this.mark(figure);
    this.figures.set(place, figure);
    this.lay(figure, place);
    this.canvas.append(figure);
    return figure;
  }

  mark(figure) {
    figure.querySelector(".tag")?.remove();
    if (figure.row.tag === null) return;
    const tag = document.createElement("span");
    Object.assign(tag, { className: "tag", textContent: figure.row.tag });
    figure.append(tag);
  }

  /** Draw figures, all that are there without an argument. */
  async paint(figures = [...this.figures.values()]) {
    const look = { ...this.look };
    if (look.scale === "all") {
      const maps = [...this.figures.values()].map((each) => each.map).filter(Boolean);
      look.low = Math.min(...maps.map((map) => map.low));
      look.high = Math.max(...maps.map((map) => map.high));
    }
    for (const figure of figures) {
      const canvas = figure.querySelector("canvas");
      draw(canvas, figure.map, null, look, figure.row.box);
      if (!this.hasPhotographs) continue;
      photographOf(figure.row.place, 256).then((photograph) => {
        if (photograph && figure.isConnected) draw(canvas, figure.map, photograph, { ...look, opacity: this.look.opacity }, figure.row.box);
      });
    }
  }

  select(place) {
    this.selected = Math.min(Math.max(0, place), this.rows.count - 1);
    for (const [each, figure] of this.figures) figure.setAttribute("aria-selected", each === this.selected);
    const at = Math.floor(this.selected / this.columns) * this.pitch;
    const { top } = this;
    if (at < top || at + this.pitch > top + this.main.clientHeight) {
      const room = Math.max(1, this.height - this.main.clientHeight);
      const wanted = at < top ? at : at + this.pitch - this.main.clientHeight;
      this.main.scrollTop = this.whole <= TALLEST ? wanted : (wanted / (this.whole - this.main.clientHeight)) * room;
    }
    this.chosen(this.selected);
  }

  get chosenFigure() { return this.figures.get(this.selected); }
}
