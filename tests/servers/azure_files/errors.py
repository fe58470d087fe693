"""What the service says when it refuses: its codes, their status, and the answer that tells them."""

from collections.abc import Mapping
from xml.sax.saxutils import escape

_NONE: Mapping[str, str] = {}

_CODES = {
    "AuthenticationFailed": (403, "Server failed to authenticate the request. Make sure the value of Authorization header is formed correctly including the signature."),
    "AuthorizationFailure": (403, "This request is not authorized to perform this operation."),
    "AuthorizationPermissionMismatch": (403, "This request is not authorized to perform this operation using this permission."),
    "AuthorizationProtocolMismatch": (403, "This request is not authorized to perform this operation using this protocol."),
    "AuthorizationResourceTypeMismatch": (403, "This request is not authorized to perform this operation using this resource type."),
    "AuthorizationServiceMismatch": (403, "This request is not authorized to perform this operation using this service."),
    "AuthorizationSourceIPMismatch": (403, "This request is not authorized to perform this operation using this source IP."),
    "CannotVerifyCopySource": (409, "The source request body for copy source does not match requested length to write on target."),
    "ConditionHeadersNotSupported": (400, "Condition headers are not supported."),
    "ConditionNotMet": (412, "The condition specified using HTTP conditional header(s) is not met."),
    "DirectoryNotEmpty": (409, "The specified directory is not empty."),
    "EmptyMetadataKey": (400, "The key for one of the metadata key-value pairs is empty."),
    "FileInvalidPermission": (400, "The specified file permission is not valid."),
    "FileInvalidPermissionKey": (400, "The specified file permission key does not exist in the share."),
    "InvalidAuthenticationInfo": (401, "Server failed to authenticate the request. Please refer to the information in the www-authenticate header."),
    "InvalidContinuationToken": (400, "The specified continuation token is invalid."),
    "InvalidFileOrDirectoryPathName": (400, "File or directory path is too long."),
    "InvalidHeaderValue": (400, "The value for one of the HTTP headers is not in the correct format."),
    "InvalidMd5": (400, "The MD5 value specified in the request is invalid. The MD5 value must be 128 bits and Base64-encoded."),
    "InvalidMetadata": (400, "The specified metadata is invalid. It includes characters that are not permitted."),
    "InvalidQueryParameterValue": (400, "Value for one of the query parameters specified in the request URI is invalid."),
    "InvalidRange": (416, "The range specified is invalid for the current size of the resource."),
    "InvalidResourceName": (400, "The specifed resource name contains invalid characters."),
    "InvalidUri": (400, "The requested URI does not represent any resource on the server."),
    "InvalidXmlDocument": (400, "XML specified is not syntactically valid."),
    "LeaseAlreadyPresent": (409, "There is already a lease present."),
    "LeaseIdMismatchWithFileOperation": (412, "The lease ID specified did not match the lease ID for the file."),
    "LeaseIdMismatchWithLeaseOperation": (409, "The lease ID specified did not match the lease ID for the file."),
    "LeaseIdMissing": (412, "There is currently a lease on the file and no lease ID was specified in the request."),
    "LeaseLost": (412, "A lease ID was specified, but the lease for the file has expired."),
    "LeaseNotPresentWithFileOperation": (412, "There is currently no lease on the file."),
    "LeaseNotPresentWithLeaseOperation": (409, "There is currently no lease on the file."),
    "Md5Mismatch": (400, "The MD5 value specified in the request did not match with the MD5 value calculated by the server."),
    "MissingContentLengthHeader": (411, "Content-Length HTTP header is missing."),
    "MissingRequiredHeader": (400, "An HTTP header that's mandatory for this request is not specified."),
    "NoAuthenticationInformation": (401, "Server failed to authenticate the request. Please refer to the information in the www-authenticate header."),
    "NoPendingCopyOperation": (409, "There is currently no pending copy operation."),
    "NotImplementedByTestServer": (501, "The test server does not know this, and so does not pretend to."),
    "OutOfRangeInput": (400, "One of the request inputs is out of range."),
    "OutOfRangeQueryParameterValue": (400, "One of the query parameters specified in the request URI is outside the permissible range."),
    "ParentNotFound": (404, "The specified parent path does not exist."),
    "ReadOnlyAttribute": (409, "The specified resource is read-only and cannot be modified at this time."),
    "RequestBodyTooLarge": (413, "The request body is too large and exceeds the maximum permissible limit."),
    "ResourceAlreadyExists": (409, "The specified resource already exists."),
    "ResourceNotFound": (404, "The specified resource does not exist."),
    "ResourceTypeMismatch": (409, "The specified resource type does not match the type of the existing resource."),
    "ShareAlreadyExists": (409, "The specified share already exists."),
    "ShareHasSnapshots": (409, "The share has snapshots and the operation requires no snapshots."),
    "ShareNotFound": (404, "The specified share does not exist."),
}  # fmt: skip


class Refused(Exception):
    """A request that is not carried out, and why."""

    def __init__(
        self,
        code: str,
        detail: str = "",
        *,
        status: int = 0,
        headers: Mapping[str, str] = _NONE,
    ) -> None:
        """Name the code; `detail` is an element of the answer's body, or a word for the log."""
        super().__init__(f"{code} {detail}".rstrip())
        self.code, self.detail, self.headers = code, detail, headers
        known, self.message = _CODES[code]
        self.status = status or known

    @property
    def element(self) -> str:
        """What stands in the body beside code and message."""
        if not self.detail:
            return ""
        if self.status in {401, 403}:
            return f"<AuthenticationErrorDetail>{escape(self.detail)}</AuthenticationErrorDetail>"
        if self.code in {"InvalidHeaderValue", "MissingRequiredHeader"}:
            return f"<HeaderName>{escape(self.detail)}</HeaderName>"
        if self.code in {"InvalidQueryParameterValue", "OutOfRangeQueryParameterValue"}:
            return f"<QueryParameterName>{escape(self.detail)}</QueryParameterName>"
        return f"<Detail>{escape(self.detail)}</Detail>"


def unknown(what: str) -> Refused:
    """Return the refusal of what this server does not know."""
    return Refused("NotImplementedByTestServer", what)


def body_of(refused: Refused, request_id: str, time: str) -> bytes:
    """Return the XML that tells it; it begins with a byte order mark, as the service's does."""
    return (
        f'\ufeff<?xml version="1.0" encoding="utf-8"?><Error><Code>{refused.code}</Code>'
        f"<Message>{escape(refused.message)}\nRequestId:{request_id}\nTime:{time}</Message>"
        f"{refused.element}</Error>"
    ).encode()
