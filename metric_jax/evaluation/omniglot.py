"""The two protocols of Omniglot: Vinyals' split of its characters, and Lake's one-shot runs within an alphabet."""

import pathlib
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from metric_jax.evaluation import checks, intervals

ROTATIONS = (0, 90, 180, 270)
Paths = Sequence[pathlib.Path]


class RotatedCharacter(NamedTuple):
    """A class of Vinyals' split: a character turned by a multiple of 90 degrees is one of its own.

    Attributes:
        alphabet: The alphabet's folder, such as ``Mkhedruli_(Georgian)``.
        character: Its number within the alphabet, from 1 as in the folder ``character01``; the
            ``alphabet_char_id`` of the TFDS data set is one less.
        rotation: Counter-clockwise, in degrees.
    """

    alphabet: str
    character: int
    rotation: int


class Run(NamedTuple):
    """One of Lake's runs: each query shows the character of one of the support images, drawn by somebody else.

    Attributes:
        name: The folder's, such as ``run01``.
        support: ``[ways]`` files, one image of each character.
        query: ``[queries]`` files.
        answers: ``[queries]`` indices into ``support``.
    """

    name: str
    support: list[pathlib.Path]
    query: list[pathlib.Path]
    answers: np.ndarray


def vinyals_classes(path: str | pathlib.Path) -> list[RotatedCharacter]:
    r"""Reads a file of Vinyals' split, with a line ``alphabet/character01/rot090`` for each class.

    Args:
        path: ``train.txt``, ``val.txt``, ``trainval.txt`` or ``test.txt``.

    Returns:
        The classes, in the order of the file.

    Raises:
        OSError: There is no such file, or it cannot be read.
        ValueError: A line that is no class or was there before, which the message names; no line at all, or no text.

    Example:
        >>> import pathlib, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder, "test.txt")
        ...     _ = path.write_text("Angelic/character01/rot090\n")
        ...     vinyals_classes(path)
        [RotatedCharacter(alphabet='Angelic', character=1, rotation=90)]

    References:
        Vinyals, Blundell, Lillicrap, Kavukcuoglu, Wierstra (2016), Matching Networks for One Shot Learning.
        https://arxiv.org/abs/1606.04080
    """
    seen: dict[RotatedCharacter, int] = {}
    for number, line in _lines(pathlib.Path(path)):
        parts = re.fullmatch(r"([^/]+)/character([0-9]{1,9})/rot([0-9]{3})", line)
        if parts is None or int(parts[2]) == 0 or int(parts[3]) not in ROTATIONS:
            raise ValueError(
                f"{path}, line {number}: a class such as 'Angelic/character01/rot090' was expected, got {line[:80]!r}"
            )
        found = RotatedCharacter(parts[1], int(parts[2]), int(parts[3]))
        if found in seen:
            raise ValueError(f"{path}, line {number}: {line} was already in line {seen[found]}")
        seen[found] = number
    return list(seen)


def within_alphabet(folder: str | pathlib.Path) -> list[Run]:
    r"""Reads Lake's one-shot runs: 20 of them, each 20-way within one alphabet.

    A run is a folder ``runNN`` with a file ``class_labels.txt``. Each of its lines names a query and the support image
    of the same character, as paths relative to the folder of all runs: ``run01/test/item01.png
    run01/training/class05.png``. What a query is compared with are all images beside those that the lines name.

    Args:
        folder: The folder of all runs.

    Returns:
        The runs, by name.

    Raises:
        OSError: A file cannot be read.
        ValueError: No runs there; a line that does not name two files of its run, which the message names; a query that
            occurs twice; a run with fewer than two support images.

    Example:
        >>> import pathlib, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for file in ("test/item01.png", "training/class01.png", "training/class02.png"):
        ...         path = pathlib.Path(folder, "run01", file)
        ...         path.parent.mkdir(parents=True, exist_ok=True)
        ...         path.touch()
        ...     labels = pathlib.Path(folder, "run01/class_labels.txt")
        ...     _ = labels.write_text("run01/test/item01.png run01/training/class02.png\n")
        ...     (run,) = within_alphabet(folder)
        >>> run.name, [path.name for path in run.support], run.answers.tolist()
        ('run01', ['class01.png', 'class02.png'], [1])

    References:
        Lake, Salakhutdinov, Tenenbaum (2015), Human-level concept learning through probabilistic program induction.
        https://doi.org/10.1126/science.aab3050
    """
    folder = pathlib.Path(folder)
    files = sorted(folder.glob("run*/class_labels.txt"))
    if not files:
        raise ValueError(
            f"{folder} holds no runs, folders run01, run02, ... with a class_labels.txt each: unpack Omniglot's "
            "one-shot-classification/all_runs.zip there"
        )
    return [_run(folder, file) for file in files]


