"""What a worker loads of a deployed estimator: its flow, made again of what it is."""

from __future__ import annotations

from typing import Any

from prefect import Flow

from prefect_datastores.estimator import Estimator
from prefect_datastores.estimator_spec import EstimatorSpec


def flow_of(spec: str) -> Flow[..., dict[str, Any]]:
    """Return the flow of an estimator from its specification as JSON; its source is a snapshot."""
    return Estimator.from_spec(EstimatorSpec.model_validate_json(spec)).as_flow()
