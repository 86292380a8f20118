// What the server knows, kept so that nothing is asked for twice.

const CHUNK = 100; // rows at a time
const KEPT = 4000; // maps and photographs
const KEPT_CHUNKS = 200; // of rows

/** The latest so many things. */
class Kept extends Map {
  constructor(most) {
    super();
    this.most = most;
  }

  remember(key, value) {
    this.delete(key);
    this.set(key, value);
    if (this.size > this.most) this.delete(this.keys().next().value);
    return value;
  }
}

export async function ask(address, options = {}) {
  const response = await fetch(address, options);
  if (!response.ok) throw new Error((await response.text()).trim() || response.statusText);
  return response;
}

export const json = async (address, options) => (await ask(address, options)).json();

/** The rows that a filter and an order choose, in chunks. */
export class Rows {
  constructor(where, sort, descending) {
    this.query = new URLSearchParams({ where: JSON.stringify(where), sort, descending: descending ? "1" : "0" });
    this.chunks = new Kept(KEPT_CHUNKS);
    this.count = 0;
  }

  async load(number) {
    if (!this.chunks.has(number)) {
      const query = new URLSearchParams(this.query);
      query.set("offset", number * CHUNK);
      query.set("limit", CHUNK);
      const asked = json(`/api/rows?${query}`);
      this.chunks.remember(number, asked);
      asked.catch(() => this.chunks.delete(number));
    }
    const found = await this.chunks.get(number);
    this.count = found.count ?? this.count; // which comes with the first rows
    return found.rows;
  }

  async between(first, last) {
    const numbers = [];
    for (let n = Math.floor(first / CHUNK); n <= Math.floor(last / CHUNK); n += 1) numbers.push(n);
    const loaded = await Promise.all(numbers.map((n) => this.load(n)));
    const rows = loaded.flat();
    const start = numbers[0] * CHUNK;
    return rows.slice(first - start, last - start + 1);
  }
}

/** What the server sends of maps: what is said of each, with its values. */
function decoded(bytes) {
  const length = new DataView(bytes).getUint32(0, true);
  const heads = JSON.parse(new TextDecoder().decode(new Uint8Array(bytes, 4, length)));
  const values = new Uint16Array(bytes.slice(4 + length));
  return heads.map((head) => {
    const size = head.shape.reduce((a, b) => a * b, 1);
    return { ...head, values: values.subarray(head.start, head.start + size) };
  });
}

export const meanMaps = async () => decoded(await (await ask("/api/means")).arrayBuffer());

const maps = new Kept(KEPT);
const photographs = new Kept(KEPT);

/** The maps of rows by place: {shape, low, high, values}; a row without a map has null. */
export async function mapsOf(places) {
  const missing = places.filter((place) => !maps.has(place));
  for (let start = 0; start < missing.length; start += 200) {
    const asked = missing.slice(start, start + 200);
    const bytes = await (await ask(`/api/maps?places=${asked.join(",")}`)).arrayBuffer();
    for (const place of asked) maps.remember(place, null);
    for (const map of decoded(bytes)) maps.remember(map.place, map);
  }
  return new Map(places.map((place) => [place, maps.get(place)]));
}

/** The photograph of a row as an image, or null where there is none. */
export function photographOf(place, side) {
  const key = `${place} ${side}`;
  if (!photographs.has(key)) {
    const picture = new Image();
    picture.src = `/api/photographs/${place}?side=${side}`;
    photographs.remember(key, picture.decode().then(() => picture, () => null));
  }
  return photographs.get(key);
}
