"""What tests of pages share."""

import json
import re
from collections.abc import Callable
from typing import Any

import pytest


@pytest.fixture(scope="session")
def data_of() -> Callable[[str], Any]:
    """Reads a page's data, once it is seen that the page fetches nothing."""

    def read(page: str) -> Any:
        assert not re.search(r"(src|href)=\"(?!data:)[^\"#]", page)
        style, script = page[page.index("<style>") : page.index("</style>")], page[page.rindex("<script>") :]
        assert "url(" not in style
        assert "@import" not in style
        assert not re.search(r"\b(fetch|XMLHttpRequest|import|WebSocket|sendBeacon)\s*\(|https?://", script)
        found = re.search(r'id="data">(.*?)</script>', page, re.S)
        assert found
        return json.loads(found[1], parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))

    return read
