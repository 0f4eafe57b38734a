"""What a user is asked in a dialog: for a folder, for a file to write, and whether something may be done."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from qtpy.QtWidgets import QFileDialog, QMessageBox, QWidget

from napari_prosma.app.models import runs_folder
from napari_prosma.app.remembered import remember, remembered
from napari_prosma.errors import ProsmaError
from napari_prosma.plugin.shared.message import Message
from napari_prosma.plugin.shared.panel_text import as_rich


def chosen_folder(parent: QWidget, title: str, topic: str = "", start: Path | None = None) -> Path | None:
    """A folder that the user chooses, beginning where he chose the last one for this; None = none."""
    topic = topic or title
    found = QFileDialog.getExistingDirectory(parent, title, str(start or start_folder(topic)))
    if not found:
        return None
    remember(f"folder: {topic}", found)
    return Path(found)


def start_folder(topic: str) -> Path:
    """The folder that was chosen last for this, or home."""
    held = remembered(f"folder: {topic}")
    return Path(held) if isinstance(held, str) and Path(held).is_dir() else Path.home()


def choose_run(parent: QWidget) -> Path | None:
    """The folder of a run that the user chooses."""
    start = runs_folder() if runs_folder().is_dir() else None
    return chosen_folder(parent, "Suspicious labels: choose the folder of a run", start=start)


def save_as(
    parent: QWidget, title: str, start: Path, kinds: str, write: Callable[[Path], object], message: Message
) -> None:
    """Ask for a file, ``write`` it, and say in ``message`` where it is, or why it is not."""
    chosen, _ = QFileDialog.getSaveFileName(parent, title, str(start), kinds)
    if not chosen:
        return
    try:
        write(Path(chosen))
    except ProsmaError as error:
        message.tell_error(str(error))
    else:
        message.tell(f"Saved as {chosen}")


def agrees(
    parent: QWidget | None,
    question: str,
    further: str,
    action: str,
    leave: str = "Cancel",
    title: str = "",
    loses: bool = False,
    is_default: bool = False,
) -> bool:
    """Whether the user chose ``action``; to ``leave`` it is one key away.

    ``loses``: something is lost by the action, of which is warned; ``is_default``: Enter chooses it.
    """
    role = QMessageBox.ButtonRole.DestructiveRole if loses else QMessageBox.ButtonRole.AcceptRole
    box = QMessageBox(parent)
    box.setIcon(QMessageBox.Icon.Warning if loses else QMessageBox.Icon.Question)
    box.setWindowTitle(title)
    box.setText(question)
    box.setInformativeText(as_rich(further))
    agreed = box.addButton(action, role)
    left = box.addButton(leave, QMessageBox.ButtonRole.RejectRole)
    box.setDefaultButton(agreed if is_default else left)
    box.setEscapeButton(left)
    box.exec()
    return box.clickedButton() is agreed
