"""Made-up patients from a seed: breast ultrasound and abdominal CT, to learn and to test with.

The ultrasound is made as a scanner makes it: scatterers times echogenicity, blurred by the pulse, envelope,
log compression. The CT is made of organs with their Hounsfield units, partial volume and correlated noise.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.random import Generator

from napari_prosma.data.atomic import written_whole
from napari_prosma.data.case import Case, Image
from napari_prosma.data.formats import nifti, pictures
from napari_prosma.errors import DataError
from napari_prosma.geometry import Geometry, SourceFrame

ULTRASOUND_CLASSES = ("background", "lesion")
CT_CLASSES = ("background", "spleen", "lesion")
SAMPLE_ULTRASOUND_CASES = 24
SAMPLE_CT_CASES = 2

_ULTRASOUND_DEPTH_MM = 40.0
_DYNAMIC_RANGE_DB = 55.0
_GAIN_DB = -5.0
_COMPOUNDED_LOOKS = 3

_AIR, _FAT, _MUSCLE, _LIVER, _SPLEEN, _KIDNEY = -1000.0, -105.0, 55.0, 105.0, 120.0, 175.0
_VESSEL, _CANCELLOUS, _CORTICAL, _BOWEL, _LESION, _CANAL = 165.0, 210.0, 750.0, 25.0, 45.0, 25.0


def ultrasound_case(seed: int, size: tuple[int, int] = (128, 128)) -> Case:
    """Breast ultrasound (1, y, x) uint8 with one or two dark lesions, most of them casting a shadow.

    Parameters
    ----------
    seed : int
        Same seed, same case.
    size : (y, x)
        Elements of the image, which shows 40 mm of depth.

    Returns
    -------
    Case
        Label 0/1, see ``ULTRASOUND_CLASSES``.
    """
    rng = np.random.default_rng([seed, 2])
    rows, columns = size
    spacing = _ULTRASOUND_DEPTH_MM / rows
    depth, across = np.meshgrid(
        (np.arange(rows) + 0.5) / rows, (np.arange(columns) + 0.5) / rows, indexing="ij"
    )
    echo = _breast_layers(rng, depth, across)
    label = np.zeros(size, dtype=np.uint8)
    loss = np.zeros(size)
    for _ in range(int(rng.choice((1, 2), p=(0.8, 0.2)))):
        inside, rim = _lesion_outline(rng, depth, across, taken=label > 0)
        if not inside.any():
            continue
        echo[inside] = rng.uniform(-27, -20) + 2.5 * _texture(rng, size, rows / 30)[inside]
        echo[rim & ~inside] += rng.uniform(1, 6)
        loss += _behind(rng, inside, rows) * rng.choice((11.0, 7.0, -5.0), p=(0.55, 0.25, 0.2))
        label[inside] = 1
    brightness = _b_mode(rng, echo, loss, depth)
    geometry = Geometry((spacing, spacing), (0.0, 0.0), "mm")
    return Case.from_arrays(f"ultrasound_{seed:02d}", brightness[None], label, geometry)


def ct_case(
    seed: int,
    shape: tuple[int, int, int] = (40, 112, 112),
    spacing: tuple[float, float, float] = (5.0, 3.0, 3.0),
    with_lesion: bool = False,
) -> Case:
    """Abdominal CT (1, z, y, x) in Hounsfield units, int16, with a spleen of varying size and place.

    Parameters
    ----------
    seed : int
        Same seed, same case.
    shape, spacing : (z, y, x)
        Elements and mm; the body is about 340 mm wide and 230 mm deep.
    with_lesion : bool
        Put a lesion in the spleen, as class 2.

    Returns
    -------
    Case
        Label 0/1 (/2), see ``CT_CLASSES``. The array lies head, back, left, as volumes do.
    """
    rng = np.random.default_rng([seed, 3])
    body = _Body.grid(shape, spacing)
    volume = np.full(shape, _AIR)
    label = np.zeros(shape, dtype=np.uint8)
    half_width, half_depth = rng.uniform(150, 172), rng.uniform(98, 118)
    _paint_trunk(rng, body, volume, half_width, half_depth)
    _paint_bowel(rng, body, volume, half_width, half_depth)
    _paint_organs(rng, body, volume, half_width, half_depth)
    spleen = body.blob(
        rng,
        centre=(
            rng.uniform(0, 35),
            half_depth * rng.uniform(0.22, 0.36),
            half_width * rng.uniform(0.5, 0.58),
        ),
        radii=(rng.uniform(42, 62), rng.uniform(36, 50), rng.uniform(20, 30)),
        lean=rng.uniform(0.3, 0.7),
    )
    spleen &= body.ellipse((0, 0), (half_depth * 0.78, half_width * 0.8)) & (volume != _KIDNEY)
    volume[spleen] = _SPLEEN + 4 * body.smooth_noise(rng, 12)[spleen]
    label[spleen] = 1
    if with_lesion:
        inside = np.argwhere(spleen)
        z, y, x = inside[rng.integers(len(inside))]
        radius = rng.uniform(9, 15)
        lesion = spleen & body.blob(rng, (body.z[z], body.y[y], body.x[x]), (radius,) * 3)
        volume[lesion] = _LESION
        label[lesion] = 2
    _paint_spine(rng, body, volume, half_depth)
    _paint_ribs(rng, body, volume, half_width, half_depth)
    image = _scanned(rng, volume, spacing)
    geometry = _lying_in_scanner(shape, spacing)
    return Case.from_arrays(f"ct_{seed:02d}", image[None], label, geometry)


def write_samples(folder: str | Path) -> tuple[Path, ...]:
    """Write the sample data: ``ultrasound/images`` and ``masks`` (PNG), ``ct/imagesTr`` and ``labelsTr``.

    The same bytes each time with the same versions of Pillow and nibabel.

    Returns
    -------
    tuple of Path
        The files written.
    """
    folder = Path(folder)
    written = []
    for seed in range(SAMPLE_ULTRASOUND_CASES):
        case = ultrasound_case(seed)
        for kind, array in (("images", case.read_image().array[0]), ("masks", _label(case) * 255)):
            path = folder / "ultrasound" / kind / f"{case.name}.png"
            with written_whole(path) as temporary:
                pictures.write_labels(temporary, array, ())
            written.append(path)
    for seed in range(SAMPLE_CT_CASES):
        case = ct_case(seed)
        image = case.read_image()
        for kind, array in (("imagesTr", image.array), ("labelsTr", _label(case)[None])):
            path = folder / "ct" / kind / f"{case.name}.nii.gz"
            with written_whole(path) as temporary:
                nifti.write_image(temporary, Image(array, image.geometry))
            written.append(path)
    return tuple(written)


def sample_folder() -> Path:
    """The folder of sample data, in an installed wheel or in a checkout.

    Raises ``DataError``: when it was left out of the installation.
    """
    package = Path(__file__).resolve().parents[1]
    candidates = (package / "sample_data", package.parents[1] / "sample_data")
    for folder in candidates:
        if (folder / "ultrasound" / "images").is_dir():
            return folder
    raise DataError(
        f"no sample data in '{candidates[0]}'; reinstall napari-prosma "
        f"(python -m pip install --force-reinstall napari-prosma)"
    )


def _label(case: Case) -> np.ndarray:
    assert case.read_label is not None
    return case.read_label()


# ---- ultrasound ----------------------------------------------------------------------------------------


def _breast_layers(rng: Generator, depth: np.ndarray, across: np.ndarray) -> np.ndarray:
    """Echogenicity in dB of skin, fat with septa, gland, fascia, muscle and what lies below it."""
    size, rows = depth.shape, depth.shape[0]
    wave = _texture(rng, (1, size[1]), rows / 5)[0]
    skin, gland = 0.05 + 0.005 * wave, rng.uniform(0.14, 0.3) + 0.03 * wave
    muscle = rng.uniform(0.62, 0.82) + 0.03 * _texture(rng, (1, size[1]), rows / 4)[0]
    chest = muscle + rng.uniform(0.12, 0.2)
    echo = np.full(size, -13.0) + 2.5 * _texture(rng, size, rows / 14)
    glandular = (depth > gland) & (depth < muscle)
    echo[glandular] = (-7.0 + 4.0 * _texture(rng, size, (rows / 22, rows / 9)))[glandular]
    # Septa: thin bright sheets where a smooth field crosses zero.
    septa = np.abs(_texture(rng, size, (rows / 16, rows / 6))) < 0.10
    echo[septa & (depth < muscle)] += 8
    striated = np.sin(2 * np.pi * (depth * 26 + 0.9 * _texture(rng, size, rows / 6)))
    echo = np.where(depth > muscle, -15.0 + 3.5 * striated, echo)
    echo = np.where(depth > chest, -20.0 + 2.0 * striated, echo)
    for line, width, gain in ((muscle, 0.008, 11.0), (chest, 0.012, 9.0)):
        echo += gain * np.exp(-(((depth - line) / width) ** 2))
    echo[depth < skin] = 2.0
    echo += 7.0 * np.exp(-(((depth - skin) / 0.01) ** 2))
    return echo


def _lesion_outline(
    rng: Generator, depth: np.ndarray, across: np.ndarray, taken: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """A lobulated lesion wider than tall, and the rim of tissue around it; empty where it would touch."""
    width = across.max()
    radius = rng.uniform(0.07, 0.19)
    flat = rng.uniform(0.55, 0.95)
    centre = rng.uniform(0.28, 0.58), rng.uniform(0.22, 0.78) * width
    tilt = rng.uniform(-0.4, 0.4)
    down, right = depth - centre[0], across - centre[1]
    down, right = down * np.cos(tilt) - right * np.sin(tilt), down * np.sin(tilt) + right * np.cos(tilt)
    angle = np.arctan2(down / flat, right)
    reach = np.ones_like(angle)
    roughness = rng.choice((0.06, 0.2))  # smooth as a fibroadenoma, or spiculated
    for order in range(2, 12):
        reach += roughness * rng.normal() / order**0.8 * np.cos(order * angle + rng.uniform(0, 2 * np.pi))
    distance = np.hypot(down / flat, right) / (radius * np.clip(reach, 0.5, 1.6))
    inside, rim = distance < 1, distance < 1.25
    return (inside & False, rim) if (rim & taken).any() else (inside, rim)


def _behind(rng: Generator, inside: np.ndarray, rows: int) -> np.ndarray:
    """Beam path below a lesion: 0 outside, to 1 behind its thickest part, with soft edges."""
    from scipy.ndimage import gaussian_filter1d

    thickness = np.cumsum(inside, axis=0) / max(int(inside.sum(axis=0).max()), 1)
    shade = np.where(inside, 0.35 * thickness, thickness)
    return gaussian_filter1d(shade, rows / 50, axis=1) * rng.uniform(0.7, 1.1)


def _b_mode(rng: Generator, echo: np.ndarray, loss: np.ndarray, depth: np.ndarray) -> np.ndarray:
    """Scatterers -> pulse -> envelope -> log compression, uint8; ``echo`` and ``loss`` are in dB."""
    from scipy.ndimage import gaussian_filter

    rows = echo.shape[0]
    amplitude = 10 ** (gaussian_filter(echo, 0.006 * rows) / 20)
    pulse = 0.5 * rows / 128
    focus = np.clip(1.6 * np.abs(depth - 0.4), 0, 1)
    energy = np.zeros(echo.shape)
    for _ in range(_COMPOUNDED_LOOKS):
        field = amplitude * (rng.normal(size=echo.shape) + 1j * rng.normal(size=echo.shape))
        near, far = (
            gaussian_filter(field.real, (pulse, lateral * pulse))
            + 1j * gaussian_filter(field.imag, (pulse, lateral * pulse))
            for lateral in (1.6, 3.2)
        )
        # Blurring lowers the mean energy; the beam is as loud where it is wide.
        energy += np.abs((1 - focus) * near / near.std() + focus * far / far.std()) ** 2
    envelope = np.sqrt(energy / _COMPOUNDED_LOOKS)
    attenuation = rng.uniform(14, 26) * np.clip(depth - 0.2, 0, None)
    decibel = 20 * np.log10(envelope + 1e-4) - attenuation - loss + _GAIN_DB
    floor = 1.5 * rng.normal(size=echo.shape)
    scaled = 255 * (decibel + 0.68 * _DYNAMIC_RANGE_DB) / _DYNAMIC_RANGE_DB + floor
    return np.clip(np.round(scaled), 0, 255).astype(np.uint8)


def _texture(rng: Generator, size: tuple[int, ...], scale: float | tuple[float, ...]) -> np.ndarray:
    """Smooth noise of mean 0 and spread 1 whose features are ``scale`` elements wide."""
    from scipy.ndimage import gaussian_filter

    noise = gaussian_filter(rng.normal(size=size), scale, mode="reflect")
    return (noise - noise.mean()) / noise.std()


# ---- CT ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Body:
    """Coordinates in mm from the middle of the trunk: z to the head, y to the back, x to the left."""

    shape: tuple[int, int, int]
    spacing: tuple[float, float, float]
    z: np.ndarray
    y: np.ndarray
    x: np.ndarray

    @classmethod
    def grid(cls, shape: tuple[int, int, int], spacing: tuple[float, float, float]) -> _Body:
        axes = ((np.arange(n) - (n - 1) / 2) * s for n, s in zip(shape, spacing, strict=True))
        return cls(shape, spacing, *axes)

    def smooth_noise(self, rng: Generator, mm: float) -> np.ndarray:
        """Noise of mean 0 and spread 1 with features of ``mm``, made on a coarser grid for speed."""
        from scipy.ndimage import zoom

        sigma = [mm / s for s in self.spacing]
        step = [max(1, int(s / 1.5)) for s in sigma]
        coarse = tuple(n // k + 2 for n, k in zip(self.shape, step, strict=True))
        noise = _texture(rng, coarse, tuple(s / k for s, k in zip(sigma, step, strict=True)))
        fine = zoom(noise, step, order=1)
        return fine[tuple(slice(n) for n in self.shape)]

    def distance(self, centre: tuple[float, float], radii: tuple[float, float]) -> np.ndarray:
        """(y, x): 1 on the ellipse."""
        return np.hypot((self.y[:, None] - centre[0]) / radii[0], (self.x - centre[1]) / radii[1])

    def ellipse(self, centre: tuple[float, float], radii: tuple[float, float]) -> np.ndarray:
        return np.broadcast_to(self.distance(centre, radii) < 1, self.shape)

    def blob(
        self,
        rng: Generator,
        centre: tuple[float, float, float],
        radii: tuple[float, float, float],
        lean: float = 0.0,
        rough: float = 0.06,
    ) -> np.ndarray:
        """Ellipsoid with an uneven surface; ``lean`` bends it outwards along y, as a spleen."""
        z = (self.z[:, None, None] - centre[0]) / radii[0]
        y = (self.y[:, None] - centre[1]) / radii[1]
        x = (self.x - centre[2]) / radii[2] + lean * (y**2 + 0.4 * z**2)
        return np.sqrt(z**2 + y**2 + x**2) + rough * self.smooth_noise(rng, 14) < 1


def _paint_trunk(
    rng: Generator, body: _Body, volume: np.ndarray, half_width: float, half_depth: float
) -> None:
    """Table, skin, fat, the muscles of the wall, and the fat within."""
    table = (body.y > half_depth + 9) & (body.y < half_depth + 16)
    volume[:, table] = np.where(np.abs(body.x) < 190, -650.0, _AIR)
    breathing = 1 + 0.03 * np.sin(body.z / 60 + rng.uniform(0, 6))[:, None, None]
    outline = body.distance((0, 0), (half_depth, half_width)) / breathing
    angle = np.arctan2(body.y[:, None] / half_depth, body.x / half_width)
    outline = outline + 0.02 * np.cos(3 * angle + rng.uniform(0, 6)) - 0.02 * np.cos(4 * angle)
    fat = rng.uniform(0.1, 0.17)
    wall = outline + 0.05 * np.cos(2 * angle)
    volume[outline < 1] = _FAT
    volume[outline < 1 - fat + 0.02] = np.where(wall < 1 - fat, _MUSCLE, _FAT)[outline < 1 - fat + 0.02]
    volume[wall < 1 - fat - 0.11] = _FAT
    for side in (-1, 1):  # the erector muscles beside the spine
        back = body.ellipse((half_depth * 0.66, side * 38), (26, 32))
        volume[back & (outline < 1 - fat)] = _MUSCLE
        psoas = body.ellipse((half_depth * 0.42, side * 38), (17, 15))
        volume[psoas] = _MUSCLE


def _paint_bowel(
    rng: Generator, body: _Body, volume: np.ndarray, half_width: float, half_depth: float
) -> None:
    """Loops with a wall, contents and some gas in front."""
    for _ in range(26):
        centre = (
            rng.uniform(body.z[0], body.z[-1]),
            half_depth * rng.uniform(-0.55, 0.05),
            half_width * rng.uniform(-0.55, 0.6),
        )
        radius = rng.uniform(11, 19)
        radii = (radius * rng.uniform(1, 2), radius, radius * rng.uniform(1, 1.8))
        loop = body.blob(rng, centre, radii)
        volume[loop] = _MUSCLE + 30
        inner = body.blob(rng, centre, tuple(r - 3 for r in radii))  # type: ignore[arg-type]
        volume[inner & loop] = _BOWEL
        if rng.random() < 0.35:
            in_front = body.y[:, None] < centre[1] - 0.1 * radius
            volume[inner & loop & in_front] = -850


def _paint_organs(
    rng: Generator, body: _Body, volume: np.ndarray, half_width: float, half_depth: float
) -> None:
    """Liver, stomach, kidneys and the great vessels, in a portal venous phase."""
    within = body.ellipse((0, 0), (half_depth * 0.77, half_width * 0.8))
    height = rng.uniform(20, 45)
    right = body.blob(rng, (height, -half_depth * 0.02, -half_width * 0.42), (85, half_depth * 0.62, 74))
    left = body.blob(rng, (height + 15, -half_depth * 0.38, -half_width * 0.02), (50, half_depth * 0.26, 75))
    liver = (right | left) & within
    volume[liver] = _LIVER + 4 * body.smooth_noise(rng, 10)[liver]
    branches = np.abs(body.smooth_noise(rng, 9)) < 0.06
    volume[branches & liver & (body.smooth_noise(rng, 22) > 0.4)] = _VESSEL
    stomach_centre = (height + 20, -half_depth * 0.25, half_width * 0.34)
    stomach = body.blob(rng, stomach_centre, (45, half_depth * 0.33, 42), lean=-0.2) & within & ~liver
    volume[stomach] = _BOWEL + 10
    volume[stomach & (body.y[:, None] < stomach_centre[1] - rng.uniform(2, 14))] = -880
    for side in (-1, 1):
        centre = (rng.uniform(-55, -25), half_depth * 0.4, side * half_width * 0.37)
        kidney = body.blob(rng, centre, (55, 28, 25), rough=0.04)
        volume[kidney] = _KIDNEY
        pelvis = body.blob(rng, (centre[0], centre[1] - 4, centre[2] - side * 13), (26, 11, 14))
        volume[pelvis & kidney] = -30
    aorta = body.ellipse((half_depth * 0.2, 12), (11, 11))
    volume[aorta] = _VESSEL + 15
    cava = body.ellipse((half_depth * 0.16, -22), (10, 14))
    volume[cava] = _VESSEL - 15


def _paint_spine(rng: Generator, body: _Body, volume: np.ndarray, half_depth: float) -> None:
    """Vertebrae and discs, the canal, and the processes behind."""
    place = half_depth * 0.45
    rhythm = np.mod(body.z + rng.uniform(0, 36), 36)
    disc = (rhythm < 8)[:, None, None]
    vertebra = body.distance((place, 0), (17, 24))
    volume[np.broadcast_to(vertebra < 1, body.shape)] = _CORTICAL * 0.7
    volume[np.broadcast_to(vertebra < 0.84, body.shape)] = _CANCELLOUS
    volume[np.broadcast_to((vertebra < 1) & disc, body.shape)] = 80
    arch = body.ellipse((place + 25, 0), (15, 17))
    volume[arch] = _CORTICAL * 0.6
    volume[body.ellipse((place + 24, 0), (9, 11))] = _CANAL
    process = (np.abs(body.x) < 3.5) & (body.y[:, None] > place + 36) & (body.y[:, None] < place + 58)
    volume[np.broadcast_to(process, body.shape) & ~disc] = _CORTICAL * 0.6
    across = (np.abs(body.x) < 44) & (np.abs(body.x) > 14) & (np.abs(body.y[:, None] - place - 20) < 4)
    volume[np.broadcast_to(across, body.shape) & (rhythm > 18)[:, None, None]] = _CORTICAL * 0.5


def _paint_ribs(
    rng: Generator, body: _Body, volume: np.ndarray, half_width: float, half_depth: float
) -> None:
    """Ribs running down from the back to the front, in the upper part."""
    ring = body.distance((0, 0), (half_depth * 0.83, half_width * 0.84))
    angle = np.arctan2(-body.y[:, None], np.abs(body.x))  # back -pi/2, front pi/2
    start = rng.uniform(0, 28)
    fall = np.mod(body.z[:, None, None] + 38 * angle + start, 28)
    shell = np.abs(ring - 1)
    upper = (body.z > rng.uniform(-60, -20))[:, None, None] & (angle > -1.35) & (angle < 0.75)
    across_rib = np.hypot((fall - 14) / 6.5, shell / 0.055)
    rib = upper & (across_rib < 1)
    volume[rib] = _CORTICAL
    volume[rib & (across_rib < 0.6)] = _CANCELLOUS


def _scanned(rng: Generator, volume: np.ndarray, spacing: tuple[float, ...]) -> np.ndarray:
    """Partial volume and the correlated noise of a soft kernel, int16 Hounsfield units."""
    from scipy.ndimage import gaussian_filter

    blurred = gaussian_filter(volume, [1.3 / s if s < 4 else 0.35 for s in spacing])
    grain = gaussian_filter(rng.normal(size=volume.shape), (0, 0.6, 0.6))
    noisy = blurred + rng.uniform(11, 17) * grain / grain.std()
    return np.clip(np.round(noisy), -1024, 3071).astype(np.int16)


def _lying_in_scanner(shape: tuple[int, int, int], spacing: tuple[float, ...]) -> Geometry:
    affine = np.diag((-spacing[2], -spacing[1], spacing[0], 1.0))
    affine[:3, 3] = [(n - 1) / 2 * s for n, s in zip(shape[::-1], spacing[::-1], strict=True)]
    affine[2, 3] = -affine[2, 3]
    return Geometry.patient(SourceFrame.canonical(affine), shape)
