import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmsched_gym.testbed.prompts import FIRST_ID, VOCABULARY, prompt_ids

keys = st.integers(0, 2**40)


@given(keys, st.integers(1, 300), st.integers(FIRST_ID + 2, 200_000))
def test_a_prompt_has_its_length_and_ids_of_the_vocabulary(
    key: int, tokens: int, vocabulary: int
) -> None:
    ids = prompt_ids(key, tokens, vocabulary)
    assert len(ids) == tokens
    assert all(type(one) is int and FIRST_ID <= one < vocabulary for one in ids)
    assert ids == prompt_ids(key, tokens, vocabulary)


@given(st.lists(keys, min_size=2, max_size=50, unique=True), st.integers(4, 40))
def test_prompts_of_different_keys_differ_in_their_first_ids(keys: list[int], tokens: int) -> None:
    assert len({tuple(prompt_ids(key, tokens)[:4]) for key in keys}) == len(keys)


def test_successive_keys_differ_in_the_very_first_id() -> None:
    span = VOCABULARY - FIRST_ID
    assert len({prompt_ids(key, 1)[0] for key in range(span)}) == span


@pytest.mark.parametrize("arguments", [(-1, 1), (0, 0), (0, 1, FIRST_ID)])
def test_what_is_no_prompt(arguments: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="not at least 0, 1 and 301"):
        prompt_ids(*arguments)
