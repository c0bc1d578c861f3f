"""The commands for one's own pictures and models: look-alikes, fit, evaluate; what is slow is imported by each."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from tll_utils import runtime

DEFAULT_METHOD = "best"
SHIPPED = "adapter_lite0_small_border_neutral"  # comes with the package: Lite0 features, no faces
INDEX_HELP = (
    "for large folders or many runs: an index of the pictures, made where it is missing, to which new pictures are "
    "added. Near-duplicates are shown, and scores are not divided into parts. Needs faiss and the model of the package "
    "or an adapter like it"
)

Arguments = argparse.Namespace


def look_alikes(arguments: Arguments) -> None:
    """Find the look-alikes of every picture of a folder or zip, and write a page of them."""
    import pandas as pd

    from tll_utils.search.gallery import write_page
    from tll_utils.search.look_alikes import indexed_look_alikes, look_alikes
    from tll_utils.search.pictures import collect

    method = fitted(arguments.model)
    gallery = collect(arguments.folder)
    queries = collect(arguments.query) if arguments.query else gallery
    sides, top, keep = (
        (queries.images, gallery.images),
        arguments.top,
        arguments.keep_near_duplicates or arguments.index,
    )
    if arguments.index:
        table = indexed_look_alikes(method, *sides, arguments.index, top=top)
    else:
        table = look_alikes(method, *sides, top=top, keep_near_duplicates=keep)
    unreadable = pd.concat([gallery.unreadable, queries.unreadable]).drop_duplicates()
    copies = "each shown" if keep or arguments.index else "left out, or named beside the one that is shown"
    texts = {"title": f"Look-alikes in {arguments.folder.name}"}
    texts["model_text"] = f"Compared by {arguments.model}. Near-duplicates are {copies}."
    page = write_page(table, *sides, unreadable, arguments.out, **texts)
    for file, problem in unreadable.itertuples(index=False):
        print(f"left out: {file}: {problem}", file=sys.stderr)
    print(f"{len(queries.images)} pictures answered from {len(gallery.images)}: open {page}")


def fit(arguments: Arguments) -> None:
    """Train a method on the data set, or on your own pairs, and save it."""
    from tll_utils.data.dataset import load_dataset
    from tll_utils.search.own_data import read_pairs
    from tll_utils.search.saving import save

    method = registered(arguments.method)
    train = read_pairs(arguments.pairs, arguments.pictures) if arguments.pairs else load_dataset().train
    folder = arguments.save or runtime.build_dir() / "models" / arguments.method
    save(method.fit(train), folder, train=train, accuracy=recorded_accuracy(arguments.method), half=arguments.half)
    print(f"{folder}: {arguments.method}, trained on {len(train)} pairs")


def evaluate(arguments: Arguments) -> None:
    """Measure a saved model on candidate lists or pairs of your own, or on the data set's test images."""
    from tll_utils.data.dataset import load_dataset
    from tll_utils.report.submission import candidate_scores
    from tll_utils.search import own_data

    method, k = fitted(arguments.model), arguments.top
    if arguments.lists is None:
        test = (dataset := load_dataset()).test
        if test.truth is None:
            sys.exit("the truth of this data set is not published: give a table of candidate lists and its pictures")
        table = own_data.solved_table(test.left.ids, candidate_scores(dataset, method), test.truth, k=k)
    elif arguments.pairs:
        table = own_data.solved_pairs(method, own_data.read_pairs(arguments.lists, arguments.pictures), k=k)
    else:
        table = own_data.solved(method, own_data.read_lists(arguments.lists, arguments.pictures), k=k)
    print(own_data.summary(table, k=k))
    if arguments.out:
        runtime.write_text(arguments.out, table.to_csv(index=False, lineterminator="\n"))


def embed(arguments: Arguments) -> None:
    """Embed the pictures of a folder or list by workers, here or on a Ray cluster, into a folder of Parquet."""
    from tll_utils.search.cluster import embed_pictures

    options = {name: getattr(arguments, name) for name in ("side", "faces", "cluster", "workers")}
    there, added, problems = embed_pictures(arguments.source, arguments.out, model_folder(arguments.model), **options)
    print(f"{arguments.out}: {there} rows there before, {added} added, {problems} of them without an embedding")


# --- methods ----------------------------------------------------------------------


def registered(name: str):
    from tll_utils.methods.registry import get_method

    return get_method(name)


