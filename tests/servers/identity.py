"""Where identities get tokens: an authority of OAuth 2, and the endpoints of a machine in Azure.

The authority speaks what MSAL asks for: OpenID discovery, and client credentials by secret, by an
assertion that a certificate signed, and by another's token. The tokens are such that Azurite takes.
"""

from __future__ import annotations

import base64
import hmac
import json
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import jwt
import trustme
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

TENANT = "72f988bf-86f1-41af-91ab-2d7cd011db47"
CLIENT = "11111111-2222-3333-4444-555555555555"
SECRET = "secret-of-the-application-0123456789"
FEDERATED = "token-of-a-pod.0123456789.abcdefgh"
HEADER = "header-that-only-the-machine-knows"
OBJECT = "0b1ec700-0000-4000-8000-000000000001"
USER_ASSIGNED = "aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee"
RESOURCE_ID = f"/subscriptions/s/resourceGroups/g/providers/Microsoft.ManagedIdentity/userAssignedIdentities/{TENANT}"
_ASSERTION = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
_HOST = "127.0.0.1"


@dataclass
class Identities:
    """A running authority and a machine's endpoint; what they were asked, and what they take."""

    authority: str = ""
    machine: str = ""
    expires_in: int = 3600
    """What is said of a token's life; the token itself lasts an hour, whatever clocks do."""
    certificate: bytes = b""
    asked: list[dict[str, str]] = field(default_factory=list)

    def app_service(self) -> dict[str, str]:
        """The environment of an App Service (or a container app) with an identity."""
        return {"IDENTITY_ENDPOINT": f"{self.machine}/msi/token", "IDENTITY_HEADER": HEADER}

    def virtual_machine(self) -> dict[str, str]:
        """The environment that has IMDS, the endpoint of a virtual machine, here."""
        return {"AZURE_POD_IDENTITY_AUTHORITY_HOST": self.machine}

    def token(self, resource: str) -> str:
        """Make a token."""
        now = int(time.time())
        claims = {
            "aud": resource.removesuffix("/.default").rstrip("/"),
            "iss": f"https://sts.windows.net/{TENANT}/",
            "iat": now - 600,
            "nbf": now - 600,
            "exp": now + 3600,
            "tid": TENANT,
            "oid": OBJECT,
            "idtyp": "app",
            "jti": len(self.asked),
        }
        return _signed(claims)


def _signed(claims: dict[str, Any]) -> str:
    parts = [json.dumps(part).encode() for part in ({"typ": "JWT", "alg": "HS256"}, claims)]
    text = b".".join(map(_base64, parts))
    return (text + b"." + _base64(hmac.digest(b"nobody's key", text, "sha256"))).decode()