def one_shot_runs(
    runs: Sequence[Run], distances: Callable[[Paths, Paths], Any], *, level: float = 0.95
) -> dict[str, float]:
    """The accuracy in Lake's runs: each query goes to its nearest support image. A tie counts as wrong.

    Args:
        runs: From `within_alphabet`.
        distances: ``(query files, support files) -> [queries, support]``, finite. Of an embedding:
            ``lambda query, support: mj.euclidean.pairwise(embed(query), embed(support))``.
        level: The confidence of the interval, in (0, 1).

    Returns:
        ``accuracy``, ``accuracy_low``, ``accuracy_high`` (Wilson's interval, which takes the queries of a run for
        independent), ``runs`` and ``queries``, the numbers of both.

    Raises:
        TypeError: Distances that are not numbers.
        ValueError: No runs; a run with fewer than two support images, or with other answers than one of them for each
            query; distances of another shape, NaN or infinite ones, whose query the message names.

    Example:
        >>> import numpy as np, pathlib
        >>> a, b = pathlib.Path("a.png"), pathlib.Path("b.png")
        >>> run = Run("run01", support=[a, b], query=[a, b, b], answers=np.array([0, 1, 0]))
        >>> found = one_shot_runs([run], lambda query, support: [[x != y for y in support] for x in query])
        >>> round(found["accuracy"], 3), found["queries"]
        (0.667, 3)
    """
    if not runs:
        raise ValueError("there are no runs to measure an accuracy on")
    right = [_is_right(run, distances(run.query, run.support)) for run in runs]
    successes, trials = sum(int(x.sum()) for x in right), sum(x.size for x in right)
    low, high = intervals.proportion(successes, trials, level=level)
    return {
        "accuracy": successes / trials,
        "accuracy_low": low,
        "accuracy_high": high,
        "runs": len(runs),
        "queries": trials,
    }


def _is_right(run: Run, found: Any) -> np.ndarray:
    """Whether each query is nearer to its answer than to any other support image."""
    answers = checks.indices(run.answers, f"answers of {run.name}", len(run.query), "queries")
    if len(run.support) < 2:
        raise ValueError(f"{run.name} has one support image alone, and nothing to confuse it with")
    bad = np.flatnonzero((answers < 0) | (answers >= len(run.support)))
    if bad.size:
        raise ValueError(
            f"answers of {run.name} hold {answers[bad[0]]} for query {bad[0]}, and there are only {len(run.support)} "
            "support images to index"
        )
    table = checks.numbers(found, "distances")
    if table.shape != (len(run.query), len(run.support)):
        raise ValueError(
            f"distances of {run.name} must be [{len(run.query)} queries, {len(run.support)} support images], got shape "
            f"{list(table.shape)}"
        )
    bad = np.flatnonzero(~np.isfinite(table).all(axis=1))
    if bad.size:
        raise ValueError(f"distances of {run.name} hold NaN or infinity for query {run.query[bad[0]]}")
    own = np.arange(len(run.support)) == answers[:, None]
    return table[own] < np.where(own, np.inf, table).min(axis=1)


def _run(folder: pathlib.Path, file: pathlib.Path) -> Run:
    name = file.parent.name
    pairs: dict[pathlib.Path, pathlib.Path] = {}
    for number, line in _lines(file):
        fields = line.split()
        inside = [re.fullmatch(rf"{re.escape(name)}/[^/\\]+/[^/\\]+", field) for field in fields]
        if len(fields) != 2 or not all(inside) or "/../" in line:
            raise ValueError(
                f"{file}, line {number}: '{name}/test/item01.png {name}/training/class01.png' or the like was "
                f"expected, got {line[:80]!r}"
            )
        query, answer = (folder / field for field in fields)
        missing = [path for path in (query, answer) if not path.is_file()]
        if missing:
            raise ValueError(f"{file}, line {number}: there is no file {missing[0]}")
        if query in pairs:
            raise ValueError(f"{file}, line {number}: {fields[0]} occurs for the second time")
        pairs[query] = answer
    # Beside each file macOS leaves one of its own, of the same name after "._".
    support = sorted(
        {path for answer in pairs.values() for path in answer.parent.glob(f"[!.]*{answer.suffix}")}
    )
    if len(support) < 2:
        raise ValueError(f"{file}: there is one support image alone, and nothing to confuse it with")
    return Run(name, support, list(pairs), np.array([support.index(answer) for answer in pairs.values()]))


def _lines(path: pathlib.Path) -> list[tuple[int, str]]:
    """The lines that are not blank, with their numbers; raises a ValueError if there are none, or it is no text."""
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise ValueError(f"{path} is no text file") from None
    lines = [(i, line.strip()) for i, line in enumerate(text.split("\n"), start=1) if line.strip()]
    if not lines:
        raise ValueError(f"{path} is empty")
    return lines
