"""Tasks of lm-evaluation-harness over our data: its prompts, its few-shot examples, its metrics, unchanged.

Contract: a task is the harness's own configuration with the data replaced (`custom_dataset`) and the pack's overrides;
few-shot examples are drawn with the harness's own seed. This is the only module that knows the harness's inside.

    >>> ready_tasks(load_pack("base").suites[-1], DataSource(Path("data")), seed=0)[0].name
    'gsm8k'
"""

from __future__ import annotations

import ast
import contextlib
import functools
import hashlib
import logging
import random
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hidden_decoding.errors import DependencyError
from hidden_decoding.evaluate.data_sets import DataSource, data_set_of, rows_as_dataset

if TYPE_CHECKING:
    from hidden_decoding.evaluate.pack import Suite

FEWSHOT_SEED = 1234  # the harness's default
OWN_TASKS = Path(__file__).parent / "tasks"


@dataclass(kw_only=True)
class ReadyTask:
    """A task with its data. `subset` is the configuration of the data set it uses."""

    name: str
    task: Any
    subset: str | None
    yaml_sha256: str


def harness_version() -> str:
    """The installed harness's version; `DependencyError` when there is none."""
    try:
        return metadata.version("lm_eval")
    except metadata.PackageNotFoundError as error:
        raise DependencyError(
            "evaluation needs lm-evaluation-harness, which is not installed; run: pip install 'hidden-decoding[eval]'"
        ) from error


def ready_tasks(suite: Suite, source: DataSource, *, seed: int) -> list[ReadyTask]:
    """All tasks of a suite that have questions in `source`, in the harness's order."""
    with quiet_harness():
        index = _index(tuple(suite.folders))
        found = [_ready(name, index[name], suite, source, seed) for name in _leaves(suite.tasks, index)]
    return [task for task in found if task is not None]


@contextlib.contextmanager
def quiet_harness() -> Iterator[None]:
    """The harness and `datasets` report every step; only what is wrong is shown."""
    import datasets

    names = ("lm_eval", "datasets")
    before = [logging.getLogger(name).level for name in names]
    for name in names:
        logging.getLogger(name).setLevel(logging.ERROR)
    bars = datasets.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        for name, level in zip(names, before, strict=True):
            logging.getLogger(name).setLevel(level)
        if bars:
            datasets.enable_progress_bars()


@functools.cache
def _index(folders: tuple[str, ...]) -> dict[str, Any]:
    """Names -> entries of these folders alone: reading all of the harness's tasks takes a quarter of a minute."""
    harness_version()
    import lm_eval
    from lm_eval import utils
    from lm_eval.tasks import TaskManager

    # The harness compiles a template for every row of every prompt: two thirds of the time MMLU takes to write.
    if not hasattr(utils.env.from_string, "cache_info"):
        utils.env.from_string = functools.lru_cache(maxsize=4096)(utils.env.from_string)

    root = Path(lm_eval.__file__).parent / "tasks"
    paths = [OWN_TASKS if folder == "own" else root / folder for folder in folders]
    return dict(TaskManager(include_path=[str(path) for path in paths], include_defaults=False).task_index)


def _leaves(names: list[str], index: dict[str, Any]) -> list[str]:
    """Tasks below these names, groups taken apart."""
    leaves: list[str] = []
    for name in names:
        entry = index[name]
        if entry.kind.name == "GROUP":
            leaves += _leaves(
                [child if isinstance(child, str) else child["task"] for child in entry.cfg["task"]], index
            )
        elif entry.kind.name == "TAG":
            leaves += sorted(entry.tags)
        else:
            leaves.append(name)
    return leaves


def _ready(name: str, entry: Any, suite: Suite, source: DataSource, seed: int) -> ReadyTask | None:
    from lm_eval.api.task import ConfigurableTask

    config = {**_config(entry, suite), **suite.override}
    known = data_set_of(config["dataset_path"])
    subset = config.get("dataset_name") if known.subsets else None
    splits = source.splits(known.name, subset)
    # A subset of the data may hold no question of this task (MMLU-Pro keeps its categories in one file).
    if name.startswith("mmlu_pro_"):
        category = name.removeprefix("mmlu_pro_").replace("_", " ")
        splits = {split: [row for row in rows if row["category"] == category] for split, rows in splits.items()}
    if not splits[known.asked]:
        return None
    dataset = rows_as_dataset(splits)
    config |= {"custom_dataset": lambda **_: dataset, "num_fewshot": suite.shots, "dataset_kwargs": None}
    for key in ("tag", "group", "task_list", "include"):
        config.pop(key, None)
    random.seed(seed)  # GPQA shuffles its options with the global generator
    task = ConfigurableTask(config=config)
    task.set_config(key="num_fewshot", value=suite.shots)
    task.set_fewshot_seed(seed=FEWSHOT_SEED)
    return ReadyTask(name=name, task=task, subset=subset, yaml_sha256=_yaml_hash(entry))


def _config(entry: Any, suite: Suite) -> dict[str, Any]:
    from lm_eval.tasks._yaml_loader import load_yaml

    config = dict(load_yaml(entry.yaml_path, resolve_func=not suite.unresolved))
    config["metadata"] = {"version": (config.get("metadata") or {}).get("version")}
    if suite.unresolved:
        # Metrics of such a task would run code here: ours does, in the sandbox. Its examples are plain data.
        config["metric_list"] = [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}]
        examples = _function_result(Path(entry.yaml_path).parent / "utils.py", "list_fewshot_samples")
        config["fewshot_config"] = {"sampler": "first_n", "samples": examples}
        config["unsafe_code"] = False
    return config


def _function_result(path: Path, name: str) -> Any:
    """What a function that only returns a literal returns, without importing its module."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef) and node.name == name:
            [statement] = node.body
            assert isinstance(statement, ast.Return), f"{path}: {name} does more than return a literal"
            assert statement.value is not None, f"{path}: {name} returns nothing"
            return ast.literal_eval(statement.value)
    raise AssertionError(f"{path} has no function {name}")


def _yaml_hash(entry: Any) -> str:
    """Of the task's own file and the templates beside it."""
    folder = Path(entry.yaml_path).parent
    files = [Path(entry.yaml_path), *sorted(folder.glob("_*yaml")), *sorted(folder.glob("utils.py"))]
    digest = hashlib.sha256()
    for path in files:
        digest.update(path.read_bytes())
    return digest.hexdigest()
