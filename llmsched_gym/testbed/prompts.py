"""Prompts of an exact length, as token ids that any of the servers takes."""

from __future__ import annotations

import numpy as np

VOCABULARY = 4096  # of the models made here; those of real models are larger
FIRST_ID = 300  # below it lie control and byte tokens, in the models made here and in real ones


def prompt_ids(key: int, tokens: int, vocabulary: int = VOCABULARY) -> list[int]:
    """``tokens`` ids from ``FIRST_ID`` to ``vocabulary - 1``, the same for the same arguments.

    The first ids spell the key, digit by digit, so that prompts of different keys differ from
    their first ids on and no cache of prefixes is of use; the others are drawn from the key. (There
    are only as many different prompts of one token as there are ids.)

    Parameters
    ----------
    key : 0 or more, e.g. the number of the task.
    tokens : 1 or more.
    vocabulary : number of ids the model has, above ``FIRST_ID``; default 4096, which the models
        made here and all common ones have.

    Raises
    ------
    ValueError
        for a negative key, an empty prompt or a vocabulary that is too small.
    """
    if key < 0 or tokens < 1 or vocabulary <= FIRST_ID:
        raise ValueError(
            f"key={key}, tokens={tokens}, vocabulary={vocabulary}: not at least 0, 1 and "
            f"{FIRST_ID + 1}"
        )
    ids: list[int] = np.random.default_rng(key).integers(FIRST_ID, vocabulary, tokens).tolist()
    for place in range(tokens):
        key, digit = divmod(key, vocabulary - FIRST_ID)
        ids[place] = FIRST_ID + digit
        if key == 0:
            break
    return ids
