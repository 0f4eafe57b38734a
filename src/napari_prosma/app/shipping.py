"""``ship_model``: a run becomes a small folder that holds a model, its card and its licence, to give away."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from napari_prosma.app.card_pictures import judged, with_pictures
from napari_prosma.app.cards import LICENCE, card_of, figures_of, worst_of, write_card
from napari_prosma.app.models import CARD
from napari_prosma.data.atomic import written_whole
from napari_prosma.data.case import Case
from napari_prosma.errors import ConfigError
from napari_prosma.events import Event, Finished, Notice
from napari_prosma.model.checkpoint import halved, load_checkpoint, save_checkpoint
from napari_prosma.model.header import MODEL

_PLACES = ("run_dir", "data", "unlabelled", "start_from", "images", "masks")
"""Settings that say where somebody keeps his files."""
_SYSTEM = "on"
"""Of a card's versions, what names the machine that it was made on."""


def ship_model(
    run: Path | str,
    folder: Path | str,
    tested: Sequence[Case],
    *,
    data: str,
    licence: str,
    licence_text: str,
    citation: str,
    not_for: Sequence[str] = (),
    pictures: bool = True,
    device: str = "auto",
) -> Iterator[Event]:
    """Write the best model of a run as ``folder``: what lies in ``models/`` of the package is such a folder.

    It holds ``model.safetensors`` in half precision, ``card.json`` and ``LICENSE.md``, and names no place on
    this machine. The figures of the card are those of the model as it is shipped, on cases that it never
    learned from and that nothing was chosen by. The last event is ``Finished`` with the card.

    Parameters
    ----------
    run : as for ``load_checkpoint``
    folder : path
        Its name is that of the model.
    tested : cases with labels
        Classes as the model's, in its order.
    data : str
        What it learned from, in words, such as ``BUSI, breast ultrasound, 780 images``.
    licence : str
        Of the weights, in a few words; ``licence_text`` goes into ``LICENSE.md``.
    citation : str
        Of the data; the paper is cited anyway.
    not_for : sentences
        What else it must not be used for.
    pictures : bool
        Whether the card shows the worst cases, or only names them: images may not be anybody's to give away.

    Raises
    ------
    ConfigError
        A case that is to test it was learned from, or chose its best epoch.
    CheckpointError, DataError
        The run holds no model, a case does not fit it, or the folder cannot be written.
    """
    folder = Path(folder)
    checkpoint = load_checkpoint(run)
    seen = {name for part in checkpoint.split.values() for name in part}
    known = [case.name for case in tested if case.name in seen]
    if known:
        raise ConfigError(
            f"{len(known)} of {len(tested)} test cases, such as '{known[0]}', were seen by the run, to learn "
            f"or to choose; test the model on others"
        )
    if not tested:
        raise ConfigError(f"no case to test '{run}' on was given; give some that its run never saw")
    shipped = replace(
        checkpoint,
        weights=halved(checkpoint.weights),
        config={name: value for name, value in checkpoint.config.items() if name not in _PLACES},
        state={},
        place={},
    )
    save_checkpoint(folder / MODEL, shipped)
    as_shipped = load_checkpoint(folder / MODEL)
    overlaps = yield from judged(as_shipped, tested, device)
    worst = worst_of(overlaps)
    if pictures:
        worst = yield from with_pictures(as_shipped, worst, tested, device)
    made = card_of(run)
    card = made.model_copy(
        update={
            "name": folder.name,
            "data": data,
            "licence": licence,
            "citation": "\n".join(filter(None, (citation, made.citation))),
            "not_for": (*made.not_for, *not_for),
            "measured": len({overlap.case for overlap in overlaps}),
            "measured_on": "test",
            "windows": 0,
            "figures": figures_of(overlaps),
            "worst": worst,
            "advice": (),
            "versions": {name: text for name, text in made.versions.items() if name != _SYSTEM},
        }
    )
    write_card(folder / CARD, card)
    with written_whole(folder / LICENCE) as temporary:
        temporary.write_text(licence_text.rstrip() + "\n", encoding="utf-8")
    yield Notice(card.verdict)
    yield Finished(card)
