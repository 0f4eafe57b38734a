"""Random changes of a training patch, by MONAI's transforms; reproducible from one seed per patch."""

from __future__ import annotations

from typing import Any

import numpy as np

from napari_prosma.data.fingerprint import Plan


class Augmentation:
    """Left-right flips, small rotations, scaling and shifts; gain, contrast, noise and blur.

    No flip across the other axes: in ultrasound depth has a direction (shadows fall away from the probe),
    and in the body up is not down.
    """

    def __init__(self, plan: Plan) -> None:
        from monai.transforms import (
            Compose,
            RandAdjustContrastd,
            RandAffined,
            RandFlipd,
            RandGaussianNoised,
            RandGaussianSmoothd,
            RandScaleIntensityd,
        )

        dims, both = plan.dims, ["image", "label"]
        turn = (0.26,) if dims == 2 else (0.26, 0.1, 0.1)  # radians: 15 degrees in the plane of the slices
        self._transforms: Any = Compose(
            [
                RandFlipd(both, prob=0.5, spatial_axis=dims - 1),
                RandAffined(
                    both,
                    prob=0.7,
                    rotate_range=turn,
                    scale_range=(0.2,) * dims,
                    translate_range=tuple(0.1 * n for n in plan.patch),
                    mode=("bilinear", "nearest"),
                    padding_mode="reflection",
                ),
                RandScaleIntensityd("image", factors=0.2, prob=0.5),
                RandAdjustContrastd("image", prob=0.3, gamma=(0.7, 1.5), retain_stats=True),
                RandGaussianNoised("image", prob=0.2, std=0.1),
                RandGaussianSmoothd("image", prob=0.1, sigma_x=(0.5, 1), sigma_y=(0.5, 1), sigma_z=(0.5, 1)),
            ]
        )

    def __call__(self, image: np.ndarray, label: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Changed copies of ``image`` (C, *patch) and ``label`` (*patch)."""
        self._transforms.set_random_state(seed=seed)
        changed = self._transforms({"image": image, "label": label[None].astype(np.float32)})
        return np.asarray(changed["image"], np.float32), np.asarray(changed["label"])[0].round().astype(
            np.uint8
        )
