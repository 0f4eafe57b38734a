"""Images and their labels found by what the names of files share, whatever anybody called them.

Every name is cut into a *role* (``images/bus_*-l``, ``*_seg``) and a *key* that says which case it is
(``0007``). The cut that puts most files beside others of the same key is the likeliest.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, product, zip_longest
from pathlib import Path

from napari_prosma.data.formats import polygons
from napari_prosma.data.names import normal
from napari_prosma.data.readers import stem

_PIECE = re.compile(r"[^\W\d_]+|\d+|[\W_]+")
_NUMBERED = re.compile(r"\d")
_UNLABELLED = re.compile(r"un-?_?label", re.IGNORECASE)
_DIGITS = re.compile(r"\d+")
_NUMBERED_ROLES = 8
"""So many kinds of files are tried against each other by their numbers alone."""
_PADDING = re.compile(r"(?<!\d)0+(?=\d)")
_PIECES_BEFORE, _PIECES_AFTER = 6, 8
"""Longest beginning and end of a name that may be a role, in pieces."""
_DEEPEST = 4
"""Folders below this one belong to the name."""
_CROWDED = 48
"""A key with more roles than this is a word that all names share."""
_PAIRS_TRIED = 24
_WITHIN = 0.8
"""Share of the files of a role that stand beside the role it is joined to."""
_WHOLE_NAME = "*"
_REGULAR = 3
_SPLIT = re.compile(
    r"(?:(train(?:ing)?)|(val(?:id(?:ation)?)?|dev)|(test(?:ing)?|holdout|eval(?:uation)?|unseen))"
    r"(?:sets?|datasets?|data|images?|imgs?|masks?|labels?|annot\w*|gt)?(\d*|[a-d])",
    re.IGNORECASE,
)
"""With a number or a letter behind it, as in COCO's ``train2017`` and in ``testB``."""
_WORDS = re.compile(r"[\W_]+")
_SPLIT_ENDING = re.compile(r"(?<=[a-z])(?:(Tr)|(Va|Val)|(Ts|Te))$")
"""As in nnU-Net's ``imagesTr``."""
_TRAINVAL = re.compile(r"train(?:ing)?[\W_]*val", re.IGNORECASE)
_SPLITS = ("train", "val", "test")


@dataclass(frozen=True, order=True)
class Role:
    """What the names of one kind of file have in common."""

    folders: tuple[str, ...]  # names of folders, "*" where they are the case's
    before: str = ""
    after: str = ""
    whole: bool = False  # whether the name says nothing of the case, as ``imaging.nii.gz``

    @property
    def pattern(self) -> str:
        """As a person would write it: ``images/bus_*``."""
        name = self.before if self.whole else f"{self.before}*{self.after}"
        return "/".join((*self.folders, name))


Key = tuple[str, ...]
Places = Mapping[Path, tuple[Key, tuple[str, ...], str]]
"""Of every file the folders that are its case's, those that are its role's, and its name."""


@dataclass(frozen=True)
class Reading:
    """One way to read the names: for every key the file of each role, and the files that fit nowhere."""

    cases: Mapping[Key, Mapping[Role, Path]]
    left: tuple[Path, ...]

    @property
    def roles(self) -> list[Role]:
        """Every role, in order."""
        return sorted({role for files in self.cases.values() for role in files})

    def files(self, role: Role) -> list[Path]:
        """The files of a role."""
        return [files[role] for files in self.cases.values() if role in files]


def split_in(*folders: str) -> str:
    """``train``, ``val`` or ``test`` by the name of a folder: ``Training_Input``, ``test``, ``imagesTs``."""
    return _set_in(*folders)[0]


def _set_in(*folders: str) -> tuple[str, str]:
    """The split by the name of a folder, and what tells it from others of the split: ``holdout``, ``2``."""
    for folder in folders:
        words = _WORDS.split(folder)
        for place, word in enumerate(words, 1):
            found = _SPLIT.fullmatch(word)
            if found is not None:
                split, own = _first_group(found)
                number = found.group(4) or next((one for one in words[place:] if _is_tag(one)), "")
                own = "" if own.startswith(split) else own[:4]  # eval and evaluation are one
                return split, own + number.lower()
        if (found := _SPLIT_ENDING.search(folder)) is not None:
            return _first_group(found)[0], ""
    return "", ""


def _is_tag(word: str) -> bool:
    """Whether a word tells sets of a split apart; x and y are image and mask."""
    return word.isdecimal() or (len(word) == 1 and word.lower() not in "xy")


