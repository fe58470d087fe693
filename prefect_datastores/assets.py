"""Places of datastores as assets of Prefect, so that it is known what was made out of what."""

from __future__ import annotations

import hashlib
import re

from prefect.assets import Asset, AssetProperties

from prefect_datastores.references import DataReference

_LONGEST = 512
# What Prefect takes in no key: a percent sign is among it, so that nothing can be encoded.
_REFUSED = re.compile(r"[\s\x00#?&%\"'<>\[\]{}|\\^`]")
_DIGEST_SIGNS = 16


def asset_of(reference: DataReference) -> Asset:
    """Return a place as an asset; the same place is the same asset, and no other place is.

    Its key is `datastore://name/path`. Where Prefect takes a sign of the path in no key, `_` stands for it, and
    a digest at the end keeps the place apart from others.
    """
    name, path = reference.datastore, reference.path_on_datastore
    properties = AssetProperties(name=reference.uri)
    plain = f"datastore://{name}/{path}"
    shown = _REFUSED.sub("_", plain)
    if shown == plain and len(plain) <= _LONGEST:
        return Asset(key=plain, properties=properties)
    digest = f"/~{hashlib.sha256(plain.encode()).hexdigest()[:_DIGEST_SIGNS]}"
    return Asset(key=shown[: _LONGEST - len(digest)] + digest, properties=properties)
