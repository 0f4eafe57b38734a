"""``LiveCase``: an image layer and the labels drawn on it, for a run that goes on while they are corrected.

Its label is what the layer holds at the moment when the run asks. It is read in the run's own thread, which
may look into layers but not touch Qt.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from napari.layers import Image as ImageLayer
from napari.layers import Labels as LabelsLayer

from napari_prosma.data.case import Case, Image
from napari_prosma.data.fingerprint import content_hash
from napari_prosma.data.keep import keep_case, keep_label, safe_name
from napari_prosma.data.labels import LabelRule, Sparse, is_foreground, present_values
from napari_prosma.data.planes import slice_axis
from napari_prosma.data.preparation import filled
from napari_prosma.data.readers import as_channels
from napari_prosma.errors import DataError
from napari_prosma.plugin.shared.layers import (
    finest,
    geometry_of,
    image_of,
    is_gray,
    label_rule,
    spatial_shape,
)
from napari_prosma.plugin.shared.placing import onto_image
from napari_prosma.training.run_claim import CASES
from napari_prosma.training.steering import Changes, Steering

GOES_ON = "the run continues with the previous labels"


class LiveCase:
    """Two layers of the viewer as the one case of a run.

    Parameters
    ----------
    labels : napari Labels layer
        Drawn on that image.
    labelled : "slices" or "scribbles", optional
        How the labels are meant where they do not cover everything.
    run_dir : Path
        Image and labels are kept in its folder ``cases``, the labels anew after each correction.

    Attributes
    ----------
    name : str
        Of the case, as ``find_cases`` names it when it finds what was kept.
    rule : LabelRule or None
        Which drawn value is which class: fixed when the run begins.
    is_closed : bool
        One of the layers left the viewer; set by the main thread.
    trouble : str
        Why the labels could not be read the last time; empty if they could.
    is_corrected : bool
        The next reading is of a correction.

    Raises
    ------
    DataError
        When the labels lie on another grid than the image.
    """

    def __init__(
        self, image: ImageLayer, labels: LabelsLayer, labelled: Sparse | None, run_dir: Path
    ) -> None:
        self.image, self.labels, self.labelled = image, labels, labelled
        self.folder = run_dir / CASES
        self.name = safe_name(image.name)
        self.rule: LabelRule | None = None
        self.is_closed = False
        self.trouble = ""
        self.is_corrected = False
        self.shape = spatial_shape(image)
        self._kept = ""  # hash of the labels on disk
        self._label: np.ndarray | None = None
        if len(self.shape) > 3:
            raise DataError(
                f"image layer '{image.name}' has {len(self.shape)} axes {self.shape}, as a time series of "
                f"volumes has, and a network sees 2 or 3; take the frames apart (right-click it, Split "
                f"Stack) and learn from one of them"
            )
        self._drawn_shape = spatial_shape(labels)
        onto_image(np.asarray(finest(labels)), labels, image)

    def open(self, rule: LabelRule | None = None) -> Case:
        """The case as it is now, with nothing written; in the run's thread.

        Parameters
        ----------
        rule : LabelRule, optional
            Of a run that goes on; by default made from what is drawn.

        Raises
        ------
        DataError
            Nothing is drawn, the labels are not what ``labelled`` says, or the image holds infinite values
            or no number at all.
        """
        image, stored = self.read_image(), self._stored()
        if not all(np.isfinite(plane).all() for channel in image.array for plane in channel):
            raise DataError(
                f"the image '{self.image.name}' holds infinite values or nothing but NaN; replace them, "
                f"or open the original image"
            )
        self.rule = rule if rule is not None else label_rule(stored, self.labels, self.labelled)
        self._label = self._classes(stored)
        if not is_foreground(self._label).any():
            raise DataError(
                f"nothing is drawn on '{self.labels.name}' yet; paint the structure, then start; corrections "
                f"can follow while it trains"
            )
        return Case(self.name, self.read_image, self.read_label)

    def keep(self) -> None:
        """Keep image and labels on disk, and from now on every correction.

        Raises ``DataError``: the run folder cannot be written to.
        """
        stored, source = self._stored(), self.image.source.path
        file = None if source is None else Path(source)
        keep_case(self.folder, self.name, self.read_image(), stored, file)
        self._kept = content_hash(stored)

    def read_image(self) -> Image:
        """The image; RGB that is gray has one channel."""
        return image_to_learn(self.image)

    def read_label(self) -> np.ndarray:
        """Class indices (*spatial) of what is drawn now, kept on disk where it is new.

        Where that cannot be, the label as it was; but when the run reads a correction (``LiveSteering``), the
        error.

        Raises ``DataError``: a layer was closed or has another shape than before, a value is new, or all was
        erased.
        """
        is_correction, self.is_corrected = self.is_corrected, False
        try:
            stored = self._stored()
            label = self._classes(stored)
            self._require_drawn(label)
        except DataError as error:
            self.trouble = str(error)
            if is_correction or self._label is None:
                raise
            return self._label
        now = content_hash(stored)
        if self._kept and now != self._kept:
            keep_label(self.folder, self.name, stored)
            self._kept = now
        self.trouble, self._label = "", label
        return label

    def keeps(self, stored: np.ndarray) -> bool:
        """Whether these drawn labels are those on disk."""
        return bool(self._kept) and content_hash(np.asarray(stored)) == self._kept

    def classes_now(self) -> np.ndarray:
        """Class indices (*spatial) of what is drawn now; nothing is kept.

        Raises ``DataError``: as :meth:`read_label`.
        """
        return self._classes(self._stored())

    def _stored(self) -> np.ndarray:
        """A copy of what is drawn: the hand may go on drawing."""
        after = "start again with others" if self._label is None else GOES_ON
        if self.is_closed:
            raise DataError(
                f"a layer to learn from ('{self.image.name}' or '{self.labels.name}') was closed; {after}"
            )
        stored = np.array(finest(self.labels))
        if stored.shape != self._drawn_shape:
            raise DataError(
                f"the labels '{self.labels.name}' have another shape now, {stored.shape} instead of "
                f"{self._drawn_shape}; {after}"
            )
        return onto_image(stored, self.labels, self.image)

    def _require_drawn(self, label: np.ndarray) -> None:
        """Labels that were all erased are no correction: the network would unlearn what it knows."""
        if self._label is not None and not is_foreground(label).any():
            raise DataError(
                f"all labels of '{self.labels.name}' were erased; {GOES_ON}; undo this, or draw them again"
            )

    def _classes(self, stored: np.ndarray) -> np.ndarray:
        assert self.rule is not None
        try:
            return self.rule.apply(stored, self.labels.name, slice_axis(geometry_of(self.image)))
        except DataError as error:
            known = {0, *self.rule.stored} if self.rule.values else {0, 1, 255}
            new = sorted(set(present_values(stored).tolist()) - known)
            raise DataError(
                f"the value {', '.join(map(str, new))} is new in '{self.labels.name}', and this run does not "
                f"know it; undo or erase it, or start a fine-tuning run to learn it"
            ) from error


def image_to_learn(layer: ImageLayer) -> Image:
    """Image of a layer, NaN filled; RGB that is gray has one channel."""
    image = filled(image_of(layer))
    if layer.rgb and len(image.array) == 3 and is_gray(image.array):
        return as_channels(image, 1)
    return image


class LiveSteering(Steering):
    """Steering of a run on layers: the case hears when the run is about to read a correction."""

    def __init__(self, case: LiveCase) -> None:
        super().__init__()
        self._case = case

    def take(self) -> Changes:
        """As ``Steering.take``."""
        changes = super().take()
        self._case.is_corrected = self._case.name in changes.relabelled
        return changes