def _first_group(found: re.Match[str]) -> tuple[str, str]:
    return next((s, word.lower()) for s, word in zip(_SPLITS, found.groups(), strict=False) if word)


def readings(
    folder: Path, files: Sequence[Path], by_format: bool = False, by_number: bool = False
) -> Iterator[Reading]:
    """Ways to read the names of ``files`` in ``folder``, the likeliest first.

    With ``by_format`` the format is part of the name, so that ``1.jpg`` and ``1.png`` are two roles; with
    ``by_number`` 7 and 007 are one number.

    The likeliest makes most cases of more than one file; then leaves the fewest files over; then has the
    shortest roles.
    """
    within = {path.parent for path in files}
    parts = {path: _folders(folder, path, path in within) for path in files}
    aligned = [parts, *_aligned(parts), *_without_repeated_numbers(parts)]
    depth = min(_DEEPEST, max((len(names) for names in aligned[-1].values()), default=0))
    ranked: dict[tuple[bool, int, int, int, int, tuple[Role, ...]], Reading] = {}
    # A and B may be two sets, or the images and the masks of one.
    ways = (True, False) if any(_set_in(*names)[1] for names in {*parts.values()}) else (True,)
    for by_tag, names, of_case in product(ways, aligned, product((False, True), repeat=depth)):
        for found in _cut(names, of_case, by_format, by_number, by_tag):
            several = sum(len(joined) > 1 for joined in found.cases.values())
            if several and not any(_are_of_two_splits(*one, by_tag=by_tag) for one in found.cases.values()):
                length = sum(len(role.pattern) for role in found.roles)
                rank = (not by_tag, -several, len(found.left), length, sum(of_case), tuple(found.roles))
                ranked.setdefault(rank, found)
    # Where a folder per case always holds the same names, no number within these tells cases apart.
    is_regular = any(_is_regular(found) for found in ranked.values())
    if by_number:
        yield from _by_numbers(folder, files)
    yield from (
        ranked[rank]
        for rank in sorted(
            ranked,
            key=lambda rank: (rank[0], is_regular and (rank[2] > 0 or _is_by_number(ranked[rank])), rank),
        )
    )


def _by_numbers(folder: Path, files: Sequence[Path]) -> Iterator[Reading]:
    """Files that share nothing but a number, wherever in their paths: ``PATIENT_07/ct`` and ``label007``."""
    alike: dict[Role, dict[Path, list[int]]] = defaultdict(dict)
    for path in files:
        *folders, name = (*_folders(folder, path), stem(path))
        bare = tuple(_WHOLE_NAME if _NUMBERED.search(one) else one for one in folders)
        role = Role(bare, _DIGITS.sub(_WHOLE_NAME, normal(name)), whole=True)
        alike[role][path] = [int(n) for one in (*folders, name) for n in _DIGITS.findall(one)]
    roles = sorted(
        (role for role in alike if len(alike[role]) > 1), key=lambda role: (-len(alike[role]), role)
    )
    found = []
    for first, second in combinations(roles[:_NUMBERED_ROLES], 2):
        if _are_of_two_splits(first, second, by_tag=False):
            continue
        for one, other in product(_distinct(alike[first]), _distinct(alike[second])):
            shared = one.keys() & other.keys()
            if len(shared) > 1 and len(shared) >= _WITHIN * min(len(one), len(other)):
                cases: dict[Key, dict[Role, Path]]
                cases = {(str(n),): {first: one[n], second: other[n]} for n in shared}
                used = {path for pair in cases.values() for path in pair.values()}
                found.append(Reading(cases, tuple(path for path in files if path not in used)))
    yield from sorted(found, key=lambda reading: len(reading.left))


def _distinct(numbers: Mapping[Path, list[int]]) -> Iterator[dict[int, Path]]:
    """Files by the numbers at each place of their paths where no two have the same."""
    for place in range(min(map(len, numbers.values()))):
        by_number = {several[place]: path for path, several in numbers.items()}
        if len(by_number) == len(numbers):
            yield by_number


def _is_regular(reading: Reading) -> bool:
    """Whether every case has a file of each name, three names at least, and none is left."""
    roles = {frozenset(files) for files in reading.cases.values()}
    (first, *others) = roles
    return (
        not reading.left
        and not others
        and len(reading.cases) > 1
        and len(first) >= _REGULAR
        and all(role.whole for role in first)
    )


def _is_by_number(reading: Reading) -> bool:
    """Whether folders that are numbers stand for kinds of files, as they do for cases."""
    return any(folder.isdecimal() for role in reading.roles for folder in role.folders)


