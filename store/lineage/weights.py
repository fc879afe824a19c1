"""What weight files are called in keys: a name that was given to some bytes is theirs for ever.

A row for each name and the SHA-256 that it stands for. The sample of a file is the name of the first
SHA-256 that was known for it; of any other SHA-256 with that sample, 16 digits follow behind a "+".
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from store.database.database import immediate, rows

if TYPE_CHECKING:
    from store.database.database import Lineage

NUM_DIGITS = 16


def name_of(lineage: Lineage, sample: str, sha256: str) -> str:
    """The name of weights with this sample and this SHA-256 (64 hex digits each), on record from now on."""
    other = f"{sample}+{sha256[:NUM_DIGITS]}"
    found = dict(_known(lineage, sample))
    if sha256 not in found.values():
        with immediate(lineage, durable=True) as connection:
            connection.execute("INSERT OR IGNORE INTO weights VALUES (?, ?)", (sample, sha256))
            connection.execute(
                "INSERT OR IGNORE INTO weights SELECT ?1, ?2 "
                "WHERE NOT EXISTS (SELECT 1 FROM weights WHERE sample=?3 AND sha256=?2)",
                (other, sha256, sample),
            )
        found = dict(_known(lineage, sample))
    return sample if found[sample] == sha256 else other


def shared_samples(lineage: Lineage) -> frozenset[str]:
    """The samples of which files are known whose bytes differ: of these, only a file's SHA-256 tells its name."""
    found = rows(lineage, "SELECT sample FROM weights WHERE sample GLOB '*+*'")
    return frozenset(name.partition("+")[0] for (name,) in found if type(name) is str)


def _known(lineage: Lineage, sample: str) -> list[tuple[str, str]]:
    """The names of this sample, each with its SHA-256."""
    found = rows(
        lineage,
        "SELECT sample, sha256 FROM weights WHERE sample=?1 OR sample GLOB ?1 || '+*'",
        (sample,),
    )
    return [(name, sha256) for name, sha256 in found]
