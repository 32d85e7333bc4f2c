"""Listing of images in class folders, laid out as for torchvision's ImageFolder."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vigmpi.datasets.file_tree import listed, printable
from vigmpi.datasets.image_names import SkippedFiles
from vigmpi.datasets.image_tree import Folder, image_tree
from vigmpi.datasets.random_split import choose_test_images
from vigmpi.errors import InputError
from vigmpi.phase import Phase

LAYOUT = "the layout train/CLASS/IMAGE and test/CLASS/IMAGE"
_TRAIN, _TEST = ("train", "training"), ("test", "testing")
_VALIDATION = ("val", "valid", "validation")
_ROLES = {*_TRAIN, *_TEST, *_VALIDATION}


@dataclass(frozen=True)
class Listing:
    """Image files of both phases.

    Attributes:
        class_names: sorted names of the class folders; a label is an index into them.
        files: names of the members, sorted by their path below the folder of their phase.
        labels: class of each file, [images].
        remarks: phrases that say how the folders were understood and what was left out.
    """

    class_names: tuple[str, ...]
    files: dict[Phase, list[str]]
    labels: dict[Phase, list[int]]
    remarks: tuple[str, ...]

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Listing":
        """Return the listing whose fields JSON has stored."""
        files, labels = (
            {Phase(phase): rows for phase, rows in values[name].items()}
            for name in ("files", "labels")
        )
        return cls(tuple(values["class_names"]), files, labels, tuple(values["remarks"]))


def list_images(
    members: Iterable[tuple[str, bool]], source: Path, test_share: float = 0.0
) -> Listing:
    """List the images of each class.

    Class folders are in `train/` and `test/`, or in folders of the same meaning (`_TRAIN`, `_TEST`,
    `_VALIDATION`, in any case). If none of them holds test images, `test_share` splits off some.
    All may be in one enclosing folder, or several. Folders within a class folder belong to its
    class.

    Args:
        members: name of each member and whether it is a folder.
        source: folder or archive, for an error message.
        test_share: fraction of each class's images to test on; 0 if the folders tell.

    Raises:
        InputError: if the layout differs, a class has no images or the phases differ in classes.
    """
    top, skipped = image_tree(members)
    root = _root(top)
    train, test, remarks = _phases(root, source, test_share, skipped)
    if test:
        _check_classes({Phase.TRAIN: train, Phase.TEST: test}, skipped)
        paths = {Phase.TRAIN: dict(train.paths()), Phase.TEST: dict(test.paths())}
    else:
        _check_classes({Phase.TRAIN: train}, skipped)
        all_paths = dict(train.paths())
        chosen = choose_test_images(all_paths, test_share)
        paths = {
            Phase.TRAIN: {path: all_paths[path] for path in all_paths.keys() - chosen},
            Phase.TEST: {path: all_paths[path] for path in chosen},
        }
        remarks.append(
            f"{len(chosen):,} images, {test_share:g} of each class by a hash of their names, are "
            f"the test images"
        )
    if text := str(skipped):
        remarks.append(f"skipped files: {text}")
    class_names = tuple(sorted(train.folders))
    label = {name: i for i, name in enumerate(class_names)}
    order = {phase: sorted(paths[phase]) for phase in Phase}
    return Listing(
        class_names,
        {phase: [paths[phase][path] for path in order[phase]] for phase in Phase},
        {phase: [label[path[0]] for path in order[phase]] for phase in Phase},
        tuple(remarks),
    )


def _root(folder: Folder) -> Folder:
    """Return the innermost folder that encloses everything."""
    if folder.images or len(folder.folders) != 1:
        return folder
    [(name, only)] = folder.folders.items()
    return folder if name.lower() in _ROLES else _root(only)


def _phases(
    root: Folder, source: Path, test_share: float, skipped: SkippedFiles
) -> tuple[Folder, Folder | None, list[str]]:
    """Return the folders of the training and the test images, and remarks about them.

    If there is no folder of test images, they are to be split off.
    """
    where = f"{printable(root.path)} in {source}" if root.path else str(source)
    train, test, validation = (_with_role(root, role) for role in (_TRAIN, _TEST, _VALIDATION))
    test = test or validation
    for folders in (train, test):
        if len(folders) > 1:
            names = " and ".join(printable(each.path) for each in folders)
            raise InputError(f"ambiguous folders: {names} in {where}. Keep one of them.")
    if test and not train:
        raise InputError(f"no training images: {where} contains {_contents(root)}. Use {LAYOUT}.")
    if not root.num_images():
        raise InputError(f"no images: {where}{_in_parentheses(skipped)}. Use {LAYOUT}.")
    if not root.folders:
        raise InputError(f"no class folders: {where} contains {_contents(root)}. Use {LAYOUT}.")
    used = [*train, *test] or [root]
    for folder in used:
        _check_nesting(folder)
    if not test and not test_share:
        raise InputError(
            f"no test images: {where} contains {_contents(root)}. Use --test-share 0.2 to set "
            f"aside a fifth of each class, or {LAYOUT}."
        )
    if test and test_share:
        raise InputError(
            f"test images exist: --test-share {test_share:g} for {source} with "
            f"{printable(test[0].path)}. Omit --test-share."
        )
    if not train:
        return root, None, []
    remarks = []
    if test and test == validation:
        remarks.append(f"{printable(test[0].path)} holds the test images")
    unused = [each for each in root.folders.values() if each not in used and each.num_images()]
    if not test and (classes := [each for each in unused if not _has_role(each)]):
        names = listed([printable(each.path) for each in classes])
        raise InputError(
            f"ambiguous folders: {printable(train[0].path)} may be the training images, or a class "
            f"like {names}. Use {LAYOUT}."
        )
    texts = [f"{printable(each.path)} (images: {each.num_images():,})" for each in unused]
    texts += [printable(name) for name in root.images.values()]
    if texts:
        remarks.append(f"not used: {listed(texts)}")
    return train[0], test[0] if test else None, remarks


def _has_role(folder: Folder) -> bool:
    return folder.path.rstrip("/").rpartition("/")[2].lower() in _ROLES


def _with_role(root: Folder, role: Sequence[str]) -> list[Folder]:
    """Return the folders that are named for a role; a class of this name has no folders."""
    return [f for name, f in root.folders.items() if name.lower() in role and f.folders]


def _contents(folder: Folder) -> str:
    """Return what is in a folder: its folders, and images outside of them."""
    folders = [f"{printable(name)}/" for name in sorted(folder.folders)]
    texts = [listed(folders)] if folders else []
    if folder.images:
        name = printable(min(folder.images))
        texts.append(f"images outside of folders ({len(folder.images):,}, the first: {name})")
    return " and ".join(texts)


def _check_nesting(root: Folder) -> None:
    """Raise InputError if class folders contain what seems to be training and test images."""
    classes = root.folders.values()
    inner = [each.path for each in classes if _has_role(each) and each.folders]
    inner += [below.path for each in classes for below in each.folders.values() if _has_role(below)]
    if inner:
        names = listed([printable(path) for path in inner])
        raise InputError(f"training or test images within class folders: {names}. Use {LAYOUT}.")


def _check_classes(phases: dict[Phase, Folder], skipped: SkippedFiles) -> None:
    stray = [name for folder in phases.values() for name in folder.images.values()]
    if stray:
        names = listed([printable(name) for name in stray])
        raise InputError(f"not in a class folder: {names}. Use {LAYOUT}.")
    empty = [
        printable(each.path)
        for folder in phases.values()
        for _, each in sorted(folder.folders.items())
        if not each.num_images()
    ]
    if empty:
        raise InputError(
            f"class without images: {listed(empty)}{_in_parentheses(skipped)}. Remove the folder "
            f"or add images."
        )
    missing = [
        f"{printable(other.path)}{printable(name)}/"
        for folder in phases.values()
        for other in phases.values()
        for name in sorted(folder.folders.keys() - other.folders.keys())
    ]
    if missing:
        raise InputError(
            f"missing class folders: {listed(missing)}. Use the same classes for training and test."
        )


def _in_parentheses(skipped: SkippedFiles) -> str:
    return f" (skipped files: {skipped})" if str(skipped) else ""