def _aligned(parts: Mapping[Path, tuple[str, ...]]) -> list[dict[Path, tuple[str, ...]]]:
    """The folders with those of one name at one depth: ``p1/dwi`` beside ``derivatives/p1``."""
    deepest: dict[str, int] = {}
    moved = False
    for names in parts.values():
        for depth, name in enumerate(names):
            moved |= deepest.setdefault(name, depth) != depth
            deepest[name] = max(deepest[name], depth)
    if not moved:
        return []
    shifts = {
        names: max((deepest[name] - depth for depth, name in enumerate(names)), default=0)
        for names in set(parts.values())
    }
    return [{path: ("",) * shifts[names] + names for path, names in parts.items()}]


def _without_repeated_numbers(parts: Mapping[Path, tuple[str, ...]]) -> list[dict[Path, tuple[str, ...]]]:
    """The folders without numbers that all names in them repeat: ``Slide_03/03_1`` beside ``GT_03/03_1``."""
    repeats: dict[tuple[int, str], bool] = {}
    for path, names in parts.items():
        told = {*_DIGITS.findall(stem(path))}
        for place in enumerate(names):
            own = {*_DIGITS.findall(place[1])}
            repeats[place] = repeats.get(place, True) and bool(own) and own <= told
    if not any(repeats.values()):
        return []
    bare = {place: _DIGITS.sub(_WHOLE_NAME, place[1]) if repeats[place] else place[1] for place in repeats}
    return [{path: tuple(bare[place] for place in enumerate(names)) for path, names in parts.items()}]


def _are_of_two_splits(*roles: Role, by_tag: bool = True) -> bool:
    """Whether files of these roles are no case: ``train/1.png`` and ``test/1.png`` are two.

    So are ``test1/1.png`` and ``test2/1.png`` where ``by_tag``. Neither are
    ``images/1.png`` and ``unlabelled/1.png``.
    """
    if len({any(_UNLABELLED.search(folder) for folder in role.folders) for role in roles}) > 1:
        return True
    sets = {_set_in(*role.folders)[: 1 + by_tag] for role in roles if not _is_trainval(role)}
    sets -= {("", ""), ("",)}
    # What is training and validation together is no test.
    together = any(map(_is_trainval, roles))
    return len(sets) > 1 or (together and any(split != "train" for split, *_ in sets))


def _is_trainval(role: Role) -> bool:
    return any(_TRAINVAL.search(folder) for folder in role.folders)


def _folders(folder: Path, path: Path, holds_others: bool = False) -> tuple[str, ...]:
    """The folders of a file, or of the files of a series beside which others lie in its folder."""
    parts = path.relative_to(folder).parts
    return parts if holds_others else parts[:-1]


def _cut(
    parts: Mapping[Path, tuple[str, ...]],
    of_case: tuple[bool, ...],
    by_format: bool,
    by_number: bool,
    by_tag: bool,
) -> Iterator[Reading]:
    """Readings where the folders at some depths are the case's and those at the others the role's."""
    places: Places = {
        path: (*_place(names, of_case, normal(stem(path))), path.name if by_format else _name(path))
        for path, names in parts.items()
    }
    if any(of_case) or len(parts) <= 2:
        yield _by_whole_names(places)
    yield from _by_shared_stems(places, by_number, by_tag)


def _place(names: tuple[str, ...], of_case: tuple[bool, ...], file: str) -> tuple[Key, tuple[str, ...]]:
    """Of a file's folders those that are its case's, and those that are its role's.

    A folder with a number that the file's name repeats, as in ``GT/p07/p07_cup``, is neither.
    """
    owned = [(name, own) for name, own in zip_longest(names, of_case[: len(names)], fillvalue=False) if name]
    key = tuple(normal(str(name)) for name, own in owned if own)
    repeated = {name for name, _ in owned if _NUMBERED.search(str(name)) and normal(str(name)) in file}
    return key, tuple(
        _WHOLE_NAME if own or name in repeated else _without(key, str(name)) for name, own in owned
    )


def _without(key: Key, name: str) -> str:
    """A name with what the case's folders are called taken out; the ``1`` of ``t1`` is no folder ``1``."""
    for own in sorted(key, key=len, reverse=True):
        alone = rf"(?<![^\W_]){re.escape(own)}(?![^\W_])" if len(own) == 1 else re.escape(own)
        if re.search(alone, normal(name)):
            return re.sub(alone, _WHOLE_NAME, normal(name))
    return name


