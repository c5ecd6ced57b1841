"""Pages of one HTML file each: styles, script, data and pictures inside, nothing fetched.

page.html.j2 (skeleton) ← report.html.j2, compare.html.j2, generalisation.html.j2; parts.html.j2, report.css, report.js
"""

import json
import math
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from assets.evaluation import numerals
from models.metrics import METRICS

FOLDER = Path(__file__).parent
NUMERALS = ("number", "percent", "decibel", "interval", "digits", "rate_label")
STYLE, SCRIPT = "report.css", "report.js"


def embed_json(data: Any) -> Markup:
    """JSON that can stand in a script element: no tag can end it."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return Markup(text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029"))


def render_page(template: str, *, data: dict[str, Any], **values: Any) -> str:
    """The page of a template with its data inside. Templates write numbers by assets/evaluation/numerals.py."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.globals.update(
        **{name: getattr(numerals, name) for name in NUMERALS},
        finite=math.isfinite,
        LABELS={m.name: m.label for m in METRICS.values()},
        UNITS={m.name: m.unit for m in METRICS.values()},
    )
    style, script = ((FOLDER / name).read_text(encoding="utf-8") for name in (STYLE, SCRIPT))
    return environment.get_template(template).render(
        style=Markup(style), script=Markup(script.replace("</", "<\\/")), data=embed_json(data), **values
    )