def fitted(model: str):
    """The model of a folder, the one that comes with the package, or a method by name, fitted on the data set once."""
    from tll_utils.search.saving import load

    return load(model_folder(model))


def model_folder(model: str) -> Path:
    """Folder of the saved model that `fitted` loads."""
    from tll_utils.data.dataset import load_dataset
    from tll_utils.search.saving import save

    places = [Path(model), runtime.build_dir() / "models" / model, Path(__file__).parent / model]
    for folder in places:
        if (folder / "model.json").exists():
            return folder
    method, train = registered(model), load_dataset().train
    save(method.fit(train), places[1], train=train, accuracy=recorded_accuracy(model))
    return places[1]


def recorded_accuracy(name: str) -> str:
    from tll_utils.methods.registry import get_entry
    from tll_utils.report.experiments import EXPERIMENTS
    from tll_utils.report.results import recorded_methods

    title = get_entry(name).title
    for method in recorded_methods(*EXPERIMENTS):
        if method["name"] == title:
            low, high = method["interval95"]
            return f"{method['expected_top2']} ({low} to {high}), {method['split']} on the 1,600 training pairs of TLL"
    return "not recorded"


# --- the parser ---------------------------------------------------------------------


def path(text: str) -> Path:
    """A path from where the command was called, not from the checkout."""
    return Path(text).expanduser().resolve()


def add_own_data(add_command: Callable) -> None:
    add = add_command(look_alikes, "look-alikes holiday/ --query portrait.jpg --out found", "look-alikes")
    add("folder", type=path, help="a folder, with sub-folders, or a zip")
    add("--query", type=path, metavar="IMAGE_OR_FOLDER", help="default: every picture of the folder")
    add("--model", default=SHIPPED, metavar="NAME_OR_FOLDER", help=f"a method or a saved model; default: {SHIPPED}")
    add("--top", type=int, default=10, metavar="N", help="look-alikes of each picture; default: 10")
    add("--out", type=path, default=Path("look-alikes"), metavar="FOLDER", help="default: look-alikes")
    add("--keep-near-duplicates", action="store_true", help="show copies of a picture too")
    add("--index", type=path, metavar="FOLDER", help=INDEX_HELP)
    add = add_command(embed, "embed pictures/ --out parquet")
    add("source", metavar="FOLDER_OR_LIST", help=".txt, a path or URL in every line, or .csv with the column picture")
    add("--out", required=True, metavar="FOLDER", help="path or URL; pictures whose rows it has are passed over")
    add("--model", default=SHIPPED, metavar="NAME_OR_FOLDER", help=f"a method or a saved model; default: {SHIPPED}")
    add("--side", choices=["left", "right"], default="right", help="queries, or pictures to be found; default: right")
    add("--faces", action="store_true", help="a column that says whether there is a face")
    add("--cluster", metavar="ADDRESS", help="of its head, host:6379; default: Ray on this machine alone")
    add("--workers", type=int, metavar="N", help="default: one for two cores, or for each GPU")
    add = add_command(fit, "fit pairs.csv pictures/ --method adapter_lite0 --save models/mine")
    add("pairs", type=path, nargs="?", help="CSV with the columns left,right; without it the data set's pairs")
    add("pictures", type=path, nargs="?", help="folder or zip of the pictures that the CSV names")
    add("--method", default=DEFAULT_METHOD, metavar="NAME", help=f"of the registry; default: {DEFAULT_METHOD}")
    add("--save", type=path, metavar="FOLDER", help="default: build/models/NAME")
    add("--half", action="store_true", help="half precision: half the size")
    add = add_command(evaluate, "evaluate lists.csv pictures/ --model models/mine --top 2")
    add("lists", type=path, nargs="?", help="CSV left,right,c0,c1,…: query, truth, candidates")
    add("pictures", type=path, nargs="?", help="folder or zip of the pictures that the CSV names")
    add("--pairs", action="store_true", help="the CSV has pairs left,right: lists of 20 drawn from all rights")
    add("--model", default=SHIPPED, metavar="NAME_OR_FOLDER", help=f"a method or a saved model; default: {SHIPPED}")
    add("--top", type=int, default=2, metavar="K", help="solved: the truth is among the K best; default: 2")
    add("--out", type=path, metavar="FILE", help="a CSV with every query's result")
