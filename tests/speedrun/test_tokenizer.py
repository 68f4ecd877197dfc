"""GPT-2 ids and bytes, there and back."""

import hashlib

import pytest
import tiktoken
from hypothesis import given
from hypothesis import strategies as st
from speedrun.data import tokenizer
from speedrun.data.tokenizer import BOS, NUM_IDS, VOCABULARY_PATH, decode_bytes, encode, read_vocabulary

VOCABULARY = read_vocabulary(VOCABULARY_PATH)


def test_known_ids():
    assert encode("Hello world") == [15496, 995]
    assert encode("") == []
    assert encode("\n") == [198]
    assert encode("The capital of France is Paris.") == [464, 3139, 286, 4881, 318, 6342, 13]


def test_known_splits():
    def pieces(text):
        return [decode_bytes(token).decode() for token in encode(text)]

    assert pieces("3 + 4 = 7\n") == ["3", " +", " 4", " =", " 7", "\n"]
    assert pieces("    return a") == [" ", " ", " ", " return", " a"]
    assert pieces("they're  two\r\n") == ["they", "'re", " ", " two", "\r", "\n"]


def test_the_special_token_s_text_is_ordinary():
    ids = encode("a<|endoftext|>b")
    assert BOS not in ids
    assert b"".join(map(decode_bytes, ids)) == b"a<|endoftext|>b"
    assert decode_bytes(BOS) == b"<|endoftext|>"


@given(st.text())
def test_decoding_gives_the_text_back(text):
    ids = encode(text)
    assert b"".join(map(decode_bytes, ids)) == text.encode()
    assert all(0 <= token < BOS for token in ids)


@given(st.integers(0, NUM_IDS - 1))
def test_every_id_has_bytes_of_its_own(token):
    assert VOCABULARY.get(decode_bytes(token), BOS) == token


def test_a_lone_surrogate_becomes_the_replacement_character():
    assert encode("a\ud800b") == encode("a\ufffdb")


@pytest.mark.parametrize("token", [-1, 50257])
def test_no_such_id(token):
    with pytest.raises(ValueError, match=f"token id {token} .* 0 to 50256"):
        decode_bytes(token)


def test_vocabulary_file():
    assert hashlib.sha256(VOCABULARY_PATH.read_bytes()).hexdigest() == tokenizer.VOCABULARY_SHA256
    vocabulary = read_vocabulary(VOCABULARY_PATH)
    assert sorted(vocabulary.values()) == list(range(50256))
    assert vocabulary[b"Hello"] == 15496 and vocabulary[b" world"] == 995


def test_a_damaged_vocabulary_is_refused(tmp_path):
    path = tmp_path / "gpt2.tiktoken"
    path.write_bytes(VOCABULARY_PATH.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"gpt2\.tiktoken has sha256 .*expected 306cd27f.*reinstall") as error:
        read_vocabulary(path)
    assert "\n" not in str(error.value)


def test_nothing_is_downloaded(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("the tokenizer opened a connection")

    monkeypatch.setattr("socket.socket.connect", refuse)
    tokenizer._encoding.cache_clear()
    assert encode("Hello world") == [15496, 995]
    assert isinstance(tokenizer._encoding(), tiktoken.Encoding)
