"""Runs the server until it is ended."""

import argparse

from servers.azure_files.server import FilesServer
from servers.azure_files.tree import Account


def main() -> None:
    """Read the command line, and serve."""
    parser = argparse.ArgumentParser(prog="servers.azure_files", description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--account", required=True)
    parser.add_argument("--key", required=True, help="base64, as the portal shows one")
    parser.add_argument("--token", default="", help="a bearer token that is taken as well")
    given = parser.parse_args()
    account = Account(given.account, given.key, given.token)
    with FilesServer(given.port, account) as server:
        server.serve_forever()


if __name__ == "__main__":
    main()
