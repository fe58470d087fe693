"""How a host is reached from here: its address, what is trusted, and the proxy of the environment."""

from __future__ import annotations

import base64
import contextlib
import os
import socket
import ssl
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import SplitResult, unquote, urlsplit

from prefect_datastores.errors import ConfigurationError, EndpointUnreachable
from prefect_datastores.redaction import remember

PORTS = {"http": 80, "https": 443}
_HEAD_ROOM = 64 * 1024


def address_of(url: SplitResult) -> tuple[str, int]:
    """Return the host and the port of a URL.

    Raises:
        ConfigurationError: it has none.
    """
    try:
        host, port = url.hostname, url.port
    except ValueError:  # a port that is none
        host, port = None, None
    if not host or url.scheme not in PORTS:
        raise ConfigurationError(f"The endpoint {url.geturl()!r} cannot be used.")
    return host, port or PORTS[url.scheme]


def tls_context() -> ssl.SSLContext:
    """Return what trusts the machine's authorities, or those of SSL_CERT_FILE or REQUESTS_CA_BUNDLE.

    Raises:
        ConfigurationError: the file that is named cannot be read.
    """
    named = os.environ.get("SSL_CERT_FILE") or os.environ.get("REQUESTS_CA_BUNDLE")
    try:
        folder = named if named and os.path.isdir(named) else None  # noqa: PTH112 - a name, not a path
        context = ssl.create_default_context(cafile=None if folder else named, capath=folder)
    except OSError as error:
        raise ConfigurationError(
            f"The authorities of {named} cannot be read: {error.strerror or error}. Mend SSL_CERT_FILE or "
            "REQUESTS_CA_BUNDLE."
        ) from None
    # Python 3.13 began to refuse authorities without a key identifier, as many a company's own are.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    if not named and not _machine_has_authorities(context):  # a Python for macOS brings none
        with contextlib.suppress(ImportError):
            import certifi  # noqa: PLC0415

            context.load_verify_locations(certifi.where())
    return context


def _machine_has_authorities(context: ssl.SSLContext) -> bool:
    folder = ssl.get_default_verify_paths().capath
    listed = bool(folder and os.path.isdir(folder) and os.listdir(folder))  # noqa: PTH112, PTH208
    return listed or bool(context.get_ca_certs())


@dataclass(frozen=True)
class Proxy:
    """The proxy of the environment (HTTPS_PROXY, HTTP_PROXY, NO_PROXY)."""

    address: tuple[str, int]
    headers: Mapping[str, str]

    def open_tunnel(self, plain: socket.socket, host: str, port: int) -> None:
        """Have the proxy connect to a host.

        Raises:
            EndpointUnreachable: it does not.
        """
        where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        lines = [f"CONNECT {where} HTTP/1.1", f"Host: {where}"]
        lines += [f"{name}: {value}" for name, value in self.headers.items()]
        plain.sendall(("\r\n".join(lines) + "\r\n\r\n").encode("latin-1"))
        answer = b""
        while not answer.endswith(b"\r\n\r\n") and len(answer) < _HEAD_ROOM:
            byte = plain.recv(1)  # one at a time: what follows is the tunnel's
            if not byte:
                break
            answer += byte
        status = answer.partition(b"\r\n")[0].decode("latin-1").partition(" ")[2]
        if not status.startswith("2"):
            raise EndpointUnreachable(
                f"The proxy {self.address[0]} does not let through to {host}: {status or 'no answer'}."
            )


def proxy_for(url: SplitResult) -> Proxy | None:
    """Return the proxy that the environment names for a URL, if it names one.

    Raises:
        ConfigurationError: it is of a kind that is not spoken to.
    """
    proxies = urllib.request.getproxies()
    named = proxies.get(url.scheme) or proxies.get("all")
    if not named or urllib.request.proxy_bypass(url.netloc.rpartition("@")[2]):
        return None
    proxy = urlsplit(named if "://" in named else f"http://{named}")
    if proxy.scheme != "http" or not proxy.hostname:
        raise ConfigurationError(
            f"The proxy for {url.scheme} cannot be used: it is named as {proxy.scheme}://..., and only http:// proxies "
            "are spoken to. Mend HTTPS_PROXY, or except the host by NO_PROXY."
        )
    headers = {}
    if proxy.username:
        remember(unquote(proxy.password or ""))
        given = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}"
        token = base64.b64encode(given.encode()).decode()
        remember(token)
        headers["Proxy-Authorization"] = f"Basic {token}"
    return Proxy((proxy.hostname, proxy.port or PORTS["http"]), headers)
