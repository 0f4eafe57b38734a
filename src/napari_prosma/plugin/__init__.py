"""napari and Qt: panels that start runs and draw what comes back, a reader, a writer, samples."""
