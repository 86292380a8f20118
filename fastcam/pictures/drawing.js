// Maps over photographs: values are interpolated, then coloured, so that no request is needed for another look.

/** A map's values at another size, linear, corners not aligned, as they are in the files: Float32Array of size * size. */
export function resized({ shape, low, high, values }, width, height) {
  const [rows, columns] = shape.length > 1 ? shape.slice(-2) : [1, shape[0]];
  const step = (high - low) / 65535;
  const result = new Float32Array(width * height);
  const places = (count, from) => {
    const found = [];
    for (let i = 0; i < count; i += 1) {
      const at = Math.max(0, ((i + 0.5) * from) / count - 0.5);
      const before = Math.min(Math.floor(at), from - 1);
      found.push([before, Math.min(before + 1, from - 1), at - before]);
    }
    return found;
  };
  const across = places(width, columns);
  const down = places(height, rows);
  for (let y = 0; y < height; y += 1) {
    const [top, bottom, v] = down[y];
    for (let x = 0; x < width; x += 1) {
      const [left, right, u] = across[x];
      const upper = values[top * columns + left] * (1 - u) + values[top * columns + right] * u;
      const lower = values[bottom * columns + left] * (1 - u) + values[bottom * columns + right] * u;
      result[y * width + x] = low + (upper * (1 - v) + lower * v) * step;
    }
  }
  return result;
}

/** Draw a map over a photograph. */
export function draw(canvas, map, photograph, look, box) {
  const { width, height } = canvas;
  const context = canvas.getContext("2d", { willReadFrequently: false });
  context.clearRect(0, 0, width, height);
  if (photograph) context.drawImage(photograph, 0, 0, width, height);
  if (map) {
    const values = resized(map, width, height);
    let low = look.low ?? Infinity;
    let high = look.high ?? -Infinity;
    if (look.low === undefined) for (const value of values) { low = Math.min(low, value); high = Math.max(high, value); }
    const range = high - low;
    const picture = new ImageData(width, height);
    for (let i = 0; i < values.length; i += 1) {
      const share = range > 0 ? Math.min(1, Math.max(0, (values[i] - low) / range)) : 0;
      const colour = 3 * Math.round(share * 255);
      picture.data[4 * i] = look.colours[colour];
      picture.data[4 * i + 1] = look.colours[colour + 1];
      picture.data[4 * i + 2] = look.colours[colour + 2];
      picture.data[4 * i + 3] = share < look.threshold ? 0 : photograph ? look.opacity * 255 : 255;
    }
    const layer = new OffscreenCanvas(width, height);
    layer.getContext("2d").putImageData(picture, 0, 0);
    context.drawImage(layer, 0, 0);
  }
  if (box) {
    context.strokeStyle = "#ffffff";
    context.lineWidth = Math.max(1, width / 160);
    context.strokeRect(box[0] * width, box[1] * height, (box[2] - box[0]) * width, (box[3] - box[1]) * height);
  }
}
