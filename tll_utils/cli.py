"""The command line: `tll <command>`, or `python -m tll_utils <command>`. `tll <command> --help` shows an example."""

import argparse
import errno
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable

from tll_utils import runtime
from tll_utils.search.commands import DEFAULT_METHOD, add_own_data, path, registered

UNSHOWN = "backslashreplace"  # the name of a file that the terminal's encoding lacks must not end the run
FAILURES = (ValueError, OSError, RuntimeError)  # of bad input; their texts name the file and the remedy
ELSEWHERE = "name other folders: TLL_CACHE or --cache for what is computed, --out, --save for what is written"
REMEDIES = {  # of the system's errors, whose texts name the file
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), f"free some space, or {ELSEWHERE}"),
    errno.EROFS: ELSEWHERE,
    **dict.fromkeys((errno.EACCES, errno.EPERM), f"change its permissions, or {ELSEWHERE}"),
}

Arguments = argparse.Namespace


# --- commands of the checkout -----------------------------------------------------


def report(arguments: Arguments) -> None:
    """Run every notebook, redraw the figures and make pages of them; or the paper, a PDF, of recorded results."""
    _run_script("paper") if arguments.pdf else _run_script("build_report", *["--in-place"] * arguments.in_place)


def test(arguments: Arguments) -> None:
    """Run the unit tests, then the notebooks on the sample, compared with their committed outputs."""
    _run("pytest", *(arguments.options or ["-n", "2", "--dist", "loadfile"]))  # a process needs up to 2 GB
    if not arguments.options:
        # Without the user's start-up files of IPython and backend of Matplotlib, which would change the outputs.
        own = {"IPYTHONDIR": str(runtime.build_dir() / "ipython"), "MPLBACKEND": "", "TLL_PROGRESS": "0"}
        notebooks = ("--nbval", "--nbval-cell-timeout", "600", "notebooks", "-n", "2", "--dist", "loadfile")
        _run("pytest", *notebooks, TLL_DATA="data/sample", **own)


def reproduce(arguments: Arguments) -> None:
    """Record experiments on the real images into data/results/."""
    _run_script("reproduce", *arguments.experiments)


def bench(arguments: Arguments) -> None:
    """Measure speed and memory."""
    _run_script("bench", *arguments.sections)


def convert(arguments: Arguments) -> None:
    """Turn the TLL authors' public release, two zips, into the layout of the challenge."""
    _run_script("convert", *map(str, (arguments.left, arguments.right, arguments.out)))


# --- commands that run anywhere ---------------------------------------------------


def submit(arguments: Arguments) -> None:
    """Score the candidates of every test image and write the challenge's submission."""
    from tll_utils.data.dataset import load_dataset
    from tll_utils.evaluation.metrics import topk_accuracy
    from tll_utils.report.submission import candidate_scores, write_submission
    from tll_utils.search.saving import load

    started, dataset = time.perf_counter(), load_dataset()
    if not arguments.model and not os.environ.get("TLL_PRECISION"):
        os.environ["TLL_PRECISION"] = "auto"  # by five folds `best` and `fast` solve the same in bfloat16, within 0.001
    method = load(arguments.model) if arguments.model else registered(arguments.method).fit(dataset.train)
    scores = candidate_scores(dataset, method)
    out = arguments.out or runtime.build_dir() / "submission.csv"
    write_submission(dataset, scores, out)
    print(f"{out}: {len(scores)} rows by {arguments.model or arguments.method}, {time.perf_counter() - started:.0f} s")
    if dataset.test.truth is not None and len(scores):
        print(f"top-2 accuracy on the known truth: {topk_accuracy(scores, dataset.test.truth):.3f}")


def clean(arguments: Arguments) -> None:
    """Delete the cache: embeddings, face descriptors and small copies of pictures; with --all, all of build/."""
    build = runtime.build_dir()
    for folder in [runtime.named_path("TLL_CACHE") or build / "cache", *[build] * arguments.all]:
        if folder.exists():
            shutil.rmtree(folder)
            print(f"deleted {folder}")


# --- running ----------------------------------------------------------------------


def _run_script(name: str, *options: str) -> None:
    if not (runtime.project_root() / "scripts").is_dir():
        sys.exit("this command needs a checkout of the project (README.md, “Get in”), not only the installed package")
    _run(f"scripts.{name}", *options)


