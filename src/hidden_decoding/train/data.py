"""Documents -> packed rows of tokens, in an order that depends only on a seed.

Contract: a row holds `tokens_per_sequence` tokens of one or more documents. `position_ids` count tokens and restart at
0 with each document (and with each row, where a long document goes on), which is how the model knows that no token may
attend across documents. `targets` hold the next token *of the same document* and -100 where there is none, so a
document's last token never learns the first of another. Any row can be made on its own from its number: the state of
the data is one whole number, and resuming is exact. The last row of an epoch is filled up with end tokens that neither
predict nor count.

Place in the flow: after `corpus.py`; ids_BT, position_ids_BT and targets_BT go to `loss.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from hidden_decoding.errors import ConfigError
from hidden_decoding.train.corpus import Corpus

NO_TARGET = -100


class Row(NamedTuple):
    """One packed row: ids, position ids and targets, each [T], and how many of its tokens are real."""

    ids: np.ndarray[Any, Any]
    position_ids: np.ndarray[Any, Any]
    targets: np.ndarray[Any, Any]
    tokens: int


class Rows(Protocol):
    """A sequence of rows without end; `state` is plain data from which `restore` goes on at the very next row."""

    def take(self, rows: int, rank: int = 0, of: int = 1) -> list[Row]:
        """Passes over the next `rows` rows and makes those that process `rank` of `of` trains on, in order."""

    def skip(self, rows: int) -> None:
        """Passes over the next rows."""

    def state(self) -> dict[str, Any]:
        """Where the sequence stands, for a checkpoint; called by all processes."""

    def restore(self, state: dict[str, Any]) -> None:
        """Goes back to where `state` was taken; refuses a state of other text or another order."""


def fill_row(pieces: Iterable[tuple[np.ndarray[Any, Any], int | None]], width: int, end_token: int) -> Row:
    """A row from pieces of documents, `width` ids at most: (ids, the id that follows in the document or None)."""
    ids = np.full(width, end_token, dtype=np.int64)
    positions = np.zeros(width, dtype=np.int64)
    targets = np.full(width, NO_TARGET, dtype=np.int64)
    at = 0
    for piece, following in pieces:
        end = at + len(piece)
        ids[at:end] = piece
        positions[at:end] = np.arange(len(piece))
        targets[at : end - 1] = piece[1:]
        if following is not None:
            targets[end - 1] = following
        at = end
    return Row(ids, positions, targets, at)


@dataclass(frozen=True)
class Batch:
    """Rows of tokens: three tensors [B, T], the number of real tokens, and of those that have a target."""

    ids_BT: Tensor
    position_ids_BT: Tensor
    targets_BT: Tensor
    tokens: int
    predicted: int

    def to(self, device: torch.device) -> Batch:
        """The same batch on a device."""
        ids, positions, targets = (
            tensor.to(device, non_blocking=True) for tensor in (self.ids_BT, self.position_ids_BT, self.targets_BT)
        )
        return Batch(ids, positions, targets, self.tokens, self.predicted)


class PackedRows:
    """`documents` of a corpus laid end to end and cut into rows of `tokens_per_sequence` tokens."""

    def __init__(self, corpus: Corpus, documents: np.ndarray[Any, Any], tokens_per_sequence: int) -> None:
        self.corpus = corpus
        self.documents = documents
        self.width = tokens_per_sequence
        self.ends = np.cumsum(corpus.lengths()[documents])

    @property
    def tokens(self) -> int:
        """Tokens of all documents, end tokens included."""
        return int(self.ends[-1]) if len(self.ends) else 0

    @property
    def text_bytes(self) -> int:
        """UTF-8 bytes of their text."""
        return int(self.corpus.text_bytes[self.documents].sum())

    def __len__(self) -> int:
        return (self.tokens + self.width - 1) // self.width

    def row(self, number: int) -> Row:
        """One row, made on its own."""
        return fill_row(self._pieces(number * self.width), self.width, self.corpus.end_token)

    def _pieces(self, at: int) -> Iterator[tuple[np.ndarray[Any, Any], int | None]]:
        stop = min(at + self.width, self.tokens)
        place = int(np.searchsorted(self.ends, at, side="right"))
        while at < stop:
            document, document_end = self.documents[place], int(self.ends[place])
            end = min(document_end, stop)
            first = int(self.corpus.offsets[document + 1]) - (document_end - at)
            last = first + end - at
            following = int(self.corpus.ids[last]) if end < document_end else None
            yield self.corpus.ids[first:last], following
            at, place = end, place + 1


def make_batch(rows: Iterable[Row]) -> Batch:
    """The rows as one batch."""
    made = list(rows)
    ids, positions, targets = (torch.from_numpy(np.stack(column)) for column in list(zip(*made, strict=True))[:3])
    predicted = int((targets != NO_TARGET).sum())
    return Batch(ids, positions, targets, sum(row.tokens for row in made), predicted)


class RowStream:
    """An endless, seeded sequence of rows over several epochs.

    Every epoch packs the documents in an order of its own, and hands out the rows in another: the rows of one long
    document would otherwise fill whole batches. `next_row` is the whole state: the number of rows handed out so far, by
    all processes together.
    """

    def __init__(self, corpus: Corpus, documents: np.ndarray[Any, Any], tokens_per_sequence: int, seed: int) -> None:
        self.corpus = corpus
        self.documents = documents
        self.width = tokens_per_sequence
        self.seed = seed
        self.next_row = 0
        self._epoch: tuple[int, PackedRows, np.ndarray[Any, Any]] | None = None
        self.rows_per_epoch = len(self._rows_of(0)[0])

    def _rows_of(self, epoch: int) -> tuple[PackedRows, np.ndarray[Any, Any]]:
        """The rows of an epoch, and the order in which they come."""
        if self._epoch is None or self._epoch[0] != epoch:
            generator = np.random.default_rng((self.seed, epoch))
            packed = PackedRows(self.corpus, generator.permutation(self.documents), self.width)
            self._epoch = (epoch, packed, generator.permutation(len(packed)))
        return self._epoch[1:]

    def take(self, rows: int, rank: int = 0, of: int = 1) -> list[Row]:
        """The next rows, in order; a batch may span two epochs."""
        taken = []
        for number in range(self.next_row + rank, self.next_row + rows, of):
            epoch, cursor = divmod(number, self.rows_per_epoch)
            packed, order = self._rows_of(epoch)
            taken.append(packed.row(int(order[cursor])))
        self.next_row += rows
        return taken

    def skip(self, rows: int) -> None:
        """Passes over the next rows."""
        self.next_row += rows

    def state(self) -> dict[str, Any]:
        """Where the stream stands, for a checkpoint."""
        epoch, cursor = divmod(self.next_row, self.rows_per_epoch)
        return {"epoch": epoch, "cursor": cursor, **self._identity()}

    def restore(self, state: dict[str, Any]) -> None:
        """Goes back to where `state` was taken; refuses a state of other text or another order."""
        for name, now in self._identity().items():
            if state.get(name) != now:
                raise ConfigError(
                    f"cannot resume: the checkpoint was trained with {name} = {state.get(name)!r}, this run has "
                    f"{now!r}; resume with the same data settings, or start a new run in another --out"
                )
        self.next_row = state["epoch"] * self.rows_per_epoch + state["cursor"]

    def _identity(self) -> dict[str, Any]:
        return {
            "corpus": self.corpus.key,
            "documents": len(self.documents),
            "tokens_per_sequence": self.width,
            "data_seed": self.seed,
        }


class MixedRows:
    """Rows of several sources, each getting its share of the rows as evenly as whole rows allow.

    Every row goes to the source that is furthest behind its share, so the order needs no chance, any stretch of the
    run has the shares asked for (within one row a source), and the counts of rows handed out are the whole state.
    """

    def __init__(self, streams: list[Any], shares: list[float]) -> None:
        self.streams, self.shares = streams, shares  # each has `next_row` beside what `Rows` asks for

    def _next(self) -> Any:
        """The source of the next row."""
        number = sum(stream.next_row for stream in self.streams) + 1
        behind = [share * number - stream.next_row for share, stream in zip(self.shares, self.streams, strict=True)]
        return self.streams[behind.index(max(behind))]

    def take(self, rows: int, rank: int = 0, of: int = 1) -> list[Row]:
        """The next rows, in order."""
        taken: list[Row] = []
        for number in range(rows):
            source = self._next()
            if number % of == rank:
                taken += source.take(1)
            else:
                source.skip(1)
        return taken

    def skip(self, rows: int) -> None:
        """Passes over the next rows."""
        for _ in range(rows):
            self._next().skip(1)

    def state(self) -> dict[str, Any]:
        """Where every stream stands, for a checkpoint."""
        return {"shares": self.shares, "streams": [stream.state() for stream in self.streams]}

    def restore(self, state: dict[str, Any]) -> None:
        """Goes back to where `state` was taken; refuses a state of another mixture."""
        if state.get("shares") != self.shares:
            raise ConfigError(
                f"cannot resume: the checkpoint was trained with shares {state.get('shares')!r} of the data, this run "
                f"has {self.shares!r}; resume with the same data settings, or start a new run in another --out"
            )
        for stream, before in zip(self.streams, state["streams"], strict=True):
            stream.restore(before)


def hold_out(corpus: Corpus, fraction: float, seed: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Documents to train on, and those held out: whole, drawn by the seed, at least `fraction` of the tokens."""
    order = np.random.default_rng((seed, 0x0E)).permutation(corpus.documents)
    if fraction == 0:
        return np.sort(order), order[:0]
    until = np.cumsum(corpus.lengths()[order])
    held = int(np.searchsorted(until, fraction * corpus.tokens)) + 1
    if held >= corpus.documents:
        raise ConfigError(
            f"--data has {corpus.documents} document(s) and {corpus.tokens:,} tokens: too little to set aside "
            f"{fraction:.0%} by whole documents; name held-out text with --heldout, or turn evaluation off with "
            "--heldout-fraction 0"
        )
    return np.sort(order[held:]), order[:held]
