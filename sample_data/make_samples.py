"""Make the sample data again, bit for bit: ``python sample_data/make_samples.py``."""

from pathlib import Path

from napari_prosma.data.phantoms import write_samples

if __name__ == "__main__":
    for path in write_samples(Path(__file__).parent):
        print(path)
