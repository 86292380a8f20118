"""A page of explanations in one file: photographs and maps, whose opacity and threshold the reader chooses."""

import base64
import html
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from fastcam import render

SIDE = 448  # of a photograph, at most
_STEPS = 65535  # of a map's values between its lowest and highest
_FOLDER = Path(__file__).parent
_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; }}
body {{ font: 14px/1.4 system-ui, sans-serif; margin: 0 auto; max-width: 1200px; padding: 0 16px 32px; }}
header {{ position: sticky; top: 0; background: Canvas; display: flex; flex-wrap: wrap; gap: 4px 24px; padding: 12px 0;
  align-items: center; border-bottom: 1px solid color-mix(in srgb, CanvasText 20%, Canvas); }}
h1 {{ font-size: 18px; margin: 0; }} h2 {{ font-size: 15px; margin: 24px 0 8px; }}
section div {{ display: flex; flex-wrap: wrap; gap: 12px; }}
figure {{ margin: 0; width: 224px; }} canvas {{ width: 100%; border-radius: 4px; }}
figcaption {{ color: color-mix(in srgb, CanvasText 70%, Canvas); }}
label {{ display: inline-flex; align-items: center; gap: 6px; }}
</style>
</head>
<body>
<header><h1>{title}</h1>
<label>Opacity <input type="range" id="opacity" min="0" max="100" value="50"></label>
<label>Threshold <input type="range" id="threshold" min="0" max="100" value="0"></label></header>
<main></main>
<script type="application/json" id="entries">{entries}</script>
<script type="application/json" id="limits">{limits}</script>
<script type="text/plain" id="values">{values}</script>
<script type="text/plain" id="colours">{colours}</script>
<script type="module">
{script}
</script>
</body>
</html>
"""


@dataclass
class Page:
    """The photographs of a page, each with maps.

    Attributes:
        title: of the page.
        colormap: "jet" or any name known to matplotlib.
        limits: the values of the ends of the colours; None takes those of each map.
    """

    title: str
    colormap: str = "jet"
    limits: tuple[float, float] | None = None
    _entries: list[dict[str, Any]] = field(default_factory=list)
    _values: list[bytes] = field(default_factory=list)
    _count: int = 0

    def __bool__(self) -> bool:
        """Whether there is anything on it."""
        return bool(self._entries)

    def add(self, title: str, photograph: render.Bytes, maps: Sequence[tuple[str, npt.NDArray[np.floating]]]) -> None:
        """Add a photograph.

        Args:
            title: of it.
            photograph: (H, W, 3), or (H, W, 1) in grey; kept with sides of at most 448 pixels.
            maps: the name and the values (h, w) of each of its maps, of any size; NaN and infinity are the lowest.
        """
        picture = Image.fromarray(photograph).convert("RGB")
        picture.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", quality=88)
        self._entries.append(
            {
                "title": title,
                "width": picture.width,
                "height": picture.height,
                "photograph": f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}",
                "maps": [self._map(name, np.asarray(values, np.float32)) for name, values in maps],
            }
        )

    def _map(self, name: str, values: npt.NDArray[np.float32]) -> dict[str, Any]:
        finite = values[np.isfinite(values)]
        low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
        clean = np.nan_to_num(values, nan=low, posinf=low, neginf=low)
        self._values.append(((clean - low) / ((high - low) or 1.0) * _STEPS).round().astype("<u2").tobytes())
        head = {"name": name, "shape": list(values.shape), "low": low, "high": high, "start": self._count}
        self._count += values.size
        return head

    def html(self) -> str:
        """Return the page."""
        drawing = (_FOLDER / "drawing.js").read_text(encoding="utf-8").replace("export function", "function")
        return _PAGE.format(
            title=html.escape(self.title),
            limits=json.dumps({} if self.limits is None else dict(zip(("low", "high"), self.limits, strict=True))),
            entries=json.dumps(self._entries).replace("<", "\\u003c"),
            values=base64.b64encode(b"".join(self._values)).decode(),
            colours=base64.b64encode(render.colors(self.colormap).tobytes()).decode(),
            script=drawing + (_FOLDER / "page.js").read_text(encoding="utf-8"),
        )

    def write(self, file: Path) -> None:
        """Write the page; nothing where nothing is on it."""
        if self:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(self.html(), encoding="utf-8")
