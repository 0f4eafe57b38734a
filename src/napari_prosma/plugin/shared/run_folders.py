"""Run folders that are dropped on napari open with this program, without a question.

Of a folder napari asks which reader is to open it whenever several take folders, as its own does; a manifest
cannot say more. What a user would answer and tick there is an entry of napari's preferences.
"""

from __future__ import annotations

import os

from napari.settings import get_settings

from napari_prosma.app.models import runs_folder
from napari_prosma.app.remembered import remember, remembered

READER = "napari-prosma"
_TOLD = "napari opens runs"


def open_runs_unasked() -> None:
    """Enter the folder of runs in napari's preferences once it is there; what the user changes stays."""
    pattern = os.path.join(os.path.realpath(runs_folder()), "*", "")
    if remembered(_TOLD) == pattern or not runs_folder().is_dir():
        return
    plugins = get_settings().plugins
    if pattern not in plugins.extension2reader:
        plugins.extension2reader = {**plugins.extension2reader, pattern: READER}
    remember(_TOLD, pattern)
