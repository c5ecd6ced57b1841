"""Pages of one HTML file each: styles, script, data and pictures inside, nothing fetched.

page.html.j2 (skeleton) ← report.html.j2; parts.html.j2, report.css, report.js
"""

import base64
import io
import math
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray
from PIL import Image

from assets.evaluation import numerals
from models.judges import KNOWN

Picture = NDArray[np.uint8]

FOLDER = Path(__file__).parent
NUMERALS = ("number", "counted", "percent", "decibel", "gain", "interval", "digits", "rate_label")
STYLE, SCRIPT = "report.css", "report.js"


def data_uri(picture: Picture, **how: Any) -> str:
    """The address of a picture inside a page, as WebP. how: what Pillow is told of its quality."""
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(picture)).save(buffer, "WEBP", **how)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()


def render_page(
    template: str, *, data: Any, folder: Path = FOLDER, style: str = STYLE, script: str = SCRIPT, **values: Any
) -> str:
    """The page of a folder's template with style, script and data inside. Templates write numbers by
    assets/evaluation/numerals.py."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.policies["json.dumps_kwargs"] = {"ensure_ascii": False, "separators": (",", ":"), "allow_nan": False}
    environment.globals.update(
        **{name: getattr(numerals, name) for name in NUMERALS},
        finite=math.isfinite,
        LABELS={m.name: m.label for m in KNOWN.values()},
        UNITS={m.name: m.unit for m in KNOWN.values()},
    )
    looks, acts = ((folder / name).read_text(encoding="utf-8") for name in (style, script))
    acts = acts.replace("</", "<\\/")
    return environment.get_template(template).render(style=Markup(looks), script=Markup(acts), data=data, **values)