def _base64(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


class _Handler(BaseHTTPRequestHandler):
    """Answers as the authority and as the machine do; each port is asked for its own paths only."""

    identities: Identities
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        place = urlsplit(self.path)
        query = {key: values[0] for key, values in parse_qs(place.query).items()}
        if place.path == f"/{TENANT}/v2.0/.well-known/openid-configuration":
            self._say(self._discovery())
        elif place.path == "/msi/token":
            self._machine(query, self.headers.get("X-IDENTITY-HEADER") == HEADER, "mi_res_id")
        elif place.path == "/metadata/identity/oauth2/token":
            self._machine(query, self.headers.get("Metadata") == "true", "msi_res_id")
        else:
            self._say({"error": "not_found"}, 404)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
        form = {key: values[0] for key, values in parse_qs(body).items()}
        self.identities.asked.append(form)
        fault = (
            "invalid_grant" if self.path != f"/{TENANT}/oauth2/v2.0/token" else self._fault(form)
        )
        if fault:
            self._say({"error": fault, "error_description": f"AADSTS7000215: {fault}."}, 401)
            return
        given = {"token_type": "Bearer", "expires_in": self.identities.expires_in}
        self._say({**given, "access_token": self.identities.token(form["scope"])})

    def _fault(self, form: dict[str, str]) -> str:
        if form.get("grant_type") != "client_credentials" or form.get("client_id") != CLIENT:
            return "unauthorized_client"
        if not form.get("scope", "").endswith("/.default"):
            return "invalid_scope"
        assertion = form.get("client_assertion", "")
        is_known = form.get("client_secret") == SECRET or (
            form.get("client_assertion_type") == _ASSERTION
            and (assertion == FEDERATED or self._is_signed(assertion))
        )
        return "" if is_known else "invalid_client"

    def _is_signed(self, assertion: str) -> bool:
        key = x509.load_pem_x509_certificate(self.identities.certificate).public_key()
        assert isinstance(key, RSAPublicKey)
        audience = f"{self.identities.authority}/{TENANT}/oauth2/v2.0/token"
        try:
            claims = jwt.decode(
                assertion, key, algorithms=["RS256", "PS256"], audience=audience, leeway=600
            )
        except jwt.InvalidTokenError:
            return False
        return bool(claims["iss"] == claims["sub"] == CLIENT)

    def _machine(self, query: dict[str, str], is_allowed: bool, resource_id: str) -> None:
        self.identities.asked.append(query)
        named = query.get("client_id") or query.get(resource_id)
        if not is_allowed or named not in {None, USER_ASSIGNED, RESOURCE_ID}:
            self._say({"error": "invalid_request", "error_description": "Identity not found"}, 400)
            return
        ends = int(time.time()) + self.identities.expires_in
        given = {"token_type": "Bearer", "expires_on": str(ends), "resource": query["resource"]}
        given["expires_in"] = str(self.identities.expires_in)
        self._say({**given, "access_token": self.identities.token(query["resource"])})

    def _discovery(self) -> dict[str, str]:
        base = f"{self.identities.authority}/{TENANT}"
        return {
            "issuer": f"{base}/v2.0",
            "authorization_endpoint": f"{base}/oauth2/v2.0/authorize",
            "token_endpoint": f"{base}/oauth2/v2.0/token",
        }

    def _say(self, answer: dict[str, Any], status: int = 200) -> None:
        body = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: Any) -> None:  # noqa: A002 - as inherited
        """Write nothing: the answers hold tokens."""


@contextmanager
def identities(tls: ssl.SSLContext) -> Iterator[Identities]:
    """Run the authority, over TLS, and the machine's endpoint, which has none in Azure either."""
    known = Identities()
    handler = type("Handler", (_Handler,), {"identities": known})
    servers = [ThreadingHTTPServer((_HOST, 0), handler) for _ in range(2)]
    servers[0].socket = tls.wrap_socket(servers[0].socket, server_side=True)
    known.authority, known.machine = (
        f"{scheme}://{_HOST}:{server.server_address[1]}"
        for scheme, server in zip(("https", "http"), servers, strict=True)
    )
    threads = [threading.Thread(target=server.serve_forever, args=(0.05,)) for server in servers]
    for thread in threads:
        thread.start()
    try:
        yield known
    finally:
        for server, thread in zip(servers, threads, strict=True):
            server.shutdown()
            server.server_close()
            thread.join()


@dataclass(frozen=True)
class Tls:
    """An authority of certificates, and a certificate of this machine by it, as files."""

    authority: Path
    certificate: Path
    key: Path

    def context(self) -> ssl.SSLContext:
        """What a server proves itself with."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate, self.key)
        return context


def make_tls(folder: Path) -> Tls:
    """Make them in a folder."""
    authority = trustme.CA()
    issued = authority.issue_cert(_HOST, "localhost")
    made = Tls(folder / "ca.pem", folder / "cert.pem", folder / "key.pem")
    authority.cert_pem.write_to_path(made.authority)
    made.certificate.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    issued.private_key_pem.write_to_path(made.key)
    return made
