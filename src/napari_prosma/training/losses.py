"""Dice plus cross-entropy; what nobody labelled counts in neither."""

from collections.abc import Callable

from torch import Tensor
from torch.nn import functional as F

from napari_prosma.data.labels import IGNORE

Loss = Callable[[Tensor, Tensor], Tensor]


def dice_cross_entropy(out_channels: int) -> Loss:
    """Loss of logits (B, K, *spatial) against class indices (B, 1, *spatial), ``IGNORE`` where unlabelled.

    One channel: half the binary cross-entropy plus the soft Dice loss of the sigmoid (the weights of U-KAN's
    protocol). More: cross-entropy plus the soft Dice loss of the softmax without background. The Dice sums
    run over the whole batch, so that a patch without foreground does not stand alone.
    """
    from monai.losses.dice import DiceLoss

    dice = DiceLoss(batch=True, include_background=out_channels == 1)

    def binary(logits: Tensor, labels: Tensor) -> Tensor:
        counted = labels != IGNORE
        truth = (labels * counted).to(logits.dtype)
        entropy = F.binary_cross_entropy_with_logits(logits, truth, weight=counted, reduction="sum")
        overlap = dice(logits.sigmoid() * counted, truth)
        return 0.5 * entropy / counted.sum().clamp(min=1) + overlap

    def multiclass(logits: Tensor, labels: Tensor) -> Tensor:
        counted = labels != IGNORE
        entropy = F.cross_entropy(logits, labels[:, 0], ignore_index=IGNORE, reduction="sum")
        truth = F.one_hot((labels * counted)[:, 0], out_channels).movedim(-1, 1)
        overlap = dice(logits.softmax(dim=1) * counted, truth * counted)
        return entropy / counted.sum().clamp(min=1) + overlap

    return binary if out_channels == 1 else multiclass
