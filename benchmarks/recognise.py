"""What it costs to recognise a folder of many images and their masks.

    python benchmarks/recognise.py --pairs 5000

Writes the pairs as small PNG files, masks in a folder beside that of the images (``folders``) or in the same
one under other names (``names``), and prints the processor time of ``find_cases``, the least of three rounds.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from time import process_time

import imageio.v3 as imageio
import numpy as np
import torch
from measuring import circumstances

from napari_prosma.data.atomic import written_whole
from napari_prosma.data.layouts import find_cases

ROUNDS = 3


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", type=int, default=5000)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/recognise.json"))
    given = parser.parse_args()
    rows = []
    for layout, image, mask in (
        ("folders", "images/case_{:05d}.png", "masks/case_{:05d}.png"),
        ("names", "case_{:05d}.png", "case_{:05d}_mask.png"),
    ):
        with tempfile.TemporaryDirectory() as folder:
            for number in range(given.pairs):
                for name, top in ((image, 255), (mask, 1)):
                    path = Path(folder, name.format(number))
                    path.parent.mkdir(exist_ok=True)
                    values = np.random.default_rng(number).integers(0, top, (16, 16), endpoint=True)
                    imageio.imwrite(path, values.astype(np.uint8))
            seconds = []
            for _ in range(ROUNDS):
                began = process_time()
                found = find_cases(Path(folder))
                seconds.append(process_time() - began)
                assert len(found.cases) == given.pairs
        rows.append({"layout": layout, "pairs": given.pairs, "seconds": min(seconds)})
        print(f"{layout:8} {given.pairs} pairs  {min(seconds):.2f} s", flush=True)
    made = {**circumstances(torch.device("cpu")), "rows": rows}
    with written_whole(given.out) as temporary:
        temporary.write_text(json.dumps(made, indent=1))


if __name__ == "__main__":
    main()
