"""Pictures → embeddings as a folder of Parquet, by Ray workers on one machine or many; what is done stays done.

A row: id; embedding, the `vectors` of a model, float32 of fixed length; hash_whole and hash_cropped, `hash_bits` as
uint64; face, whether `find_faces` finds one, where asked for; problem, why a picture cannot be used. All but the id are
null where there is none. Every machine needs this package, and sees pictures and folder under the same names.
"""

import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from PIL import Image

from tll_utils import runtime
from tll_utils.data.folds import hash_bits
from tll_utils.data.images import HEIGHT, WIDTH, Images
from tll_utils.features.faces import find_faces
from tll_utils.runtime import locked, prefetch
from tll_utils.search.saving import load
from tll_utils.search.sources import REMEDY, Sources, copy_of, file_system, find_sources
from tll_utils.search.tree import fingerprint
from tll_utils.search.vectors import SIDES, adapter_of, vectors

SETTINGS = "_embeddings.json"  # readers of Parquet pass over names that start with "_"
BATCH = 256  # pictures; their pixels and features take about 100 MB
PART = 1024  # pictures of a file at most: what a kill costs a worker
RESTARTS = 3  # of a worker that dies
CORES, MEMORY = 2, 3 * 2**30  # of a worker, which holds TensorFlow and the network
READERS = 8  # threads of a worker that fetch and decode


class Summary(NamedTuple):
    """Numbers of pictures: in the folder before, added, and those of the added ones that cannot be used."""

    there: int
    added: int
    problems: int


# --- a worker -------------------------------------------------------------------


class Embedder:
    """What every Ray worker makes once, and calls with batches: Arrow tables of id and place → tables of rows.

    A batch goes the way of `collect`, through copies of 200×245, but in a folder that is deleted behind it.
    """

    def __init__(self, model: str, side: str, faces: bool):
        os.environ["TLL_PROGRESS"] = "0"
        cores = os.environ.get("OMP_NUM_THREADS") or "1"  # of this worker, says Ray
        os.environ["TF_NUM_INTRAOP_THREADS"] = os.environ["LOKY_MAX_CPU_COUNT"] = cores
        self.method, self.side, self.faces = load(model), SIDES.index(side), faces
        with TemporaryDirectory() as folder:
            os.environ["TLL_CACHE"] = folder
            Image.new("RGB", (WIDTH, HEIGHT)).save(blank := Path(folder, "blank.jpg"))
            self.width = vectors(self.method, Images(["blank"], [blank]), self.side).shape[1]

    def __call__(self, batch: Any) -> Any:
        ids, places = (batch[column].to_pylist() for column in ("id", "place"))
        with TemporaryDirectory() as folder:
            os.environ["TLL_CACHE"] = folder
            copies = list(
                prefetch(lambda i: copy_of(Path(folder), ids[i], places[i]), range(len(ids)), workers=READERS)
            )
            return self._table(ids, copies)

    def _table(self, ids: list[str], copies: list[Path | str]) -> Any:
        import pyarrow as pa  # pyright: ignore[reportMissingImports]

        rows = [row for row, copy in enumerate(copies) if isinstance(copy, Path)]
        images = Images([ids[row] for row in rows], [Path(copies[row]) for row in rows])
        embeddings, hashes = np.zeros((len(ids), self.width), np.float32), np.zeros((len(ids), 2), np.uint64)
        is_missing, face = np.full(len(ids), True), np.zeros(len(ids), bool)
        if rows:
            embeddings[rows] = vectors(self.method, images, self.side)
            is_missing[rows] = False
            bits = np.stack(list(prefetch(lambda row: hash_bits(images, row), range(len(rows)))))
            hashes[rows] = np.packbits(bits, axis=2).view(np.uint64)[..., 0]
        if self.faces:
            face[rows] = list(prefetch(lambda row: len(find_faces(images[row])) > 0, range(len(rows))))
        columns = {
            "id": pa.array(ids, pa.string()),
            "embedding": pa.FixedSizeListArray.from_arrays(embeddings.ravel(), self.width, mask=pa.array(is_missing)),
            "hash_whole": pa.array(hashes[:, 0], mask=is_missing),
            "hash_cropped": pa.array(hashes[:, 1], mask=is_missing),
            **({"face": pa.array(face, mask=is_missing)} if self.faces else {}),
            "problem": pa.array([None if isinstance(copy, Path) else copy for copy in copies], pa.string()),
        }
        return pa.table(columns)


# --- a run ----------------------------------------------------------------------


