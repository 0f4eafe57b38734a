"""Time and peak memory from a file on disk to its first slice, against plain nibabel and SimpleITK.

    python benchmarks/io.py                      # makes a CT of 512 x 512 x 600, int16
    python benchmarks/io.py --volume ct.nii.gz   # your own

Each measurement is a process of its own that imports, opens the volume and sums the first slice; the time
leaves the imports out, the peak is what the process grew by (resident memory, mapped pages included).
Prints a table and writes JSON.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

REPEATS = 5
SHAPE = (600, 512, 512)

MEASURE = """
import json, resource, sys, time
import numpy as np
import psutil
{imports}
path = sys.argv[1]
before = psutil.Process().memory_info().rss
start, start_cpu = time.perf_counter(), time.process_time()
{opens}
int(np.asarray(slice_).sum(dtype=np.int64))
seconds, cpu = time.perf_counter() - start, time.process_time() - start_cpu
unit = 1 if sys.platform == "darwin" else 1024
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit - before
print(json.dumps({{"seconds": seconds, "cpu seconds": cpu, "mebibytes": peak / 2**20}}))
"""

WAYS = {
    "napari-prosma": (
        "from napari_prosma.data.readers import read_image; import isal.igzip",
        "array = read_image(path).array; slice_ = array[0, 0]",
    ),
    "nibabel": (
        "import nibabel",
        "array = np.asanyarray(nibabel.load(path).dataobj); slice_ = array[..., 0]",
    ),
    "SimpleITK": (
        "import SimpleITK",
        "image = SimpleITK.ReadImage(path); slice_ = SimpleITK.GetArrayViewFromImage(image)[0]",
    ),
}


def make_volume(path: Path) -> None:
    """A CT of ``SHAPE`` with the noise of a CT, so that it deflates as one."""
    import nibabel

    from napari_prosma.data.phantoms import ct_case

    small = ct_case(0, (60, 256, 256), (5.0, 1.4, 1.4)).read_image().array[0]
    plane = np.repeat(np.repeat(small, 2, axis=1), 2, axis=2)
    rng = np.random.default_rng(0)
    volume = np.empty(SHAPE, dtype=np.int16)
    for z in range(len(volume)):
        volume[z] = plane[z * len(small) // len(volume)] + rng.normal(0, 12, plane.shape[1:])
    nibabel.save(nibabel.Nifti1Image(volume.T, np.diag((-0.7, -0.7, 0.5, 1))), path)


def measure(way: str, path: Path) -> dict[str, float]:
    """The fastest of some runs, and the smallest peak."""
    imports, opens = WAYS[way]
    code = MEASURE.format(imports=imports, opens=opens)
    runs = []
    for _ in range(REPEATS):
        done = subprocess.run(
            [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True
        )
        runs.append(json.loads(done.stdout))
    return {key: min(run[key] for run in runs) for key in runs[0]}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--volume", type=Path, action="append", help="NIfTI file; may be given several times")
    parser.add_argument("--out", type=Path, default=Path("io.json"))
    parser.add_argument("--make", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.make:
        make_volume(arguments.make)
        return
    with tempfile.TemporaryDirectory() as folder:
        paths = arguments.volume or [Path(folder) / name for name in ("mapped.nii", "deflated.nii.gz")]
        results: dict[str, dict[str, dict[str, float]]] = {}
        for path in paths:
            if not path.exists():  # elsewhere, so that what it needs is not counted as theirs
                subprocess.run([sys.executable, __file__, "--make", str(path)], check=True)
            results[path.name] = {way: measure(way, path) for way in WAYS}
            print(f"{path.name}: {path.stat().st_size / 2**20:.0f} MiB on disk")
            for way, result in results[path.name].items():
                seconds, cpu, memory = result.values()
                print(f"  {way:<14} {seconds:8.3f} s {cpu:8.3f} s of CPU {memory:8.0f} MiB")
    machine = {
        "python": platform.python_version(),
        "machine": platform.machine(),
        "system": platform.system(),
    }
    arguments.out.write_text(json.dumps({"machine": machine, "results": results}, indent=2) + "\n")


if __name__ == "__main__":
    main()
