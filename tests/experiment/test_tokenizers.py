"""Tokenizers of other libraries: the ids they give themselves, exact bytes, one fingerprint for one content."""

import json
import subprocess
import sys

import pytest
import tiktoken
import transformers
from speedrun.data import tokenizer as speedruns
from tokenizers import processors

from discreteness.experiment.documents import DocumentError, Tokenization, built_in, of_text
from discreteness.experiment.prompts import documents_with
from discreteness.experiment.tokenizers import adapted, byte_of_character
from tests.support.any_model import END, TEXTS, bpe_with_spaces, byte_level_bpe, family

ODD = "a  b\n\tnaïve café 😀 <|endoftext|> <s> ▁"


def as_tiktoken(made):
    """The same byte-level vocabulary, as tiktoken holds one: ids are ranks."""
    alphabet = byte_of_character()
    vocabulary = made.get_vocab(with_added_tokens=False)
    ranks = {bytes(alphabet[c] for c in token): i for token, i in vocabulary.items()}
    return tiktoken.Encoding(
        "own", pat_str=speedruns.r50k_pat_str, mergeable_ranks=ranks, special_tokens={END: len(ranks)}
    )


@pytest.mark.parametrize("text", [*TEXTS[:4], ODD])
@pytest.mark.parametrize("name", ["gpt_neox", "llama"])
def test_ids_are_those_of_the_tokenizer_itself_and_bytes_are_those_of_the_text(name, text):
    own, _ = family(name)
    ours = adapted(own)
    plain = own(text, add_special_tokens=False, split_special_tokens=True).input_ids
    assert ours.encode(text, bos=False) == tuple(plain)
    assert ours.encode(text) == tuple(own(text, split_special_tokens=True).input_ids)
    space = b" " if name == "llama" else b""  # SentencePiece's
    assert b"".join(map(ours.token_bytes, plain)) == space + text.replace("▁", " " if name == "llama" else "▁").encode()


def test_what_stands_before_a_text():
    neox, llama = adapted(family("gpt_neox")[0]), adapted(family("llama")[0])
    end = family("gpt_neox")[0].eos_token_id
    assert neox.prefix() == neox.prefix(False) == ()
    assert neox.prefix(True) == neox.prefix(end) == (end,)
    assert llama.prefix() == llama.prefix(True) == (1,)
    assert (llama.prefix(False), llama.prefix(2), llama.prefix(0)) == ((), (2,), (0,))
    assert (llama.token_bytes(1), neox.token_bytes(end)) == (b"<s>", END.encode())
    assert adapted("gpt2").encode("a") == adapted(speedruns).encode("a") == (50256, 64)
    with pytest.raises(ValueError, match="no token of id 100000"):
        neox.encode("a", bos=100_000)
    with pytest.raises(ValueError, match="no BOS token: give the id of one"):
        adapted(bpe_with_spaces()).encode("a", bos=True)


def test_what_a_tokenizer_puts_behind_a_text_is_left_out():
    made = type(byte_level_bpe()).from_str(byte_level_bpe().to_str())
    end = made.token_to_id(END)
    made.post_processor = processors.TemplateProcessing(single=f"{END} $A {END}", special_tokens=[(END, end)])
    assert made.encode("the").ids == [end, *byte_level_bpe().encode("the").ids, end]
    assert adapted(made).encode("the") == (end, *byte_level_bpe().encode("the").ids)


def test_one_fingerprint_for_one_content_whatever_holds_it():
    made = byte_level_bpe()
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=made, bos_token=END)
    described = json.loads(made.to_str())["model"]
    merges = [tuple(pair) for pair in described["merges"]]
    gpt2 = transformers.GPT2Tokenizer(
        vocab=described["vocab"] | {END: made.token_to_id(END)}, merges=merges, unk_token=END, bos_token=END
    )
    prints = {adapted(one).fingerprint for one in (made, fast, gpt2, as_tiktoken(made))}
    assert len(prints) == 1
    assert adapted("gpt2").fingerprint == adapted(as_encoding_of_gpt2()).fingerprint not in prints
    more = type(made).from_str(made.to_str())
    more.add_special_tokens(["<pad>"])
    fewer_merges = json.loads(made.to_str())
    fewer_merges["model"]["merges"].pop()
    others = {adapted(more).fingerprint, adapted(type(made).from_str(json.dumps(fewer_merges))).fingerprint}
    assert len(others | prints) == 3


def as_encoding_of_gpt2():
    ranks = speedruns.read_vocabulary(speedruns.VOCABULARY_PATH)
    return tiktoken.Encoding(
        "gpt2", pat_str=speedruns.r50k_pat_str, mergeable_ranks=ranks, special_tokens={END: speedruns.BOS}
    )


