"""What tests of pages share."""

import json
import re
from typing import Any

import pytest


def data_of(page: str, links: bool = False) -> Any:
    """A page's data, once it is seen that the page fetches nothing. links: it may link to other pages."""
    assert not re.search(rf"({'src' if links else 'src|href'})=\"(?!data:)[^\"#]", page)
    style, script = page[page.index("<style>") : page.index("</style>")], page[page.rindex("<script>") :]
    assert "url(" not in style and "@import" not in style
    assert not re.search(r"\b(fetch|XMLHttpRequest|import|WebSocket|sendBeacon)\s*\(|https?://", script)
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)
    assert found
    return json.loads(found[1], parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
