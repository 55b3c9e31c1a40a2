"""How good a classifier is: accuracy, and per class precision, recall and F1, all from the confusion matrix."""

import numpy as np


def confusion_matrix(true: np.ndarray, found: np.ndarray, classes: int) -> np.ndarray:
    """How many of class i were taken for class j: (K, K)."""
    return np.bincount(np.asarray(true) * classes + found, minlength=classes**2).reshape(classes, classes)


def class_scores(matrix: np.ndarray) -> dict[str, np.ndarray]:
    """Of each class (K,): "precision", the share of what was taken for it that is; "recall", the share of it that was
    found; "f1", their harmonic mean. Where there is nothing to share, 0, as in scikit-learn."""
    hits, true, found = np.diag(matrix), matrix.sum(axis=1), matrix.sum(axis=0)
    return {
        "precision": hits / np.maximum(found, 1),
        "recall": hits / np.maximum(true, 1),
        "f1": 2 * hits / np.maximum(true + found, 1),
    }


def accuracy(matrix: np.ndarray) -> float:
    """The share that was found to be what it is."""
    return float(np.trace(matrix) / matrix.sum())
