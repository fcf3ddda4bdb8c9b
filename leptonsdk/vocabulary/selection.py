"""Which tokens stay, so that every text can still be tokenized and those counted keep their tokens."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from leptonsdk.errors import UsageError, nearest
from leptonsdk.vocabulary.definition import Definition
from leptonsdk.vocabulary.merges import MergeTable


def select_tokens(
    definition: Definition,
    counts: Mapping[int, int],
    named: Collection[int],
    *,
    keep: int | None = None,
    min_count: int = 1,
    always: Sequence[str] = (),
) -> list[str]:
    """The tokens that stay, in the order of their new ids.

    Args:
        definition: The tokenizer.
        counts: Occurrences by id.
        named: Ids that the model's configs name.
        keep: Tokens at most, with those that have to stay: added tokens, those that configs name, ``always``, and the pieces
            (`Definition.pieces`).
        min_count: Least number of occurrences.
        always: Tokens that stay in any case.

    Raises:
        UsageError: ``always`` names no token, or more tokens have to stay than ``keep`` allows.
    """
    ids = definition.ids
    for token in always:
        if token not in ids:
            near = nearest(token, (other for other in ids if other[:1] == token[:1]))
            raise UsageError(
                f"the vocabulary has no token '{token}'",
                where="trim_vocabulary: always",
                hint=f"Did you mean '{near}'?" if near else "write it as the vocabulary does (##ing, Ġthe, ▁the)",
            )
    tokens = {number: token for token, number in ids.items()}
    table = MergeTable(definition.model) if definition.kind == "BPE" else None
    kept = {*definition.added, *definition.pieces(), *(tokens[i] for i in named if i in tokens)}
    for token in always:
        kept |= _with_parts(token, definition, table)
    if keep is not None and len(kept) > keep:
        raise UsageError(
            f"{len(kept)} tokens have to stay: added ones, single characters, and those that are asked for",
            where=f"trim_vocabulary: keep={keep}",
            hint="raise `keep`",
        )
    for number, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        if count < min_count or number not in tokens:
            continue
        more = _with_parts(tokens[number], definition, table) - kept
        if keep is not None and len(kept) + len(more) > keep:
            break
        kept |= more
    # Added tokens that the model itself lacks get the ids behind its own when a tokenizer is read: they come last.
    return sorted(kept, key=lambda token: (token not in definition.vocabulary, ids[token]))


def _with_parts(token: str, definition: Definition, table: MergeTable | None) -> set[str]:
    """A token and, for BPE, those that it is put together from."""
    return {token} if table is None or token in definition.added else {token, *table.parts(token)}
