"""Pages of one HTML file each: the game and the study share styles, an engine and how pictures are embedded.

    data (JSON) + pictures (data URIs) + page.html.j2, page.css, engine.js, NAME.js → one string

Nothing is fetched: no font, no script, no picture.
"""

import base64
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray
from PIL import Image

FOLDER = Path(__file__).parent


def data_uri(picture: NDArray[np.uint8], quality: int | None = None) -> str:
    """A picture (uint8 RGB) as WebP: lossless, or lossy at a quality of 1 to 100."""
    buffer = io.BytesIO()
    image = Image.fromarray(np.ascontiguousarray(picture))
    if quality is None:
        image.save(buffer, "WEBP", lossless=True, method=4, quality=60)
    else:
        image.save(buffer, "WEBP", quality=quality, method=4)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()


def embed(pictures: Sequence[NDArray[np.uint8]], budget_bytes: int) -> tuple[list[str], int | None]:
    """All pictures in one manner: lossless where they fit the budget, else at the highest WebP quality that does.

    One manner for all, since an original in another one could be told by it. Returns the addresses and the quality (None:
    lossless); the lowest tried is 80, which may exceed the budget.
    """
    found: list[str] = []
    for quality in (None, 95, 90, 80):
        found, total = [], 0
        for picture in pictures:
            found.append(data_uri(picture, quality))
            total += len(found[-1])
            if total > budget_bytes and quality != 80:
                break
        else:
            return found, quality
    return found, 80


def render(name: str, *, title: str, data: Mapping[str, Any], **values: Any) -> str:
    """The page `name` ("game" or "study") with its data inside."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return environment.get_template(f"{name}.html.j2").render(
        title=title,
        style=Markup((FOLDER / "page.css").read_text()),
        script=Markup((FOLDER / "engine.js").read_text() + (FOLDER / f"{name}.js").read_text()),
        data=Markup(text.replace("<", "\\u003c").replace("\u2028", "\\u2028")),
        **values,
    )
