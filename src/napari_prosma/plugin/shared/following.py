"""``FollowsLayers``: what is kept up to date with a viewer until its panel is closed."""

from __future__ import annotations

from napari.utils.events import EventEmitter


class FollowsLayers:
    """For a widget whose ``refresh`` is called by the emitters that it follows."""

    _followed: tuple[EventEmitter, ...] = ()

    def follow(self, *emitters: EventEmitter) -> None:
        """From now on."""
        self._followed = emitters
        for emitter in emitters:
            emitter.connect(self.refresh)

    def refresh(self) -> None:
        """Look at the viewer again."""
        raise NotImplementedError

    def let_go(self) -> None:
        """Follow the viewer no longer."""
        for emitter in self._followed:
            emitter.disconnect(self.refresh)
