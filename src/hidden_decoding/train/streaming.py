"""Rows of text that is read while training goes, through `datasets`: too large to be tokenised first, or on a hub.

Contract: the documents of a source are dealt to a fixed number of *lanes*, each packed into rows on its own, in the
order in which they come; row r of the run is the next one of lane r mod lanes. So the order of rows depends on the
settings alone, whatever the number of processes (it must divide the lanes), and each process reads only its own lanes.
The state of a lane is the place of its current document in the source and how much of it is in rows: resuming is exact.
At the end of the source a lane begins again.

Place in the flow: in the place of `corpus.py` and `RowStream`; after it `loop.py`.

    >>> LaneRows(sources, DataSettings(data=("hub:HuggingFaceFW/fineweb",), streaming=True), tokenizer, world)
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch.distributed as dist

from hidden_decoding.errors import ConfigError, DependencyError
from hidden_decoding.train.data import MixedRows, Row, fill_row
from hidden_decoding.train.data_settings import HUB, DataSettings
from hidden_decoding.train.parallelize import World
from hidden_decoding.train.readers import JSONL_SUFFIXES, PARQUET_SUFFIXES, Broken, find_files


def open_source(source: str) -> Any:
    """A `datasets.IterableDataset`: `hub:NAME[:CONFIG[:SPLIT]]` of a hub, or local files of one kind."""
    try:
        import datasets
    except ImportError as error:
        raise DependencyError(
            "--streaming needs the package datasets; install it with: pip install 'hidden-decoding[train]'"
        ) from error
    if source.startswith(HUB):
        name, *rest = source.removeprefix(HUB).split(":")
        config, split = ([*rest, "", ""])[:2]
        try:
            return datasets.load_dataset(name, config or None, split=split or "train", streaming=True)
        except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
            reason = str(error).strip().splitlines()[0]
            raise ConfigError(
                f"data: {source} cannot be opened ({reason}); give hub:NAME, hub:NAME:CONFIG or hub:NAME:CONFIG:SPLIT, "
                "or local files"
            ) from error
    files = [str(file) for file in find_files([source])]
    suffixes = {_reader(file) for file in files}
    if len(suffixes) > 1:
        raise ConfigError(f"data: {source} holds files of several kinds; stream them as sources of their own")
    reader = suffixes.pop()
    options = {"sample_by": "document"} if reader == "text" else {}
    return datasets.load_dataset(reader, data_files=files, split="train", streaming=True, **options)


def _reader(file: str) -> str:
    if file.endswith(JSONL_SUFFIXES):
        return "json"
    return "parquet" if file.endswith(PARQUET_SUFFIXES) else "text"


class LaneDocuments:
    """The documents of one lane of a source: every `lanes`-th example, or a share of its files where they divide."""

    def __init__(self, source: str, settings: DataSettings, lane: int, broken: Broken) -> None:
        from datasets.distributed import split_dataset_by_node

        self.source, self.text_key, self.broken = source, settings.text_key, broken
        self.lane = lane
        self._whole = split_dataset_by_node(open_source(source), rank=lane, world_size=settings.lanes)

    def read(self, start: dict[str, Any] | None = None) -> Iterator[tuple[dict[str, Any], str]]:
        """(state of the source before the document, its text) to the end of the source; empty ones are left out.

        `start` is such a state; without it reading begins at the first document.
        """
        dataset = copy.deepcopy(self._whole)  # one that was given a state goes back to it at every reading
        if start is not None:
            dataset.load_state_dict(start)
        before = dataset.state_dict()
        for number, example in enumerate(dataset, start=1):
            text = example.get(self.text_key)
            if self.text_key not in example:
                names = ", ".join(example)
                raise ConfigError(f"data: {self.source} has no column {self.text_key!r} (--text-key); it has {names}")
            if not isinstance(text, str):
                kind = f"{self.text_key!r} is {type(text).__name__}, not text (--text-key)"
                self.broken.found(self.source, f"lane {self.lane}, document {number} of this session", kind)
            elif text.strip():
                yield before, text
            before = dataset.state_dict()


class Lane:
    """Rows of one lane of one source."""

    def __init__(
        self, documents: LaneDocuments, encode: Callable[[str], list[int]], width: int, end_token: int
    ) -> None:
        self.documents, self.encode, self.width, self.end_token = documents, encode, width, end_token
        self.next_row = 0
        self._reading = documents.read()
        self._ids = np.empty(0, dtype=np.int64)
        self._used = 0  # ids of the current document that are in rows
        self._before: dict[str, Any] | None = None  # state of the source before the current document

    def take(self, rows: int, rank: int = 0, of: int = 1) -> list[Row]:
        """The next rows, in order."""
        made = [fill_row(self._pieces(), self.width, self.end_token) for _ in range(rows)]
        self.next_row += rows
        return made[rank::of]

    def skip(self, rows: int) -> None:
        """Passes over the next rows: their text has to be read all the same."""
        self.take(rows)

    def state(self) -> dict[str, Any]:
        """Place of the current document, and how much of it is used."""
        return {"rows": self.next_row, "source": self._before, "used": self._used}

    def restore(self, state: dict[str, Any]) -> None:
        """Goes back to where `state` was taken."""
        self._reading = self.documents.read(state["source"])
        self._ids, self._before = np.empty(0, dtype=np.int64), state["source"]
        self.next_row, self._used = state["rows"], 0
        if state["used"]:
            self._next_document()
            self._used = state["used"]

    def _pieces(self) -> Iterator[tuple[np.ndarray[Any, Any], int | None]]:
        left = self.width
        while left:
            if self._used == len(self._ids):
                self._next_document()
            piece = self._ids[self._used : self._used + left]
            self._used, left = self._used + len(piece), left - len(piece)
            yield piece, int(self._ids[self._used]) if self._used < len(self._ids) else None

    def _next_document(self) -> None:
        found = next(self._reading, None)
        if found is None:
            self._reading = self.documents.read()
            found = next(self._reading, None)
        if found is None:
            raise ConfigError(
                f"data: {self.documents.source} has no document for lane {self.documents.lane}; give fewer --lanes"
            )
        self._before, text = found
        self._ids = np.asarray([*self.encode(text), self.end_token], dtype=np.int64)
        self._used = 0


class LaneRows:
    """Rows of all lanes in turn; this process holds the lanes whose rows it trains on."""

    def __init__(self, settings: DataSettings, tokenizer: Any, world: World) -> None:
        if settings.lanes % world.size:
            raise ConfigError(
                f"lanes is {settings.lanes}, which {world.size} processes cannot share evenly; make --lanes a multiple "
                f"of {world.size}"
            )
        self.settings, self.world = settings, world
        self.broken = Broken(skip=settings.on_broken == "skip")
        self.next_row = 0
        self.lanes = {lane: self._lane(lane, tokenizer) for lane in range(world.rank, settings.lanes, world.size)}

    def _lane(self, lane: int, tokenizer: Any) -> Any:
        def encode(text: str) -> list[int]:
            ids: list[int] = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
            return ids

        width, end = self.settings.tokens_per_sequence, tokenizer.eos_token_id
        sources = self.settings.sources()
        rows = [Lane(LaneDocuments(path, self.settings, lane, self.broken), encode, width, end) for path, _ in sources]
        shares = [share for _, share in sources if share is not None]
        if len(rows) > 1 and not shares:
            shares = [1 / len(rows)] * len(rows)
        return MixedRows(rows, shares) if shares else rows[0]

    def take(self, rows: int, rank: int = 0, of: int = 1) -> list[Row]:
        """The next rows; `rank` and `of` are this process's own."""
        wanted = range(self.next_row + rank, self.next_row + rows, of)
        self.next_row += rows
        return [row for number in wanted for row in self.lanes[number % self.settings.lanes].take(1)]

    def skip(self, rows: int) -> None:
        """Passes over the next rows."""
        for number in range(self.next_row, self.next_row + rows):
            if (lane := self.lanes.get(number % self.settings.lanes)) is not None:
                lane.skip(1)
        self.next_row += rows

    def state(self) -> dict[str, Any]:
        """The state of every lane, gathered from all processes."""
        own = {str(lane): rows.state() for lane, rows in self.lanes.items()}
        parts: list[Any] = [own]
        if self.world.size > 1:
            parts = [None] * self.world.size
            dist.all_gather_object(parts, own)
        lanes = {lane: state for part in parts for lane, state in part.items()}
        return {"next_row": self.next_row, "lanes": json.loads(json.dumps(lanes)), "settings": self._identity()}

    def restore(self, state: dict[str, Any]) -> None:
        """Goes back to where `state` was taken; refuses a state of other settings."""
        if state.get("settings") != self._identity():
            raise ConfigError(
                f"cannot resume: the checkpoint read its text with {state.get('settings')}, this run with "
                f"{self._identity()}; resume with the same data settings, or start a new run in another --out"
            )
        self.next_row = state["next_row"]
        for lane, rows in self.lanes.items():
            rows.restore(state["lanes"][str(lane)])

    def _identity(self) -> dict[str, Any]:
        given = self.settings
        return {
            "data": list(given.data),
            "lanes": given.lanes,
            "text_key": given.text_key,
            "tokens_per_sequence": given.tokens_per_sequence,
        }
