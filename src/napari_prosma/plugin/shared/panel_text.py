"""Names are data: what Qt would take for markup is shown as it is."""

from __future__ import annotations

import html

from napari_prosma.data.names import printable


def as_rich(text: str) -> str:
    """Text for a tooltip or a dialog, which take what looks like HTML for HTML."""
    text = "\n".join(map(printable, text.split("\n")))
    if not {"<", "&"} & set(text):
        return text
    return f"<span>{html.escape(text)}</span>".replace("\n", "<br>")
