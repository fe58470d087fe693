"""What a run made, on its page: numbers, pictures, and where all of it is."""

from __future__ import annotations

import base64
import json
import os
import re
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from prefect.artifacts import create_markdown_artifact

from prefect_datastores.display import run_log
from prefect_datastores.redaction import scrub
from prefect_datastores.staging.report import human_bytes, plural

METRICS = "metrics.json"
MOST_NUMBERS, MOST_PICTURES = 50, 8
LARGEST_METRICS, LARGEST_PICTURE, ALL_PICTURES = 2**20, 2**19, 2**20
"""In bytes; what is larger is named, not shown: a page of Prefect is one row of its database."""

_LONGEST_CELL = 200
_FIRST = 4
_PNG = b"\x89PNG\r\n\x1a\n"
_PUNCTUATION = re.compile(r"([\\`*_{}\[\]()#+!|<>~&-])")


def show_results(name: str, outputs: Path, *, uri: str, url: str, stored: int) -> None:
    """Make an artifact of what is in a run's `outputs/`; with its key, all runs of a name are together.

    Its numbers are those of `metrics.json`, its pictures the `*.png` right in the folder. No link is
    followed, and text passes redaction. A server that does not answer costs the artifact, never the run.

    Args:
        name: the flow's name.
        outputs: the folder.
        uri: where it was stored, as people write it: `name:path`.
        url: where that is.
        stored: how many objects were stored there.
    """
    try:
        numbers = metrics(outputs)
        where = f"{plural(stored, 'object')} stored at {_code(uri)}"
        first = [_plain(f"{key} {value}") for key, value in list(numbers.items())[:_FIRST]]
        create_markdown_artifact(
            key=_key(name),
            markdown=results_page(name, outputs, numbers, f"{where}, which is {_linked(url)}"),
            description=scrub(", ".join([*first, where])),
            _sync=True,  # type: ignore[call-arg]
        )
    except Exception as error:  # noqa: BLE001 - whatever it is, the results are stored
        run_log().debug("What the run made could not be shown: %s", error)


def results_page(name: str, outputs: Path, numbers: Mapping[str, str], where: str) -> str:
    """Return the page in Markdown; no secret is in it that redaction knows."""
    lines = [f"# {_plain(name)}", "", f"{where}.", ""]
    if numbers:
        shown = list(numbers.items())[:MOST_NUMBERS]
        lines += [
            "| | |",
            "|---|---|",
            *(f"| {_plain(key)} | {_plain(value)} |" for key, value in shown),
        ]
        if len(numbers) > len(shown):
            lines += ["", f"{len(numbers) - len(shown)} more numbers are in `{METRICS}`."]
    return "\n".join([scrub("\n".join(lines)), *_pictures(outputs)])


def metrics(outputs: Path) -> dict[str, str]:
    """Return the values of `metrics.json` as text, those of nested objects by names with dots; none where it is none."""
    content = _content(outputs / METRICS, LARGEST_METRICS)
    if content is None or len(content) > LARGEST_METRICS:
        return {}
    try:
        found = json.loads(content)
    except (ValueError, RecursionError):
        return {}
    return dict(_flat(found, "")) if isinstance(found, dict) else {}


def _flat(values: Mapping[str, Any], before: str) -> Iterator[tuple[str, str]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{before}{key}.")
        elif isinstance(value, float):
            yield f"{before}{key}", f"{value:.6g}"
        elif isinstance(value, (str, int)):  # bool is int
            yield f"{before}{key}", str(value)


def _pictures(outputs: Path) -> Iterator[str]:
    """Give each picture as Markdown, in the order of names, as many and as large as a page may have."""
    room, left_out = ALL_PICTURES, list[str]()
    shown = 0
    for path in sorted(outputs.glob("*.png")) if outputs.is_dir() else ():
        content = _content(path, LARGEST_PICTURE)
        if content is None or not content.startswith(_PNG):
            continue
        if len(content) > min(LARGEST_PICTURE, room) or shown == MOST_PICTURES:
            left_out.append(path.name)
            continue
        shown, room = shown + 1, room - len(content)
        title = scrub(_plain(path.name))
        yield f"\n## {title}\n\n![{title}](data:image/png;base64,{base64.b64encode(content).decode()})"
    if left_out:
        names = ", ".join(scrub(_plain(name)) for name in left_out[:MOST_NUMBERS])
        most = f"{MOST_PICTURES} pictures, {human_bytes(LARGEST_PICTURE)} each"
        yield f"\nNot shown, as a page has at most {most}: {names}."


def _content(path: Path, most: int) -> bytes | None:
    """Return a file's content, up to a byte more than `most`; None where there is no file, or a link."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        return None
    with os.fdopen(fd, "rb") as file:
        return file.read(most + 1)


def _key(name: str) -> str:
    """Return an artifact's key, of which Prefect takes small letters, digits and dashes."""
    return f"results-{re.sub(r'[^a-z0-9]+', '-', name.lower()).strip('-')}".rstrip("-")


def _linked(url: str) -> str:
    return (
        f"[{_plain(url)}]({quote(url, safe=':/%')})" if url.startswith("https://") else _code(url)
    )


def _code(text: str) -> str:
    return _plain(text) if "`" in text else f"`{text}`"


def _plain(text: str) -> str:
    """Return text that Markdown, and the HTML in it, shows as it is, in one line."""
    text = " ".join(text.split())
    text = text if len(text) <= _LONGEST_CELL else f"{text[:_LONGEST_CELL]}…"
    return _PUNCTUATION.sub(r"\\\1", text)
