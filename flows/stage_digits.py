"""Train on data from a datastore, as a flow of one's own: `stage(...)` around tasks.

The deployments in `deployments/prefect.yaml` run it, on four kinds of work pools. It takes the name
of any registered datastore that holds the digits: `prefect-datastores demo` makes one, and so does
`flows/train_digits.py`.
"""

from pathlib import Path
from typing import Literal

import joblib
import numpy as np
from prefect import flow, get_run_logger, task
from sklearn.svm import SVC

from prefect_datastores import Datastore, stage


@task
def fit(data: Path, model: Path, penalty: float) -> float:
    """Fit a classifier on `train.csv`, keep it in the folder `model`, return its accuracy."""
    train, test = (
        np.loadtxt(data / f"{part}.csv", delimiter=",", skiprows=1) for part in ("train", "test")
    )
    classifier = SVC(C=penalty).fit(train[:, 1:], train[:, 0])
    joblib.dump(classifier, model / "model.joblib")
    return float(classifier.score(test[:, 1:], test[:, 0]))


@flow
def train(
    datastore: str = "raw",
    path: str = "digits",
    penalty: float = 10.0,
    mount: Literal["no", "pinned", "latest"] = "no",
) -> float:
    """Download or mount the digits, fit, and upload the model only when that went well."""
    store = Datastore.get(datastore)
    digits = store.path(path)
    with stage(
        data=digits.as_download() if mount == "no" else digits.as_mount(consistency=mount),
        model=store.path(f"{path}-model").as_upload(),
    ) as paths:
        score = fit.submit(paths.data, paths.model, penalty).result()
        get_run_logger().info("Accuracy: %.4f", score)
    return score


if __name__ == "__main__":
    train()
