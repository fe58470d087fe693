"""Trains a classifier on handwritten digits: knows a folder with data, and nothing of datastores."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import joblib
import matplotlib as mpl
import numpy as np
from sklearn.metrics import ConfusionMatrixDisplay, accuracy_score, confusion_matrix
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

mpl.use("Agg")
from matplotlib import pyplot as plt


def read(file: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return images (rows of 64 pixels) and their digits."""
    table = np.loadtxt(file, delimiter=",", skiprows=1)
    return table[:, 1:], table[:, 0].astype(int)


def main() -> None:
    """Train, score, and write what is worth keeping to `outputs/`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--data", type=Path, required=True, help="the folder with train.csv and test.csv"
    )
    parser.add_argument(
        "--penalty", type=float, default=10.0, help="C of the support vector machine"
    )
    arguments = parser.parse_args()

    images, digits = read(arguments.data / "train.csv")
    test_images, test_digits = read(arguments.data / "test.csv")
    print(f"Training on {len(digits)} images, testing on {len(test_digits)}.")
    model = make_pipeline(StandardScaler(), SVC(C=arguments.penalty)).fit(images, digits)
    predicted = model.predict(test_images)
    accuracy = accuracy_score(test_digits, predicted)
    print(f"Accuracy on images it has not seen: {accuracy:.4f}")

    outputs = Path("outputs")
    joblib.dump(model, outputs / "model.joblib")
    metrics = {
        "accuracy": accuracy,
        "train": len(digits),
        "test": len(test_digits),
        "penalty": arguments.penalty,
    }
    (outputs / "metrics.json").write_text(json.dumps(metrics, indent=2))
    figure, axes = plt.subplots(figsize=(6, 6))
    ConfusionMatrixDisplay(confusion_matrix(test_digits, predicted)).plot(
        ax=axes, colorbar=False, cmap="Blues"
    )
    axes.set_title(f"Handwritten digits: {accuracy:.1%} right")
    figure.savefig(outputs / "confusion.png", dpi=110, bbox_inches="tight")


if __name__ == "__main__":
    main()