def _by_whole_names(places: Places) -> Reading:
    """``case_7/imaging.nii.gz`` beside ``case_7/segmentation.nii.gz``; the case's name may be part of it."""
    roles = {
        path: Role(folders, _without(key, normal(name)), whole=True)
        for path, (key, folders, name) in places.items()
    }
    counts = Counter(roles.values())
    cases: dict[Key, dict[Role, Path]] = defaultdict(dict)
    left: list[Path] = []
    has_cases = any(key for key, _, _ in places.values())
    for path, (key, folders, _) in places.items():
        role = roles[path]
        if has_cases and not key:  # a test set without folders for its cases
            left.append(path)
            continue
        if counts[role] == 1 and folders[-1:] not in ((), (_WHOLE_NAME,)):
            # Files with names of their own in a folder of their case, such as a mask per object: numbered.
            number = 1 + sum(other.folders == folders for other in cases[key])
            role = Role(folders, str(number), whole=True)
        if cases[key].setdefault(role, path) is not path:
            left.append(path)
    return Reading(cases, tuple(left))


def _by_shared_stems(places: Places, by_number: bool, by_tag: bool) -> Iterator[Reading]:
    """Readings by what remains of the names when their beginnings and ends are taken off."""
    cuts: dict[Role, dict[Key, Path]] = defaultdict(dict)
    for path, (key, folders, name) in places.items():
        ending = name[len(stem(path)) :]
        for before, middle, after in _splits(normal(stem(path))):
            middle = _PADDING.sub("", middle) if by_number else middle
            cuts[Role(folders, before, after + ending)].setdefault((*key, middle), path)
    if len(places) > _CROWDED:  # a beginning or an end that hardly any file has is part of a name
        cuts = {role: files for role, files in cuts.items() if len(files) > 1}
    roles_of: dict[Key, list[Role]] = defaultdict(list)
    for role, files in cuts.items():
        for key in files:
            roles_of[key].append(role)
    together: Counter[tuple[Role, Role]] = Counter()
    for roles in roles_of.values():
        if 1 < len(roles) <= _CROWDED:
            together.update(combinations(sorted(roles), 2))
    best = sorted(together, key=lambda pair: (-together[pair], _length(pair), pair))[:_PAIRS_TRIED]
    beside: dict[Role, list[Role]] = defaultdict(list)
    for first, second in together:
        beside[first].append(second)
        beside[second].append(first)
    for first, second in best:
        if not _are_of_two_splits(first, second, by_tag=by_tag):
            others = [r for r in beside[first] if not _are_of_two_splits(r, first, second, by_tag=by_tag)]
            yield _joined((first, second), others, cuts, places)


def _joined(
    pair: tuple[Role, Role],
    others: Sequence[Role],
    cuts: Mapping[Role, Mapping[Key, Path]],
    places: Places,
) -> Reading:
    """The reading of two roles, and of every further one whose files stand beside those of the first."""
    anchor = cuts[pair[0]]
    further = sorted(set(others) - {pair[1]}, key=lambda role: (-len(cuts[role]), _length((role,)), role))
    owner: dict[Path, tuple[Role, Key]] = {}
    for role in (pair[1], *further):
        files = cuts[role]
        here = {key: path for key, path in files.items() if key in anchor and path not in owner}
        if here and (role == pair[1] or len(here) >= _WITHIN * len(files)):
            owner |= {path: (role, key) for key, path in here.items()}
        if role == pair[1]:  # what the two share is theirs: the 1 of 0_manual1 is no case
            owner |= {anchor[key]: (pair[0], key) for key in here if anchor[key] not in owner}
    owner |= {path: (pair[0], key) for key, path in anchor.items() if path not in owner}
    cases: dict[Key, dict[Role, Path]] = defaultdict(dict)
    for path, (role, key) in owner.items():
        cases[key][role] = path
    return Reading(cases, tuple(path for path in places if path not in owner))


def _name(path: Path) -> str:
    """Name without the format, but of annotations with it: ``x.json`` is not ``x.png``."""
    return path.name if polygons.may_be(path) else stem(path)


def _splits(name: str) -> Iterator[tuple[str, str, str]]:
    """A name cut into a beginning, a middle with a letter or digit at both ends, and an end."""
    pieces = _PIECE.findall(name)
    solid = [piece[0].isalnum() for piece in pieces]
    for first in range(min(len(pieces), _PIECES_BEFORE + 1)):
        if first and not solid[first]:
            continue
        for last in range(max(first + 1, len(pieces) - _PIECES_AFTER), len(pieces) + 1):
            if last < len(pieces) and not solid[last - 1]:
                continue
            yield "".join(pieces[:first]), "".join(pieces[first:last]), "".join(pieces[last:])


def _length(roles: Sequence[Role]) -> int:
    return sum(len(role.before) + len(role.after) for role in roles)
