"""What the service refuses with: status and text of each code, as Microsoft's lists of codes have them.

Which code answers which case is not always documented; FACTS.md says where it is a guess.
"""

from collections.abc import Mapping

_CODES: dict[str, tuple[int, str]] = {
    # Of signing in.
    "AuthenticationFailed": (
        403,
        (
            "Server failed to authenticate the request. Make sure the value of Authorization header is "
            "formed correctly including the signature."
        ),
    ),
    "NoAuthenticationInformation": (
        401,
        (
            "Server failed to authenticate the request. Please refer to the information in the "
            "www-authenticate header."
        ),
    ),
    "InvalidAuthenticationInfo": (
        401,
        (
            "Authentication information is not given in the correct format. Check the value of "
            "Authorization header."
        ),
    ),
    "AuthorizationPermissionMismatch": (
        403,
        "This request is not authorized to perform this operation using this permission.",
    ),
    "AuthorizationProtocolMismatch": (
        403,
        "This request is not authorized to perform this operation using this protocol.",
    ),
    "AuthorizationResourceTypeMismatch": (
        403,
        "This request is not authorized to perform this operation using this resource type.",
    ),
    "AuthorizationServiceMismatch": (
        403,
        "This request is not authorized to perform this operation using this service.",
    ),
    "UnauthorizedBlobOverwrite": (
        403,
        "This request is not authorized to perform blob overwrites.",
    ),
    # Of any request.
    "ContentLengthMustBeZero": (400, "The Content-Length request header must be zero."),
    "InvalidHeaderValue": (
        400,
        "The value for one of the HTTP headers is not in the correct format.",
    ),
    "InvalidInput": (400, "One of the request inputs is not valid."),
    "InvalidMd5": (400, "The MD5 value specified in the request is invalid."),
    "InvalidQueryParameterValue": (
        400,
        "Value for one of the query parameters specified in the request URI is invalid.",
    ),
    "InvalidResourceName": (400, "The specified resource name contains invalid characters."),
    "InvalidUri": (400, "The requested URI does not represent any resource on the server."),
    "InvalidXmlDocument": (400, "XML specified is not syntactically valid."),
    "Md5Mismatch": (
        400,
        (
            "The MD5 value specified in the request did not match with the MD5 value calculated by the "
            "server."
        ),
    ),
    "MissingRequiredHeader": (
        400,
        "An HTTP header that's mandatory for this request is not specified.",
    ),
    "MissingRequiredQueryParameter": (
        400,
        "A query parameter that's mandatory for this request is not specified.",
    ),
    "MultipleConditionHeadersNotSupported": (
        400,
        "Multiple condition headers are not supported.",
    ),
    "OutOfRangeQueryParameterValue": (
        400,
        "One of the query parameters specified in the request URI is outside the permissible range.",
    ),
    "ConditionNotMet": (
        412,
        "The condition specified using HTTP conditional header(s) is not met.",
    ),
    "InvalidRange": (
        416,
        "The range specified is invalid for the current size of the resource.",
    ),
    # Of the Blob endpoint.
    "BlobAlreadyExists": (409, "The specified blob already exists."),
    "BlobNotFound": (404, "The specified blob does not exist."),
    "CannotVerifyCopySource": (403, "Could not verify the copy source."),
    "BlobOperationNotSupported": (409, "Blob operation is not supported."),
    "ContainerAlreadyExists": (409, "The specified container already exists."),
    "ContainerNotFound": (404, "The specified container does not exist."),
    "DirectoryIsNotEmpty": (409, "This operation is not permitted on a non-empty directory."),
    "InvalidBlobOrBlock": (400, "The specified blob or block content is invalid."),
    "InvalidBlockId": (
        400,
        "The specified block ID is invalid. The block ID must be Base64-encoded.",
    ),
    "InvalidBlockList": (400, "The specified block list is invalid."),
    "OperationNotSupportedOnDirectory": (
        400,
        "The requested operation is not supported on a directory.",
    ),
    "ResourceTypeMismatch": (
        409,
        "The specified resource type does not match the type of the existing resource.",
    ),
    # Of the DFS endpoint.
    "DirectoryNotEmpty": (
        409,
        "The recursive query parameter value must be true to delete a non-empty directory.",
    ),
    "FilesystemAlreadyExists": (409, "The specified filesystem already exists."),
    "FilesystemNotFound": (404, "The specified filesystem does not exist."),
    "HierarchicalNamespaceNotEnabled": (
        400,
        "This operation is only supported on a hierarchical namespace account.",
    ),
    "InvalidDestinationPath": (
        409,
        (
            "The specified path, or an element of the path, exists and its resource type is invalid for "
            "this operation."
        ),
    ),
    "InvalidFlushOperation": (
        409,
        (
            "The resource was created or modified by the Blob Service API and cannot be written to by "
            "the Data Lake Storage Service API."
        ),
    ),
    "InvalidFlushPosition": (
        400,
        (
            "The uploaded data is not contiguous or the position query parameter value is not equal to "
            "the length of the file after appending the uploaded data."
        ),
    ),
    "InvalidPropertyName": (400, "The property name contains invalid characters."),
    "InvalidRenameSourcePath": (
        409,
        (
            "The source directory cannot be the same as the destination directory, nor can the "
            "destination be a subdirectory of the source directory."
        ),
    ),
    "InvalidSourceOrDestinationResourceType": (
        409,
        "The source and destination resource type must be identical.",
    ),
    "InvalidSourceUri": (400, "The source URI is invalid."),
    "PathAlreadyExists": (409, "The specified path already exists."),
    "PathConflict": (
        409,
        (
            "The specified path, or an element of the path, exists and its resource type is invalid for "
            "this operation."
        ),
    ),
    "PathNotFound": (404, "The specified path does not exist."),
    "RenameDestinationParentPathNotFound": (
        404,
        "The parent directory of the destination path does not exist.",
    ),
    "SourceConditionNotMet": (
        412,
        "The source condition specified using HTTP conditional header(s) is not met.",
    ),
    "SourcePathNotFound": (404, "The source path for a rename operation does not exist."),
    # Of this server alone.
    "NotImplementedByTestServer": (501, "The test server does not know this."),
}


class Refusal(Exception):
    """An answer that says no."""

    def __init__(
        self, code: str, detail: str = "", *, headers: Mapping[str, str] | None = None
    ) -> None:
        self.code, self.detail = code, detail
        self.status, self.message = _CODES[code]
        self.headers = dict(headers or {})
        super().__init__(f"{self.status} {code} {detail}".rstrip())


class NotModified(Exception):
    """A read whose condition says that the client has the version already."""


def unknown(what: str) -> Refusal:
    """Refuse what this server does not know, so that no client takes it for done."""
    return Refusal("NotImplementedByTestServer", what)
