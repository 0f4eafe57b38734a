"""Overlap of a predicted label with the true one, per image and class."""

import numpy as np

from napari_prosma.data.labels import IGNORE


def dice_and_iou(predicted: np.ndarray, truth: np.ndarray, label: int) -> tuple[float, float]:
    """Dice and IoU of class ``label`` in two index arrays of one shape; 1 where the class is in neither."""
    p, t = predicted == label, truth == label
    both, either = np.count_nonzero(p & t), np.count_nonzero(p | t)
    if either == 0:
        return 1.0, 1.0
    return 2 * both / (both + either), both / either


def mean_metrics(per_case: list[dict[str, float]]) -> dict[str, float]:
    """Mean over cases of every figure that occurs; the order of the names is kept."""
    names = list(dict.fromkeys(name for case in per_case for name in case))
    return {name: float(np.mean([case[name] for case in per_case if name in case])) for name in names}


def case_metrics(predicted: np.ndarray, truth: np.ndarray, class_names: tuple[str, ...]) -> dict[str, float]:
    """``dice`` and ``iou`` of one case: means over the foreground classes, then each as ``dice/<class>``.

    What is ``IGNORE`` in ``truth`` is not counted; nothing is said of a case without any label.
    """
    counted = truth != IGNORE
    predicted, truth = predicted[counted], truth[counted]
    if truth.size == 0:
        return {}
    per_class = {name: dice_and_iou(predicted, truth, k) for k, name in enumerate(class_names) if k > 0}
    figures = {
        "dice": float(np.mean([dice for dice, _ in per_class.values()])),
        "iou": float(np.mean([iou for _, iou in per_class.values()])),
    }
    for name, (dice, iou) in per_class.items():
        figures[f"dice/{name}"], figures[f"iou/{name}"] = dice, iou
    return figures
