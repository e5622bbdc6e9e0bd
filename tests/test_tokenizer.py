"""Characters to token ids and back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from microgpt import CharTokenizer


def test_ids_follow_the_sorted_characters_and_bos_is_last():
    tokenizer = CharTokenizer.from_documents(["ba", "cab"])
    assert (tokenizer.chars, tokenizer.BOS, tokenizer.vocab_size) == (["a", "b", "c"], 3, 4)
    assert tokenizer.encode("cab") == [2, 0, 1]
    assert tokenizer.encode_document("cab") == [3, 2, 0, 1, 3]
    assert tokenizer.decode([2, 0, 1]) == "cab"


@given(st.lists(st.text(min_size=1), min_size=1))
def test_decoding_undoes_encoding(documents):
    tokenizer = CharTokenizer.from_documents(documents)
    for document in documents:
        assert tokenizer.decode(tokenizer.encode(document)) == document


def test_combining_marks_and_joined_emoji_are_characters_of_their_own():
    tokenizer = CharTokenizer.from_documents(["e\u0301", "👩\u200d💻"])
    assert tokenizer.vocab_size == 6
    assert tokenizer.decode(tokenizer.encode("👩\u200d💻")) == "👩\u200d💻"


def test_an_unknown_character_names_itself_and_the_vocabulary():
    with pytest.raises(ValueError, match=r"'z' is not in the vocabulary 'abc'"):
        CharTokenizer("cab").encode("abz")


@pytest.mark.parametrize("token", [-1, 3, 4, 10**30])
def test_a_token_that_stands_for_no_character_is_named(token):
    with pytest.raises(ValueError, match=f"token {token} .* 0..2"):
        CharTokenizer("abc").decode([0, token])


@pytest.mark.parametrize("kind", [iter, list, tuple, lambda items: (item for item in items)])
def test_what_takes_many_things_takes_them_from_an_iterator(kind):
    tokenizer = CharTokenizer(kind(["b", "a", "b"]))
    assert tokenizer.chars == ["a", "b"]
    assert CharTokenizer.from_documents(kind(["ab", "ba"])).chars == ["a", "b"]
    assert tokenizer.decode(kind([1, 0, 1])) == "bab"
    assert tokenizer.encode(kind(["a", "b"])) == [0, 1]
    with pytest.raises(ValueError, match="token 2"):
        tokenizer.decode(kind([0, 2]))


def test_what_is_no_token_is_named():
    with pytest.raises(TypeError, match="a token is an integer, not 'a'"):
        CharTokenizer("ab").decode("ab")
    with pytest.raises(TypeError, match=r"not 1\.0"):
        CharTokenizer("ab").decode([1.0])


def test_a_message_never_quotes_a_whole_vocabulary():
    with pytest.raises(ValueError, match="is not in the vocabulary") as caught:
        CharTokenizer(map(chr, range(0x4E00, 0x9000))).encode("a")
    assert len(str(caught.value)) < 200