def embed_pictures(
    source: str,
    out: str,
    model: Path,
    *,
    side: str = "right",
    faces: bool = False,
    cluster: str | None = None,
    workers: int | None = None,
) -> Summary:
    """Add to the Parquet folder `out` the rows of those pictures of a folder or list that it lacks.

    source, out: paths or URLs; model: folder of a saved one; cluster: address of a Ray cluster, without one Ray is
    started here; workers: by default as many as cores and memory are there for, or GPUs. A run may be killed at any
    moment: parts that it left unfinished are removed by the next one. Raises ValueError where `out` holds something
    else or embeddings of another kind, or where packages are missing.
    """
    ray = _ray()
    adapter_of(method := load(model))
    sources, (system, folder) = find_sources(source), file_system(out)
    with locked(Path(folder)) if "file" in system.protocol else nullcontext():
        facts = {"model": fingerprint(method), "side": side, "faces": faces}
        _check_settings(system, folder, out, facts)
        there = read_parts(system, folder, ["id"])["id"]
        todo = np.flatnonzero(~pd.Index(sources.ids).isin(there))
        if len(todo):
            with _session(ray, cluster):
                _run(ray, sources, todo, (system, folder), (str(model), side, faces), workers)
        rows = read_parts(system, folder, ["id", "problem"]).set_index("id")
    added = rows.loc[[sources.ids[row] for row in todo], "problem"]
    return Summary(len(sources.ids) - len(todo), len(todo), int(added.notna().sum()))


def read_parts(system: Any, folder: str, columns: list[str]) -> pd.DataFrame:
    """Some columns of all finished parts of a folder; parts that a killed run left without their end are removed."""
    from pyarrow import parquet  # pyright: ignore[reportMissingImports]

    tables = [pd.DataFrame(columns=columns)]
    for part in sorted(system.glob(f"{folder}/*.parquet")):
        try:
            with system.open(part, "rb") as file:
                tables.append(parquet.read_table(file, columns=columns).to_pandas())
        except ValueError:  # ArrowInvalid is one
            system.rm_file(part)
    return pd.concat(tables, ignore_index=True)


def _run(ray: Any, sources: Sources, todo: np.ndarray, out: tuple[Any, str], make: tuple, workers: int | None) -> None:
    import pyarrow as pa  # pyright: ignore[reportMissingImports]

    there = ray.cluster_resources()
    gpus, cores = int(there.get("GPU", 0)), int(there["CPU"])
    workers = workers or gpus or max(1, min(cores // CORES, int(there["memory"] // MEMORY)))
    n_parts = min(len(todo), max(4 * workers, -(-len(todo) // PART)))
    table = pa.table({"id": [sources.ids[row] for row in todo], "place": [sources.places[row] for row in todo]})
    rows = ray.data.from_arrow(table, override_num_blocks=n_parts).map_batches(
        Embedder,
        fn_constructor_args=make,
        batch_format="pyarrow",
        batch_size=min(BATCH, -(-len(todo) // n_parts)),  # Ray would join parts to fill a batch
        compute=ray.data.ActorPoolStrategy(size=min(workers, n_parts)),
        num_cpus=max(1, min(CORES, cores // workers)),
        num_gpus=min(1, gpus),
        max_restarts=RESTARTS,  # by default without end, also where memory will never do
        max_task_retries=RESTARTS,
    )
    try:
        options = {"use_dictionary": False, "ray_remote_args": {"num_cpus": 0}}  # the workers may hold all cores
        rows.write_parquet(out[1], filesystem=out[0], **options)
    except ray.exceptions.RayError as error:
        reason = str(error).strip().splitlines()[-1]
        raise RuntimeError(f"{out[1]}: a worker failed ({reason}): run it again, which goes on from there") from error


def _check_settings(system: Any, folder: str, out: str, facts: dict[str, Any]) -> None:
    """Write what the embeddings are made by, or compare it with what is there."""
    path = f"{folder}/{SETTINGS}"
    if not system.exists(path):
        if system.exists(folder) and system.ls(folder):
            raise ValueError(f"{out} holds something other than embeddings: name another folder")
        system.makedirs(folder, exist_ok=True)
        system.pipe_file(path, json.dumps(facts).encode())
    with runtime.damage_named(Path(out, SETTINGS), "name another folder"):
        known = json.loads(system.cat_file(path))
    if different := [name for name in facts if known.get(name) != facts[name]]:
        raise ValueError(f"{out} holds embeddings with another {', '.join(different)}: name another folder")


@contextmanager
def _session(ray: Any, cluster: str | None) -> Iterator[None]:
    """A connection to Ray, unless there is one."""
    if ray.is_initialized():
        yield
        return
    own = {} if cluster else {"include_dashboard": False, "object_store_memory": 2**29}
    try:
        ray.init(cluster or "local", log_to_driver=False, logging_level="ERROR", **own)
    except ConnectionError as error:
        raise ValueError(f"--cluster {cluster}: {error}") from error
    try:
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = os.environ.get("TLL_PROGRESS") != "0"
        yield
    finally:
        ray.shutdown()


def _ray() -> Any:
    """Ray with its data library. Raises ValueError with the remedy where it is missing."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is reported to its makers
    try:
        import ray.data  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ValueError(f"{error}: this needs Ray — {REMEDY}") from error
    logging.getLogger("ray.data").setLevel(logging.ERROR)  # it explains every plan
    return ray
