// What follows drawing.js in a page of explanations that stands in one file.

const limits = JSON.parse(document.querySelector("#limits").textContent);
const look = { opacity: 0.5, threshold: 0, colours: decode("colours", Uint8Array), ...limits };
const entries = JSON.parse(document.querySelector("#entries").textContent);

function decode(id, kind) {
  const bytes = Uint8Array.from(atob(document.querySelector(`#${id}`).textContent), (letter) => letter.charCodeAt(0));
  return new kind(bytes.buffer);
}

const values = decode("values", Uint16Array);
const drawn = [];
for (const entry of entries) {
  const section = document.createElement("section");
  const heading = document.createElement("h2");
  heading.textContent = entry.title;
  const pictures = document.createElement("div");
  section.append(heading, pictures);
  const photograph = new Image();
  photograph.src = entry.photograph;
  for (const map of [null, ...entry.maps]) {
    const [figure, canvas, caption] = ["figure", "canvas", "figcaption"].map((name) => document.createElement(name));
    Object.assign(canvas, { width: entry.width, height: entry.height });
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", map ? `${map.name} of ${entry.title}` : entry.title);
    caption.textContent = map ? map.name : "";
    figure.append(canvas, caption);
    pictures.append(figure);
    if (map) map.values = values.subarray(map.start, map.start + map.shape.reduce((a, b) => a * b, 1));
    drawn.push({ canvas, map, photograph });
  }
  document.querySelector("main").append(section);
}

async function paint() {
  for (const { canvas, map, photograph } of drawn) {
    await photograph.decode();
    draw(canvas, map, photograph, look);
  }
  document.body.dataset.ready = "yes";
}

for (const name of ["opacity", "threshold"]) {
  document.querySelector(`#${name}`).addEventListener("input", (event) => {
    look[name] = event.target.value / 100;
    paint();
  });
}
paint();
