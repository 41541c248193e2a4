"""Other distributions made of a data set: classes kept in part, images of two classes at once."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from goldiprox.data.store import Dataset, Inputs, Store, png_bytes
from goldiprox.schema import ConfigError
from goldiprox.seeds import stream

__all__ = ["MixedStore", "keep_relevant", "mix"]


def keep_relevant(
    dataset: Dataset, classes: int, share: float, seed: int
) -> tuple[Dataset, tuple[int, ...]]:
    """Keep some classes whole and only a share of the others, in every part alike.

    The CIFAR100-Relevance of Mindermann et al. 2022, section 4.3: 20 random classes whole, 6 % of
    the other 80; the test set is distributed like the training set.

    Args:
        dataset: any data set.
        classes: how many classes are kept whole; a seeded choice.
        share: share kept of every other class, in [0, 1); at least one example of each part's.
        seed: of the choice of classes and examples.

    Returns:
        The data set with fewer rows in its parts (ids are the same), and the classes kept whole.

    Raises:
        ConfigError: if there are not that many classes, or the share is impossible.
    """
    if not 0 < classes < dataset.num_classes:
        raise ConfigError(
            f"--high-relevance {classes} of {dataset.num_classes} classes: give a number from 1 to "
            f"{dataset.num_classes - 1}"
        )
    order_C = torch.randperm(dataset.num_classes, generator=stream(seed, "relevant classes"))
    high = tuple(sorted(order_C[:classes].tolist()))
    # One number a row, so that the rows kept at a small share are among those kept at a larger one.
    chance_N = torch.rand(len(dataset.store), generator=stream(seed, "relevant examples"))
    is_high_C = torch.zeros(dataset.num_classes, dtype=torch.bool)
    is_high_C[list(high)] = True

    def kept(rows: Tensor) -> Tensor:
        parts = []
        for label in range(dataset.num_classes):
            mine = rows[dataset.labels_N[rows] == label]
            if not is_high_C[label] and len(mine):
                count = max(1, round(share * len(mine)))
                mine = mine[chance_N[mine].argsort(stable=True)[:count]]
            parts.append(mine)
        return torch.cat(parts).sort().values

    own = dataset.holdout_rows
    train, test, held = (
        kept(dataset.train_rows),
        kept(dataset.test_rows),
        None if own is None else kept(own),
    )
    parts = [part for part in (train, test, held) if part is not None]
    fewer = replace(
        dataset,
        train_rows=train,
        test_rows=test,
        holdout_rows=held,
        fingerprint=_derived(dataset, "relevance", *parts),
    )
    return fewer, high


def mix(
    dataset: Dataset, groups: Sequence[Tensor], share: float, seed: int
) -> tuple[Dataset, Tensor]:
    """Make images ambiguous: the mean of two images of different classes, labelled as either.

    A stand-in for the generated digits of AmbiguousMNIST that can be made of any image set. Both
    labels are right, so the label drawn counts as published, not as corrupted.

    Args:
        dataset: images.
        groups: int64 rows; a partner comes from the same group, so that no image of the holdout
            set gets into the training set. Rows in no group stay as they are.
        share: share of each group to be mixed; exactly ``round(share * N)``.
        seed: of who is mixed, with whom, and labelled as what.

    Returns:
        The data set whose store hands out the mixtures under their old ids, and a bool mask over
        its rows that is true for them.

    Raises:
        ConfigError: if the examples are no images in memory or on disk, or of one class only.
    """
    if len(dataset.store.example_shape) != 3:
        raise ConfigError(f"--ambiguous mixes images, and {dataset.name} holds none")
    partner_N = torch.full((len(dataset.store),), -1, dtype=torch.int64)
    labels_N = dataset.labels_N.clone()
    for number, rows in enumerate(groups):
        generator = stream(seed, "ambiguous", number)
        order = rows[torch.randperm(len(rows), generator=generator)]
        chosen = order[: round(share * len(rows))]
        for label in torch.unique(dataset.labels_N[chosen]).tolist():
            mine = chosen[dataset.labels_N[chosen] == label]
            others = rows[dataset.labels_N[rows] != label]
            if not len(others):
                raise ConfigError("--ambiguous needs images of two classes at least")
            partner_N[mine] = others[
                torch.randint(0, len(others), (len(mine),), generator=generator)
            ]
        takes_other = torch.rand(len(chosen), generator=generator) < 0.5
        swapped = chosen[takes_other]
        labels_N[swapped] = dataset.labels_N[partner_N[swapped]]
    mixed = replace(
        dataset,
        store=MixedStore(dataset.store, partner_N),
        labels_N=labels_N,
        fingerprint=_derived(dataset, "ambiguous", partner_N),
    )
    return mixed, partner_N >= 0


def _derived(dataset: Dataset, what: str, *tensors: Tensor) -> str:
    digest = hashlib.sha256(f"{dataset.fingerprint}/{what}".encode())
    for tensor in tensors:
        digest.update(f"/{len(tensor)}/".encode())
        digest.update(tensor.contiguous().numpy().astype("<i8").data.cast("B"))
    return digest.hexdigest()


class MixedStore:
    """A store of images some of which are handed out as the mean of two."""

    def __init__(self, store: Store, partner_N: Tensor) -> None:
        """Mix on demand: nothing but the partners is kept.

        Args:
            store: of uint8 images.
            partner_N: int64 row to be mixed with, or -1.
        """
        self.store = store
        self.partner_N = partner_N

    def __len__(self) -> int:
        return len(self.store)

    @property
    def example_shape(self) -> tuple[int, ...]:
        """Channels, height and width."""
        return self.store.example_shape

    def fetch(self, rows_B: Tensor) -> Inputs:
        """The images of these rows, the ambiguous ones mixed.

        Args:
            rows_B: int64 rows, in any order; repeats are allowed.

        Returns:
            uint8 images, BCHW.
        """
        partner_B = self.partner_N[rows_B]
        places = (partner_B >= 0).nonzero().flatten()
        both = self.store.fetch(torch.cat([rows_B, partner_B[places]]))
        assert isinstance(both, Tensor)
        images, others = both[: len(rows_B)], both[len(rows_B) :]
        if len(places):
            sums = images[places].to(torch.int16) + others
            images[places] = ((sums + 1) // 2).to(torch.uint8)
        return images

    def prefetch(self, rows_B: Tensor) -> None:
        """Read these rows and their partners ahead, where the store can."""
        if callable(ahead := getattr(self.store, "prefetch", None)):
            partner_B = self.partner_N[rows_B]
            ahead(torch.cat([rows_B, partner_B[partner_B >= 0]]))

    def thumbnail(self, row: int) -> bytes:
        """One image as the bytes of a PNG file."""
        image = self.fetch(torch.tensor([row]))
        assert isinstance(image, Tensor)
        return png_bytes(image[0])