def test_tiktoken_gives_the_ids_and_bytes_of_gpt2():
    theirs, ours = adapted(as_encoding_of_gpt2()), adapted("gpt2")
    for text in (*TEXTS[:4], ODD):
        assert theirs.encode(text, bos=True) == ours.encode(text)
        assert theirs.encode(text) == ours.encode(text, bos=False)
    assert all(theirs.token_bytes(i) == ours.token_bytes(i) == speedruns.decode_bytes(i) for i in range(0, 50257, 97))


def test_a_slow_tokenizer_of_bytes():
    own = transformers.ByT5Tokenizer()
    ours = adapted(own)
    assert ours.encode("aé") == tuple(own("aé", add_special_tokens=False).input_ids)
    assert ours.prefix() == ()


def test_padding_and_truncation_of_the_given_tokenizer_stay_its_own():
    made = type(byte_level_bpe()).from_str(byte_level_bpe().to_str())
    made.enable_truncation(3)
    made.enable_padding(length=5)
    before = made.to_str()
    assert adapted(made).encode(TEXTS[0]) == tuple(byte_level_bpe().encode(TEXTS[0]).ids)
    assert made.to_str() == before


def test_documents_by_any_tokenizer(tmp_path):
    llama, _ = family("llama")
    (tmp_path / "lines.jsonl").write_text(
        '{"prompt": "The capital of France is", "answer": " Paris"}\n{"text": "x =⟦ 12⟧\\n"}\n'
    )
    prompt, text = documents_with(llama, tmp_path / "lines.jsonl")
    ours = adapted(llama)
    for document, answer in ((prompt, b" Paris"), (text, b" 12")):
        assert b"".join(ours.token_bytes(document.token_ids[i]) for i in sorted(document.answers)) == answer
        assert document.token_ids == ours.encode(document.text)
    assert documents_with("gpt2") == tuple(built_in())
    assert [d.answers for d in documents_with("gpt2", bos=False)] == [{i - 1 for i in d.answers} for d in built_in()]


def test_answers_of_the_built_in_texts_are_found_by_any_tokenizer():
    for name in "gpt_neox", "llama":
        ours = adapted(family(name)[0])
        for document, gpt2 in zip(documents_with(ours), built_in(), strict=True):
            assert (document.name, document.text) == (gpt2.name, gpt2.text)
            answer = sum(len(ours.token_bytes(document.token_ids[i])) for i in document.answers)
            assert answer >= sum(len(speedruns.decode_bytes(gpt2.token_ids[i])) for i in gpt2.answers)


def test_a_token_that_has_a_part_of_an_answer_is_one_where_that_is_asked(tmp_path):
    neox = adapted(byte_level_bpe())
    (the, cat), path = (neox.encode(part) for part in ("12", " 345")), tmp_path / "text.txt"
    for marked, found in (("12⟦ 345⟧", cat), ("12 ⟦345⟧", cat), ("1⟦2⟧ 345", the[-1:]), ("⟦12 345⟧", the + cat)):
        by = Tokenization(tokenizer=neox, max_text_tokens=10, cut_answers=True)
        document = of_text(0, path, marked, by)
        assert document.token_ids == the + cat
        assert tuple(document.token_ids[i] for i in sorted(document.answers)) == found


def test_documents_that_give_no_loss_or_no_answer_are_refused_by_name(tmp_path):
    neox, _ = family("gpt_neox")
    (tmp_path / "one.txt").write_text("a")
    with pytest.raises(DocumentError, match=r"one\.txt is one token, and the first token has no loss"):
        documents_with(neox, tmp_path)
    assert len(documents_with(neox, tmp_path, bos=True)[0].token_ids) == 2
    (tmp_path / "one.txt").write_text("t⟦h⟧e")
    with pytest.raises(DocumentError, match=r"one\.txt, line 1 of the text: the borders of 'h' cut a token"):
        documents_with(neox, tmp_path)


def test_answers_need_tokens_that_spell_the_text(tmp_path):
    lower = json.loads(byte_level_bpe().to_str()) | {"normalizer": {"type": "Lowercase"}}
    made = type(byte_level_bpe()).from_str(json.dumps(lower))
    (tmp_path / "text.txt").write_text("The Cat")
    assert len(documents_with(made, tmp_path)) == 1
    (tmp_path / "text.txt").write_text("The⟦ Cat⟧")
    with pytest.raises(DocumentError, match=r"text\.txt: its tokens spell b'the cat', not the text"):
        documents_with(made, tmp_path)


@pytest.mark.parametrize("wrong", ["EleutherAI/pythia-70m", None, 3, str.split])
def test_what_is_not_a_tokenizer_is_refused(wrong):
    with pytest.raises(TypeError, match=r"is not a tokenizer that is known here: give a tokenizer of transformers"):
        adapted(wrong)


def test_no_library_of_tokenizers_is_imported_before_one_is_given():
    code = "import sys, discreteness.experiment.tokenizers as t; t.adapted('gpt2').encode('a')\n"
    code += "assert not {'transformers', 'tokenizers', 'sentencepiece', 'torch'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
