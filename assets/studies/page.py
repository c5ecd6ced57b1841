"""One HTML file that fetches nothing, for the game and the study: settings, trials and pictures in one page engine.

NAME.json (texts and switches) + trials (JSON) + pictures (data URIs) + page.html.j2, page.css, page.js → one string
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from assets.evaluation.page import Picture, data_uri, render_page


class Album(dict[bytes, int]):
    """The places of a page's pictures (uint8 RGB), equal ones once, and their addresses: WebP without loss, since what is
    embedded otherwise could be told by it."""

    def __init__(self) -> None:
        self.addresses: list[str] = []

    def put(self, picture: Picture) -> int:
        """The picture's place in the page."""
        place = self.setdefault(picture.tobytes(), len(self))
        if place == len(self.addresses):
            self.addresses.append(data_uri(picture, lossless=True, quality=60, method=4))
        return place


def render(name: str, album: Album, shape: tuple[int, ...], rounds: Sequence[Any], **data: Any) -> str:
    """The page "game" or "study". rounds: each with its `trials`; shape: height and width of what is shown."""
    folder = Path(__file__).parent
    settings = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
    data = {"page": name, **settings, "rounds": rounds, "pictures": album.addresses, **data}
    values: dict[str, Any] = {
        "trials": sum(min(len(r["trials"]), data["take"] or len(r["trials"])) for r in rounds),
        "shape": round(shape[0] / shape[1], 4),
        "width": shape[1],
    }
    files: dict[str, Any] = {"folder": folder, "style": "page.css", "script": "page.js"}
    return render_page("page.html.j2", data=data, **files, **data, **values)
