"""What programs write into `RESULTS.md`: all that stands between `<!-- NAME -->` and `<!-- end -->`."""

from __future__ import annotations

import datetime as dt
import os
import platform
from pathlib import Path

RESULTS = Path(__file__).parent / "RESULTS.md"


def made_by(how: str, versions: str) -> str:
    """Say by which command, when and on what the figures were made, in lines that are not too long."""
    load = os.getloadavg()[0]
    # At local time would say where.
    day = dt.datetime.now(dt.timezone.utc).date()
    return (
        f"`{how}`, on {day}, Python {platform.python_version()},\n{versions}\n"
        f"on {os.cpu_count()} cores with a load of {load:.1f} before."
    )


def write(name: str, title: str, text: str) -> None:
    """Put `text` in the place of what the section holds, or of a section `title` made for it."""
    begin, end = f"<!-- {name} -->\n", "<!-- end -->"
    old = RESULTS.read_text()
    if begin not in old:
        old = f"{old.rstrip()}\n\n## {title}\n\n{begin}{end}\n"
    before, _, rest = old.partition(begin)
    after = rest.partition(end)[2]
    RESULTS.write_text(f"{before}{begin}\n{text.strip()}\n\n{end}{after}")
