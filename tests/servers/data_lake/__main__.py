"""Runs an account at two ports, until it is ended."""

import argparse
import base64
import threading

from servers.data_lake import blob_endpoint, dfs_endpoint
from servers.data_lake.namespace import Account
from servers.data_lake.service import Service


def main() -> None:
    """Read the arguments, and serve."""
    parser = argparse.ArgumentParser(description="An Azure storage account for tests.")
    parser.add_argument("--blob-port", type=int, required=True)
    parser.add_argument("--dfs-port", type=int, required=True)
    parser.add_argument("--account", required=True)
    parser.add_argument("--key", required=True)
    parser.add_argument("--flat", action="store_true", help="have no hierarchical namespace")
    parser.add_argument("--token", action="append", default=[], help="a bearer token to take")
    given = parser.parse_args()
    account = Account(
        given.account,
        base64.b64decode(given.key),
        hierarchical=not given.flat,
        tokens=frozenset(given.token),
    )
    blobs = Service(given.blob_port, blob_endpoint.ENDPOINT, account)
    paths = Service(given.dfs_port, dfs_endpoint.ENDPOINT, account)
    threading.Thread(target=blobs.serve_forever, daemon=True).start()
    paths.serve_forever()


if __name__ == "__main__":
    main()
