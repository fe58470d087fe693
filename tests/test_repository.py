"""What must not be in any committed file: addresses that only one machine has or reaches."""

import os
import re
import subprocess
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
NOT_COMMITTED = {
    *(".git", ".venv", ".tools", ".demo", "__pycache__", "dist", "build", "screenshots"),
    *(".mypy_cache", ".pytest_cache", ".ruff_cache", ".hypothesis"),
}

# Each is written so that it does not match its own text.
DOWNLOAD = re.compile(
    r"""
    resolved":\s*"http              # a lock file of npm
    | index[-]url | find[-]links    # an option of pip or uv
    | https?://\S+(?:/simple\b|\.whl\b|\.tgz\b)
    """,
    re.VERBOSE,
)
MACHINE = re.compile(r"/[r]oot/|/tmp/[b]ash_jobs")
REGISTRY_HOST = re.compile(
    r"\b(?:registry|pypi|npm|files|deb|mirrors?)\.(?:[\w-]+\.)*(?:org|com|io|net|dev)\b"
)


def committed() -> list[Path]:
    """The files that are committed, or would be; without Git, all but what tools leave behind."""
    try:
        listed = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=REPOSITORY,
            check=True,
            capture_output=True,
            text=True,
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        return sorted(walk())
    return [path for name in listed.split("\0") if name and (path := REPOSITORY / name).is_file()]


def walk() -> list[Path]:
    found = []
    for folder, below, names in os.walk(REPOSITORY):
        below[:] = [name for name in below if name not in NOT_COMMITTED]
        found += [Path(folder, name) for name in names]
    return found


def matches(pattern: re.Pattern[str], paths: list[Path]) -> list[str]:
    found = []
    for path in paths:
        content = path.read_bytes()
        if b"\0" in content:
            continue
        for number, line in enumerate(content.decode(errors="replace").splitlines(), 1):
            if pattern.search(line):
                found.append(f"{path.relative_to(REPOSITORY)}:{number}: {line.strip()[:160]}")
    return found


def is_ci(path: Path) -> bool:
    return path.relative_to(REPOSITORY).parts[0] in {
        *(".ci", ".github", ".circleci", ".gitlab-ci.yml", "azure-pipelines.yml", "Makefile")
    }


def test_the_files_that_tools_write_are_among_those_checked() -> None:
    names = {str(path.relative_to(REPOSITORY)) for path in committed()}
    assert {"constraints.txt", "tests/servers/azurite/package-lock.json"} <= names


def test_no_file_has_a_download_address() -> None:
    assert matches(DOWNLOAD, committed()) == []


def test_no_file_has_a_path_of_one_machine() -> None:
    assert matches(MACHINE, committed()) == []


def test_ci_names_no_registry_host() -> None:
    assert matches(REGISTRY_HOST, [path for path in committed() if is_ci(path)]) == []
