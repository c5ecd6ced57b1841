"""One HTML file that fetches nothing, for the game and the study: settings, trials and pictures in one page engine.

NAME.json (texts and switches) + trials (JSON) + pictures (data URIs) + page.html.j2, page.css, page.js → one string
"""

import base64
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray
from PIL import Image

Picture = NDArray[np.uint8]


class Album(dict[bytes, int]):
    """The places of a page's pictures (uint8 RGB), equal ones once, and their addresses: WebP without loss, since what is
    embedded otherwise could be told by it."""

    def __init__(self) -> None:
        self.addresses: list[str] = []

    def put(self, picture: Picture) -> int:
        """The picture's place in the page."""
        place = self.setdefault(picture.tobytes(), len(self))
        if place == len(self.addresses):
            buffer = io.BytesIO()
            Image.fromarray(np.ascontiguousarray(picture)).save(
                buffer, "WEBP", lossless=True, quality=60, method=4
            )
            self.addresses.append("data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode())
        return place


def render(name: str, album: Album, shape: tuple[int, ...], rounds: Sequence[Any], **data: Any) -> str:
    """The page "game" or "study". rounds: each with its `trials`; shape: height and width of what is shown."""
    folder = Path(__file__).parent
    settings = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
    data = {"page": name, **settings, "rounds": rounds, "pictures": album.addresses, **data}
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    loader = jinja2.FileSystemLoader(folder)
    environment = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined)
    return environment.get_template("page.html.j2").render(
        **data,
        trials=sum(min(len(r["trials"]), data["take"] or len(r["trials"])) for r in rounds),
        shape=round(shape[0] / shape[1], 4),
        width=shape[1],
        style=Markup((folder / "page.css").read_text(encoding="utf-8")),
        script=Markup((folder / "page.js").read_text(encoding="utf-8")),
        data=Markup(text.replace("<", "\\u003c").replace("\u2028", "\\u2028")),
    )
