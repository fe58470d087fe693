"""What the numbers of a mount say to a person: how much was read, and whether a download would have been quicker. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from prefect_datastores.staging.report import human_bytes, plural

_MOST_OF_IT = 0.8
_WORTH_SAYING_SECONDS = 5.0


def summary(numbers: Mapping[str, int]) -> str:
    """Return a line on what was read, and advice where there is any."""
    stored = numbers.get("files_stored", 0)
    written = (
        f"{plural(stored, 'file')} stored ({human_bytes(numbers['bytes_stored'])})"
        if stored
        else ""
    )
    if not numbers.get("bytes_fetched") and stored:
        return written
    if not numbers.get("opened"):
        return "nothing was read of it"
    files, opened = numbers["files_opened"], numbers["opened"]
    listed, whole = numbers["files_listed"], numbers["bytes_listed"]
    parts = [
        f"{plural(files, 'file')} of {listed} opened ({human_bytes(numbers['bytes_of_files_opened'])} of {human_bytes(whole)})"
    ]
    if opened > files:
        parts.append(f"in {opened / files:.1f} passes")
    parts.append(f"{human_bytes(numbers['bytes_fetched'])} fetched")
    parts.append(f"{_share(numbers)} of the reads answered from the cache")
    if written:
        parts.append(written)
    if numbers["errors"]:
        parts.append(plural(numbers["errors"], "error"))
    text = ", ".join(parts)
    told = advice(numbers)
    return f"{text}. {told}" if told else text


def advice(numbers: Mapping[str, int]) -> str:
    """Say whether a download would have been quicker; "" where there is nothing to say.

    Readers waited for so long in all; a download fetches the same at the rate at which the mount
    fetched what it was not waited for.
    """
    waited, fetched = numbers.get("milliseconds_waited", 0) / 1000, numbers.get("bytes_fetched", 0)
    whole = numbers.get("bytes_listed", 0)
    if waited < _WORTH_SAYING_SECONDS or not whole or not fetched:
        return ""
    if fetched >= _MOST_OF_IT * whole:
        return (
            f"Readers waited {waited:.0f} s for it in all, and read nearly everything: as_download() fetches it "
            "before the script begins, many files at once."
        )
    return f"Readers waited {waited:.0f} s for it in all; a download would have fetched {human_bytes(whole)}, of which they needed {fetched / whole:.0%}."


def table(numbers: Mapping[str, int]) -> str:
    """Return the numbers as a table of markdown."""
    rows = [
        ("files opened", f"{numbers.get('files_opened', 0)} of {numbers.get('files_listed', 0)}"),
        ("opens", str(numbers.get("opened", 0))),
        ("fetched", human_bytes(numbers.get("bytes_fetched", 0))),
        ("served to readers", human_bytes(numbers.get("bytes_served", 0))),
        ("stored", human_bytes(numbers.get("bytes_stored", 0))),
        ("requests", str(numbers.get("requests", 0))),
        ("answered from the cache", _share(numbers)),
        ("waited", f"{numbers.get('milliseconds_waited', 0) / 1000:.1f} s"),
        ("errors", str(numbers.get("errors", 0))),
    ]
    lines = ["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)]
    told = advice(numbers)
    return "\n".join(lines) + (f"\n\n{told}" if told else "")


def _share(numbers: Mapping[str, int]) -> str:
    reads = numbers.get("reads", 0)
    return f"{numbers.get('hits', 0) / reads:.0%}" if reads else "none"
