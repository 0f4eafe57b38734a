"""``python -m napari_prosma`` is the same as ``prosma``."""

from napari_prosma.cli.app import main

main()
