// The page: what was chosen, and what follows from it.

import { ask, json, mapsOf, meanMaps, photographOf, Rows } from "/page/data.js";
import { draw } from "/page/drawing.js";
import { Filters, Histogram } from "/page/filters.js";
import { Grid } from "/page/grid.js";

const $ = (name) => document.querySelector(name);
const look = { opacity: 0.5, threshold: 0, scale: "each", colours: new Uint8Array(768) };
const SHOWN = ["image_id", "label", "target_name", "target", "predicted_name", "predicted", "score", "confidence", "detection", "method", "layer", "status"];

function say(error) {
  const message = $("#message");
  message.textContent = error.message;
  message.hidden = false;
  clearTimeout(say.timer);
  say.timer = setTimeout(() => { message.hidden = true; }, 6000);
}

const tried = (work) => (...values) => Promise.resolve().then(() => work(...values)).catch(say);

async function useColours(name) {
  look.colours = new Uint8Array(await (await ask(`/api/colours?colours=${name}`)).arrayBuffer());
}

async function start() {
  const about = await json("/api/about");
  $("#title").textContent = about.stores.map((store) => store.name).join(", ");
  document.title = $("#title").textContent;
  for (const name of about.colormaps) $("#colours").append(new Option(name));
  $("#sort").append(new Option("order of the dataset", "place"), ...Object.keys(about.columns).map((name) => new Option(name.replaceAll("_", " "), name)));
  await useColours(about.colormaps[0]);
  const grid = new Grid(about, look, tried((row) => open(row)), () => {});
  const filters = new Filters(about, tried(() => changed()));
  const histogram = new Histogram(about, filters);

  async function changed() {
    const rows = new Rows(filters.where, $("#sort").value, $("#descending").checked);
    await grid.use(rows, about.columns[$("#sort").value] === "number" ? $("#sort").value : null);
    $("#count").textContent = `${rows.count.toLocaleString()} of ${about.rows.toLocaleString()} maps`;
    await histogram.show();
    remember();
  }

  /** Keep what is chosen in the address, so that a reload and a link lead back to it. */
  function remember(place = null) {
    const [where, sort, descending] = ["where", "sort", "descending"].map((name) => grid.rows.query.get(name));
    const kept = { where: where === "[]" ? null : where, sort: sort === "place" ? null : sort, descending: descending === "1" ? 1 : null, row: place };
    const said = new URLSearchParams(Object.entries(kept).filter(([, value]) => value !== null));
    history.replaceState(null, "", `/${said.size ? `#${said}` : ""}`);
  }

  function recall(said) {
    if (about.columns[said.get("sort")]) $("#sort").value = said.get("sort");
    $("#descending").checked = said.get("descending") === "1";
    for (const condition of JSON.parse(said.get("where") ?? "[]")) if (about.columns[condition.column]) filters.add(condition);
  }

  for (const link of document.querySelectorAll("[data-export]")) {
    link.addEventListener("click", () => {
      const query = new URLSearchParams(grid.rows.query);
      query.set("colours", $("#colours").value);
      query.set("opacity", $("#opacity").value);
      link.href = `${link.dataset.export}?${query}`;
    });
  }

  let drawAgain = () => {}; // what the detail shows

  async function open(row) {
    const side = 320;
    const [maps, photograph] = [await mapsOf([row.place]), about.photographs ? await photographOf(row.place, 512) : null];
    const map = maps.get(row.place);
    drawAgain = () => {
      const parts = [["photograph", null, photograph, look], ["map", map, null, { ...look, threshold: 0 }], ["both", map, photograph, look]];
      $("#detail-pictures").replaceChildren(...parts.filter(([, m, p]) => m || p).map(([name, m, p, how]) => picture(name, m, p, how, row.box, side)));
    };
    drawAgain();
    row.folder = about.stores[row.store].name;
    $("#detail-row").replaceChildren(...["folder", ...SHOWN, ...about.measures].filter((name) => row[name] !== null).flatMap((name) => {
      const [term, value] = [document.createElement("dt"), document.createElement("dd")];
      term.textContent = name.replaceAll("_", " ");
      value.textContent = typeof row[name] === "number" ? Number(row[name].toPrecision(6)) : row[name];
      return [term, value];
    }));
    const where = [{ column: "image_id", operator: "is", value: row.image_id }];
    const others = (await new Rows(where, "place", false).load(0)).filter((each) => each.place !== row.place);
    const ofOthers = await mapsOf(others.map((each) => each.place));
    $("#detail-others").replaceChildren(...others.map((each) => {
      const folder = about.stores.length > 1 ? about.stores[each.store].name : null;
      const name = [each.method, each.target_name ?? each.target, each.detection, folder].filter((part) => part !== null).join(", ");
      const figure = picture(name, ofOthers.get(each.place), photograph, look, each.box, 150);
      figure.addEventListener("click", tried(() => open(each)));
      return figure;
    }));
    remember(row.place);
    if (!$("#detail").open) $("#detail").showModal();
  }

  function picture(name, map, photograph, how, box, side) {
    const [figure, canvas, caption] = ["figure", "canvas", "figcaption"].map((each) => document.createElement(each));
    Object.assign(canvas, { width: side, height: side });
    caption.textContent = name;
    draw(canvas, map, photograph, how, box);
    figure.append(canvas, caption);
    return figure;
  }

  async function means() {
    const found = await meanMaps();
    $("#means .many").replaceChildren(...found.map((map) => {
      const name = [map.label, map.method, map.layer, about.stores.length > 1 ? map.folder : ""].filter(Boolean).join(", ");
      return picture(name, map, null, { ...look, threshold: 0 }, null, 150);
    }));
    $("#means").showModal();
  }

  async function tag(number) {
    const figure = grid.chosenFigure;
    if (!figure) return;
    await ask("/api/tags", { method: "POST", body: JSON.stringify({ places: [figure.row.place], tag: number }) });
    figure.row.tag = number;
    grid.mark(figure);
  }

  $("#sort").addEventListener("change", tried(() => {
    if (about.columns[$("#sort").value] === "number") $("#histogram-column").value = $("#sort").value;
    return changed();
  }));
  $("#descending").addEventListener("change", tried(changed));
  $("#size").addEventListener("input", () => { grid.size = Number($("#size").value); grid.clear(); grid.show(); });
  for (const slider of document.querySelectorAll("[data-look]")) {
    slider.addEventListener("input", () => {
      const name = slider.dataset.look;
      look[name] = Number(slider.value) / 100;
      for (const same of document.querySelectorAll(`[data-look=${name}]`)) same.value = slider.value;
      grid.paint();
      if ($("#detail").open) drawAgain();
    });
  }
  $("#scale").addEventListener("change", () => { look.scale = $("#scale").value; grid.paint(); });
  $("#colours").addEventListener("change", tried(async () => { await useColours($("#colours").value); await grid.paint(); }));
  $("#means-button").addEventListener("click", tried(means));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => histogram.draw());
  $("#help-button").addEventListener("click", () => $("#help").showModal());
  $("#detail").addEventListener("close", () => remember());
  document.addEventListener("keydown", tried(async (event) => {
    if (event.target.closest("input, select, button, dialog[open]") && !/^[0-9]$/.test(event.key)) return;
    if (event.target.closest("input, select") || event.ctrlKey || event.metaKey || event.altKey) return;
    const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -grid.columns, ArrowDown: grid.columns };
    if (event.key in steps) { event.preventDefault(); grid.select(grid.selected + steps[event.key]); }
    else if (event.key === "Enter" && grid.chosenFigure) await open(grid.chosenFigure.row);
    else if (/^[0-9]$/.test(event.key)) await tag(event.key === "0" ? null : Number(event.key));
  }));
  const said = new URLSearchParams(location.hash.slice(1));
  await tried(() => recall(said))();
  await changed();
  if (said.has("row")) {
    const [row] = await json(`/api/rows?places=${said.get("row")}`).then((found) => found.rows);
    if (row) await open(row); else say(new Error(`there is no row ${said.get("row")}`));
  }
  document.body.dataset.ready = "yes";
}

tried(start)();
