"""The pictures of a folder or of a list, on disk or behind any URL that fsspec opens, and one of them as a copy."""

from hashlib import sha256
from pathlib import Path
from shutil import copyfileobj
from typing import Any, NamedTuple

import pandas as pd

from tll_utils import runtime
from tll_utils.search.pictures import NoPicturesError, Picture, copied, find, is_meant, problem_of

REMEDY = "pip install 'tll-utils[cluster]'"
LISTS = (".txt", ".csv")


class Sources(NamedTuple):
    """Pictures, each once, and where they are."""

    ids: list[str]
    places: list[str]  # absolute paths and URLs


def find_sources(source: str) -> Sources:
    """The pictures of a folder with its sub-folders, or those that a list names; source: a path or URL.

    A list is a text file with a path or URL in every line, or a CSV with the column picture; relative paths start where
    the list is. Ids are paths relative to the folder, or what the list says. Raises NoPicturesError.
    """
    system, path = file_system(source)
    if system.isdir(path):
        found = _of_folder(system, path)
    elif system.isfile(path) and path.lower().endswith(LISTS):
        found = _of_list(system, path, source)
    else:
        raise NoPicturesError(f"{source}: give a folder, or a list of paths or URLs, {' or '.join(LISTS)}")
    if not found:
        raise NoPicturesError(f"{source} names no picture: give another folder or list")
    return Sources([*found], [*found.values()])


def file_system(url: str) -> tuple[Any, str]:
    """The fsspec file system of a path or URL, and the path in it. Raises ValueError where a package is missing."""
    try:
        import fsspec

        return fsspec.url_to_fs(url)
    except (ImportError, ValueError) as error:  # fsspec itself, or what opens this kind of URL
        raise ValueError(f"{url}: {error} — {REMEDY}, and for URLs what opens them, such as s3fs or gcsfs") from error


def copy_of(folder: Path, name: str, place: str) -> Path | str:
    """The normalised copy, made in the folder, of the picture at a place; or in one line why there is none."""
    picture = Picture(name, Path(place))
    try:
        if "://" in place:
            system, path = file_system(place)
            picture = Picture(name, folder / f"{sha256(place.encode()).hexdigest()}.fetched")
            with system.open(path, "rb") as source, open(str(picture.file), "wb") as target:
                copyfileobj(source, target)
    except FileNotFoundError:
        pass  # `copied` says so in its words
    except Exception as error:  # every file system has its own
        return " ".join(problem_of(error, picture).split())
    return copied(folder, picture)[1]


def _of_folder(system: Any, path: str) -> dict[str, str]:
    if "file" in system.protocol:
        return {picture.id: str(picture.file) for picture in find(Path(path))[0]}
    files = sorted(file for file in system.find(path) if is_meant(Path(file)))
    return {file.removeprefix(path).lstrip("/"): system.unstrip_protocol(file) for file in files}


def _of_list(system: Any, path: str, source: str) -> dict[str, str]:
    remedy = "give UTF-8, a path or URL in every line, or a CSV with the column picture"
    with runtime.damage_named(Path(source), remedy), system.open(path, "rb") as file:
        if path.lower().endswith(".csv"):
            names = pd.read_csv(file, dtype=str, encoding="utf-8", usecols=["picture"])["picture"].dropna()
        else:
            names = file.read().decode("utf-8").splitlines()
    names = [name.strip() for name in names if name.strip()]
    for protocol in {name.partition("://")[0] for name in names if "://" in name}:
        file_system(f"{protocol}://")  # what is missing is said now
    parent = system.unstrip_protocol(path).removeprefix("file://").rpartition("/")[0]
    return {name: name if "://" in name or name.startswith("/") else f"{parent}/{name}" for name in names}
