"""File systems of fsspec: for Azure file shares one of our own, for other kinds what there is, configured."""

from prefect_datastores.filesystems.share import AzureFileShareFileSystem

__all__ = ["AzureFileShareFileSystem"]
