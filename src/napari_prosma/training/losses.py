"""Dice plus cross-entropy, by MONAI."""

from collections.abc import Callable

from torch import Tensor

Loss = Callable[[Tensor, Tensor], Tensor]


def dice_cross_entropy(out_channels: int) -> Loss:
    """Loss of logits (B, K, *spatial) against class indices (B, 1, *spatial).

    One channel: half the binary cross-entropy plus the soft Dice loss of the sigmoid (the weights of U-KAN's
    protocol). More: cross-entropy plus the soft Dice loss of the softmax without background. The Dice sums
    run over the whole batch, so that a patch without foreground does not stand alone.
    """
    from monai.losses.dice import DiceCELoss

    if out_channels == 1:
        return DiceCELoss(sigmoid=True, batch=True, lambda_ce=0.5)
    return DiceCELoss(softmax=True, to_onehot_y=True, include_background=False, batch=True)
