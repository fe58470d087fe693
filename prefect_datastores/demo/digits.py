"""The demo's data and its estimator; `flows/train_digits.py` has the same for reading."""

from __future__ import annotations

from pathlib import Path

from prefect_datastores.datastores.base import FileDatastore
from prefect_datastores.errors import ConfigurationError
from prefect_datastores.estimator import Estimator

SOURCE = Path(__file__).parent / "source"
_TEST_SHARE = 0.25


def write_digits(folder: Path) -> None:
    """Write scikit-learn's handwritten digits (1,797 images of 8 x 8 pixels) as two CSV files.

    The images are the test set of the UCI "Optical Recognition of Handwritten Digits" data set.

    Raises:
        ConfigurationError: scikit-learn is not installed.
    """
    try:
        import numpy as np  # noqa: PLC0415
        from sklearn.datasets import load_digits  # noqa: PLC0415
        from sklearn.model_selection import train_test_split  # noqa: PLC0415
    except ImportError as error:
        raise ConfigurationError(
            f"The demo needs {error.name}: pip install 'prefect-datastores[demo]'."
        ) from error
    digits = load_digits()
    table = np.column_stack([digits.target, digits.data])
    train, test = train_test_split(
        table, test_size=_TEST_SHARE, random_state=0, stratify=digits.target
    )
    header = ",".join(["digit", *(f"pixel_{index}" for index in range(64))])
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in (("train", train), ("test", test)):
        np.savetxt(
            folder / f"{name}.csv", rows, fmt="%d", delimiter=",", header=header, comments=""
        )


def digits_estimator(raw: FileDatastore, models: FileDatastore) -> Estimator:
    """Return the training run: digits before it, `outputs/` after it."""
    return Estimator(
        source_directory=SOURCE,
        entry_script="train.py",
        script_params={"--data": raw.path("digits").as_download(), "--penalty": 10.0},
        inputs=[models.path("digits").as_upload(path_on_compute="outputs")],
        name="train-digits",
    )
