"""Keeps figures in bench/RESULTS.md: each benchmark has a section, and replaces no other."""

from __future__ import annotations

import re
from pathlib import Path

RESULTS = Path(__file__).parent / "RESULTS.md"


def keep(section: str) -> None:
    """Puts the section in the place of the one that has its heading."""
    RESULTS.write_text(replace_section(RESULTS.read_text(), section))


def replace_section(page: str, section: str) -> str:
    """The page with that section, whose first line is its heading, in its place or at the end."""
    heading = section.partition("\n")[0]
    pattern = rf"^{re.escape(heading)}\n.*?(?=^## |\Z)"
    text = section.rstrip() + "\n"
    found = re.search(pattern, page, flags=re.DOTALL | re.MULTILINE)
    if found is None:
        return f"{page.rstrip()}\n\n{text}"
    rest = page[found.end() :]
    return page[: found.start()] + text + ("\n" + rest if rest else "")
