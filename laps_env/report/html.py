"""Pages that load nothing: a template of this package with its data inside."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any

_PLACE = "/*DATA*/null"


def filled_page(template: str, document: Any) -> str:
    """A template of this folder with a document as its data."""
    page = (files("laps_env.report") / template).read_text(encoding="utf-8")
    # "<" cannot end the script that holds the data, whatever the texts are.
    data = json.dumps(document, allow_nan=False).replace("<", "\\u003c")
    return page.replace(_PLACE, data, 1)