def _run(module: str, *options: str, **variables: str) -> None:
    command = [sys.executable, "-m", module, *options]
    encoding = {"PYTHONIOENCODING": f"{os.environ.get('PYTHONIOENCODING', '').split(':')[0]}:{UNSHOWN}"}
    if code := subprocess.run(command, cwd=runtime.project_root(), env=os.environ | encoding | variables).returncode:
        sys.exit(code)


def _common() -> argparse.ArgumentParser:
    """Options of every command; each stands for an environment variable and wins over it."""
    parser = argparse.ArgumentParser(add_help=False)
    options = parser.add_argument_group("options of every command, instead of environment variables")
    options.add_argument("--data", type=path, metavar="PATH", help="data set, a folder or zip ($TLL_DATA)")
    options.add_argument("--cache", type=path, metavar="FOLDER", help="what can be computed again ($TLL_CACHE)")
    options.add_argument("--engine", metavar="NAME", help="openvino or keras ($TLL_ENGINE)")
    options.add_argument("--precision", metavar="NAME", help="auto, float32 or bfloat16 ($TLL_PRECISION)")
    options.add_argument("--quiet", action="store_const", const="0", help="no progress bars (TLL_PROGRESS=0)")
    return parser


def _set_variables(arguments: Arguments) -> None:
    names = {"data": "TLL_DATA", "cache": "TLL_CACHE", "engine": "TLL_ENGINE", "precision": "TLL_PRECISION"}
    for option, variable in (names | {"quiet": "TLL_PROGRESS"}).items():
        if (value := getattr(arguments, option)) is not None:
            os.environ[variable] = str(value)


class _Commands:
    """The sub-commands as argparse wants them."""

    def __init__(self, parser: argparse.ArgumentParser):
        self.sub, self.common = parser.add_subparsers(metavar="command", required=True), _common()

    def add(self, run: Callable[[Arguments], None], example: str, name: str | None = None) -> Callable:
        """Adds a command with the help of its function's docstring; returns the parser's `add_argument`."""
        parser = self.sub.add_parser(
            name or run.__name__, help=run.__doc__, description=run.__doc__, epilog=f"example: tll {example}",
            parents=[self.common],
        )  # fmt: skip
        parser.set_defaults(run=run)
        return parser.add_argument


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="tll", description="Totally-Looks-Like: a course report and its tools.")
    commands = _Commands(parser)
    add = commands.add(report, "report --data data/tll")
    add("--in-place", action="store_true", help="write the outputs into the committed notebooks instead")
    add("--pdf", action="store_true", help="build/report.pdf, from the recorded results alone; no notebook is run")
    add = commands.add(test, "test tests/data")
    add("options", nargs="*", help="for pytest; without any, the notebooks are compared too")
    add = commands.add(submit, "submit --data challenge.zip --method best_one_to_one")
    add("--method", default=os.environ.get("METHOD") or DEFAULT_METHOD, metavar="NAME", help="registered ($METHOD)")
    add("--model", type=path, metavar="FOLDER", help="a saved model instead, which needs no training")
    add("--out", type=path, metavar="FILE", help="default: build/submission.csv")
    add = commands.add(reproduce, "reproduce --data data/tll shortcuts adapters")
    add("experiments", nargs="*", default=(os.environ.get("ONLY") or "").split(), help="default: all ($ONLY)")
    add_own_data(commands.add)
    add = commands.add(convert, "convert left.zip right.zip data/tll")
    for name, text in {"left": "zip", "right": "zip", "out": "a folder that is made"}.items():
        add(name, type=path, help=text)
    add = commands.add(bench, "bench embedding faces")
    add("sections", nargs="*", help="default: all")
    add = commands.add(clean, "clean --all")
    add("--all", action="store_true", help="build/ too: reports, models, trainings")
    return parser


def main(options: list[str] | None = None) -> None:
    parser = _parser()
    arguments = parser.parse_args(options)
    if getattr(arguments, "pictures", True) is None and (arguments.pairs or getattr(arguments, "lists", None)):
        parser.error("name the folder or zip of the pictures behind the CSV")
    _set_variables(arguments)
    sys.stdout.reconfigure(errors=UNSHOWN)  # pyright: ignore[reportAttributeAccessIssue]
    try:
        arguments.run(arguments)
    except FAILURES as error:
        remedy = REMEDIES.get(getattr(error, "errno", None) or 0)
        sys.exit(f"tll: {error}" + (f" — {remedy}" if remedy else ""))
