"""Text to shards: the tokens of the whole texts, whatever the pieces and processes; splits; refusals; reports."""

import dataclasses
import hashlib
import json
import re
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from speedrun.data.sampler import TrainingBatches
from speedrun.data.shards import BOS, find_shards, open_shard, write_shard
from speedrun.data.tokenizer import decode_bytes, encode, encode_array
from speedrun.tracks import small, tiny

from discreteness.cli.data_commands import Info, Make, Verify
from discreteness.shards import make as module
from discreteness.shards.make import batches, encode_pieces, make_shards, pieces
from discreteness.shards.oddities import Oddity
from discreteness.shards.report import report_shards
from tests.support.quick_track import quick

own = dataclasses.replace(
    quick,
    name="own",
    data=dataclasses.replace(
        quick.data,
        train_glob="data/mine/mine_train_*.bin",
        val_glob="data/mine/mine_val_*.bin",
        made_on_first_use=False,
    ),
)
"""A track that reads shards of one's own; run by name as tests.shards.test_make_shards:own."""

one_shard = dataclasses.replace(own, data=dataclasses.replace(own.data, train_glob="data/mine/all.bin"))

TEXTS = {
    "a.txt": "The sun comes up.\n\n  Then it goes down again.\n" * 30,
    "deep/b.txt": "one two  three\tfour\n" * 40,
    "deep/c.txt": "Où est-il ? 東京で。 \U0001f600\n" * 25,
    "d.txt": "It's <|endoftext|> in a text.\n" * 35,
    "e.txt": "1 + 1 = 2\n" * 50,
    "empty.txt": "",
    ".hidden/f.txt": "never seen",
    "g.md": "not chosen",
}


def write(folder, texts):
    for name, text in texts.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return folder


def documents_of(texts):
    """What the module promises, said once more: whole documents in the order of the names' hashes."""
    names = [n for n, text in texts.items() if n.endswith(".txt") and not n.startswith(".") and text]
    names.sort(key=lambda name: hashlib.sha256(name.encode()).digest())
    return [[BOS, *encode(texts[name])] for name in names]


def content(folder, name):
    return open_shard(folder / "data" / "mine" / name).tolist()


@pytest.mark.parametrize("processes", [1, 2])
def test_shards_hold_the_documents_in_the_promised_order_and_validation_ends_with_a_document(tmp_path, processes):
    texts = write(tmp_path / "texts", TEXTS)
    told = []
    made = make_shards(
        texts,
        tmp_path,
        own,
        val_tokens=400,
        shard_tokens=700,
        processes=processes,
        progress=lambda done, total: told.append((done, total)),
    )
    documents = documents_of(TEXTS)
    assert len(documents) == 5
    lengths = np.cumsum([len(document) for document in documents])
    in_val = int(np.searchsorted(lengths, 401)) + 1
    val = [token for document in documents[:in_val] for token in document]
    train = [token for document in documents[in_val:] for token in document]
    assert content(tmp_path, "mine_val_000000.bin") == val
    shards = [train[at : at + 700] for at in range(0, len(train), 700)]
    assert len(shards) >= 2
    for number, shard in enumerate(shards, 1):
        assert content(tmp_path, f"mine_train_{number:06d}.bin") == shard
    assert (made.documents, made.train_tokens, made.val_tokens) == (5, len(train), len(val))
    assert (
        made.train_shards
        == len(shards)
        == len(list(made.folder.glob("mine_train_*")))
        == len(list(made.folder.iterdir())) - 1
    )
    size = sum(len(text.encode()) for name, text in TEXTS.items() if name.endswith(".txt") and name[0] != ".")
    assert told[-1] == (size, size)


def test_the_trainer_reads_them(tmp_path):
    make_shards(write(tmp_path / "texts", TEXTS), tmp_path, own, val_tokens=100, processes=1)
    sampler = TrainingBatches(find_shards(tmp_path, own.data.train_glob), 0, 1, 2, 512)
    inputs, targets, offsets = sampler.next(128)
    assert inputs[0] == BOS
    assert inputs[1:].tolist() == targets[:-1].tolist()
    assert offsets[-1] == 64


VARIED = st.text(st.sampled_from("\n\n\n\n  \t\r\u3000\u2028aa's1,é東\U0001f600"), max_size=300)


@example("a\r\nb", 1, 7)
@example("\n\na", 1, 7)
@example("a\n\n\nb\n\n c", 1, 7)
@example("a\n\n\nb\n\n c", 2, 7)
@given(VARIED, st.integers(1, 40), st.sampled_from([2, 3, 7, 1 << 16]))
def test_pieces_never_change_the_tokens(text, piece_bytes, look_bytes):
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "LOOK_BYTES", look_bytes)
        path = Path(folder, "one.txt")
        path.write_bytes(text.encode())
        cut = list(pieces(path, piece_bytes))
        assert [p.start for p in cut] == [0, *(p.stop for p in cut[:-1])][: len(cut)]
        assert all(p.stop - p.start > 0 for p in cut)
        encoded = encode_pieces(cut)
        assert encoded.tokens.tolist() == ([BOS, *encode(text.replace("\r\n", "\n"))] if text.strip() else [])
        assert encoded.num_bytes == len(text.encode())
        changed = bool(text.strip()) and "\r\n" in text
        odd = [Oddity.BLANK] * (text != "" and not text.strip()) + [Oddity.CRLF] * changed
        assert {oddity for oddity, _ in encoded.odd} == set(odd)


def test_a_long_file_is_cut_and_short_ones_are_joined(tmp_path):
    paths = [tmp_path / name for name in ("long.txt", "x.txt", "y.txt", "z.txt")]
    paths[0].write_text("word\n" * 1000)
    for path in paths[1:]:
        path.write_text("short\n")
    found = [[(piece.path.name, piece.stop - piece.start) for piece in batch] for batch in batches(paths, 2000)]
    assert [sum(size for _, size in batch) for batch in found] == [2004, 2000, 996 + 3 * 6]
    assert [name for name, _ in found[2]] == ["long.txt", "x.txt", "y.txt", "z.txt"]


def test_every_line_of_jsonl_is_a_document(tmp_path):
    lines = ["first\nof two lines", "with \u2028 inside", "\ud800 alone", "last"]
    text = "\n".join(json.dumps({"text": line, "id": 1}, ensure_ascii=line != lines[1]) for line in lines)
    write(tmp_path / "texts", {"all.jsonl": text + "\n\n" + json.dumps({"text": ""})})
    make_shards(tmp_path / "texts", tmp_path, own, glob="*.jsonl", val_tokens=5, processes=1)
    whole = content(tmp_path, "mine_val_000000.bin") + content(tmp_path, "mine_train_000001.bin")
    assert whole == [token for line in lines for token in (BOS, *encode(line))]
    for bad in ('{"text": 1}', "[]", "{", '{"words": "a"}'):
        write(tmp_path / "bad", {"all.jsonl": bad})
        with pytest.raises(ValueError, match=r'all\.jsonl, behind byte 0: .* is not a JSON object with a "text"'):
            make_shards(tmp_path / "bad", tmp_path / "other", own, glob="*.jsonl", val_tokens=1, processes=1)
    assert not (tmp_path / "other").exists(), "nothing half made is left, nor a folder for it"


def test_bytes_that_are_no_utf8_are_replaced_and_said(tmp_path):
    write(tmp_path / "texts", {"a.txt": b"caf\xe9 au lait", "b.txt": "café", "c.txt": "thé"})
    made = make_shards(tmp_path / "texts", tmp_path, own, val_tokens=1, processes=1)
    assert {oddity: [path.name for path in files] for oddity, files in made.odd.items()} == {Oddity.NOT_UTF8: ["a.txt"]}
    whole = content(tmp_path, "mine_val_000000.bin") + content(tmp_path, "mine_train_000001.bin")
    wanted = encode("caf\ufffd au lait")
    assert any(whole[at : at + len(wanted)] == wanted for at in range(len(whole)))


def test_what_no_writer_meant_is_left_out_or_refused_and_said(tmp_path, capsys):
    odd = {
        "bom.txt": "\ufeffone \ufeff two\n",
        "windows.txt": "three\r\n\r\nfour\r\n",
        "blank.txt": " \n\t\r\n",
        "plain.txt": "five\rsix",
        "lines.jsonl": '\ufeff{"text": "a\\r\\nb"}\r\n{"text": " \\n"}\r\n{"text": "c"}\r\n',
    }
    command = Make(
        str(write(tmp_path / "texts", odd)),
        data=str(tmp_path),
        track="tests.shards.test_make_shards:own",
        glob="*.*",
        val_tokens=1,
    )
    assert command() == 0
    whole = content(tmp_path, "mine_val_000000.bin") + content(tmp_path, "mine_train_000001.bin")
    found = sorted(bytes(0).join(map(decode_bytes, whole)).decode().split("<|endoftext|>"))
    assert found == ["", "a\nb", "c", "five\rsix", "one \ufeff two\n", "three\n\nfour\n"]
    told = " ".join(capsys.readouterr().out.split())
    for count, words in (
        (2, "begin with a byte order mark, which was left out"),
        (2, "have line ends of Windows (CRLF), which became LF"),
        (2, "hold documents without text, or with white space alone, which were left out"),
    ):
        assert re.search(rf"warning: {count} files, such as \S+, {re.escape(words)}", told), told


@pytest.mark.parametrize(("name", "bad"), [("utf16.txt", "a\0b\0"), ("lines.jsonl", '{"text": "a\\u0000b"}')])
def test_a_nul_is_refused_by_its_file(tmp_path, name, bad):
    path = write(tmp_path, {name: bad}) / name
    with pytest.raises(ValueError, match=rf"{name}, behind byte 0: holds NUL.* if it is UTF-16, or leave it out by"):
        encode_pieces(list(pieces(path, 100)))


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"texts": "nowhere"}, ValueError, "nowhere is not a folder"),
        ({"glob": "*.pdf"}, ValueError, r"matches '\*\.pdf'.*--glob"),
        ({"recipe": tiny}, ValueError, "track tiny does not read shards of one folder"),
        ({"val_tokens": 10**6}, ValueError, "takes 1000001 and the rest"),
        ({"val_tokens": 0}, ValueError, "--val-tokens 0"),
        ({"shard_tokens": 2**31}, ValueError, "--shard-tokens 2147483648"),
        ({"recipe": one_shard}, ValueError, "track own does not read shards of one folder that can be filled"),
        ({"data_root": "full"}, FileExistsError, "not empty: delete it"),
    ],
)
def test_what_cannot_be_made_is_refused_and_leaves_nothing(tmp_path, change, error, words):
    texts = write(tmp_path / "texts", TEXTS)
    write(tmp_path / "full", {"data/mine/mine_train_000001.bin": "x"})
    arguments = dict(texts=texts, data_root=tmp_path, recipe=own, val_tokens=100, processes=1) | change
    if change.get("data_root"):
        arguments["data_root"] = tmp_path / "full"
    with pytest.raises(error, match=words):
        make_shards(**arguments)
    left = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if texts not in path.parents}
    full = {"full", "full/data", "full/data/mine", "full/data/mine/mine_train_000001.bin"}
    assert left == {"texts", *full}


@given(st.text())
def test_arrays_hold_the_same_ids(text):
    assert encode_array(text).tolist() == encode(text)
    assert encode_array(text).dtype == np.uint16


def test_a_lone_surrogate_is_encoded_as_by_encode():
    assert encode_array("a\ud800b").tolist() == encode("a\ud800b")


def test_reports_count_and_name_what_is_wrong(tmp_path):
    write_shard(tmp_path / "good.bin", np.array([7, BOS, 1, 2, BOS, 3, 4, 5]))
    write_shard(tmp_path / "high.bin", np.array([BOS, 50257, 1]))
    write_shard(tmp_path / "none.bin", np.array([1, 2]))
    (tmp_path / "short.bin").write_bytes((tmp_path / "good.bin").read_bytes()[:-2])
    good, high, none, short = report_shards([tmp_path])
    assert (good.tokens, good.documents, good.longest_document, good.problems) == (8, 2, 4, ())
    assert "high.bin holds id 50257" in high.problems[0]
    assert "none.bin has no document" in none.problems[0]
    assert "short.bin has 1038 bytes, expected 1040" in short.problems[0]
    with pytest.raises(ValueError, match=r"no \.bin file under"):
        list(report_shards([tmp_path / "good.bin", write(tmp_path / "texts", TEXTS)]))
    for command in Info, Verify:
        with pytest.raises(ValueError, match=r"^no shard is named: give shards, or the folder"):
            command(())()
        with pytest.raises(ValueError, match=r"nope is not there: give shards, or the folder"):
            command((str(tmp_path / "nope"),))()


def test_the_commands_make_describe_and_check(tmp_path, capsys):
    texts = write(tmp_path / "texts", TEXTS | {"latin.txt": b"caf\xe9"})
    command = Make(str(texts), data=str(tmp_path), track="tests.shards.test_make_shards:own", val_tokens=300)
    assert command() == 0
    output = " ".join(capsys.readouterr().out.split())
    assert f"6 documents in {tmp_path}/data/mine training: " in output
    assert re.search(r"warning: 1 files, such as \S+/latin.txt, are not UTF-8 throughout: bytes", output)
    with pytest.raises(FileExistsError, match="is not empty: delete it"):
        command()
    assert Info((str(tmp_path),), track="tests.shards.test_make_shards:own")() == 0
    total = sum(len(open_shard(path)) for path in (tmp_path / "data" / "mine").iterdir())
    assert capsys.readouterr().out.splitlines()[-2].split()[:2] == [str(total), "6"]
    assert Verify((str(tmp_path / "data" / "mine"),))() == 0
    assert capsys.readouterr().out == "2 shards: complete and correct\n"
    (tmp_path / "data/mine/mine_val_000000.bin").write_bytes(b"x" * 2000)
    assert Verify((str(tmp_path),))() == 1
    output = capsys.readouterr().out
    assert "magic" in output and "2 shards: 1 problems" in output
    assert Info((str(tmp_path),))() == 1
    assert "\nproblem: shard" in capsys.readouterr().out


def test_documents_longer_than_the_track_reads_are_split_and_said(tmp_path, capsys):
    texts = write(tmp_path / "texts", TEXTS)
    whole = documents_of(TEXTS)
    assert [len(document) > 100 for document in whole] == [True] * 5

    def make(name, **options):
        track = "tests.shards.test_make_shards:own"
        assert Make(str(texts), data=str(tmp_path / name), track=track, val_tokens=1, **options)() == 0
        shards = sorted((tmp_path / name / "data" / "mine").iterdir(), key=lambda path: "train" in path.name)
        tokens = np.concatenate([open_shard(path) for path in shards])
        return np.split(tokens, np.flatnonzero(tokens == BOS))[1:], " ".join(capsys.readouterr().out.split())

    pieces_made, said = make("short", max_document_tokens=100)
    expected = [document[1:][at : at + 99] for document in whole for at in range(0, len(document) - 1, 99)]
    assert [piece.tolist() for piece in pieces_made] == [[BOS, *part] for part in expected]
    assert f"5 documents in {tmp_path}/short/data/mine" in said
    count = f"split: 5 documents of more than 100 tokens into {len(expected)} pieces"
    assert count in said and "warning" not in said

    pieces_made, said = make("default")
    assert max(map(len, pieces_made)) <= own.data.max_document_tokens
    pieces_made, said = make("whole", max_document_tokens=10**6)
    assert [piece.tolist() for piece in pieces_made] == whole and "split" not in said
    assert "warning: track own reads the first 512 tokens of a document and leaves out what lies behind" in said


def test_info_counts_what_a_track_trains_on_in_each_folder(tmp_path, capsys):
    """Documents of 41 tokens, of which each slot of 16 uses up one: 41 of them are 10 updates of 4 slots."""
    for name, count in ("a", 41), ("b", 11), ("c", 3):
        tokens = np.zeros(41 * count, np.uint16)
        tokens[::41] = BOS
        (tmp_path / name).mkdir()
        write_shard(tmp_path / name / "tiny_train_000001.bin", tokens)
    info = Info((str(tmp_path),), track="tests.support.brief_track:brief")
    assert info() == 0
    first, second, third = capsys.readouterr().out.splitlines()[-3:]
    assert first == (
        f"track brief in {tmp_path}/a: a seed needs 320 tokens for 5 updates; one pass over 1 shard of 1,681 gives "
        "640, 10 updates (0 lie beyond token 512 of their documents, and 1,041 are rests of documents at the ends of "
        "slots or of shards); passes needed: 1"
    )
    assert second.endswith("passes needed: 2") and "gives 128, 2 updates" in second  # the third is begun in the first
    assert "gives 0, 0 updates" in third and third.endswith("passes needed: 7")  # 20 slots, 3 in each pass
    assert dataclasses.replace(info, workers_per_trainer=4)() == 0
    third = capsys.readouterr().out.splitlines()[-1]
    assert "passes needed: none is enough: the 1 training shards from" in third
    assert dataclasses.replace(info, track="small")() == 0
    assert capsys.readouterr().out.splitlines()[-1] == (
        "no training shard of track small among them, which would be a data/fineweb10B/fineweb_train_*.bin"
    )
    (tmp_path / "a" / "tiny_train_000001.bin").write_bytes(b"bad")
    assert info() == 1, "a shard is damaged"
    assert capsys.readouterr().out.splitlines()[-2].startswith(f"track brief in {tmp_path}/b")


def test_the_command_line_reaches_them(program, tmp_path):
    write_shard(tmp_path / "one.bin", np.array([BOS, 1, 2]))
    run = program("-m", "discreteness", "data", "verify", tmp_path)
    assert run.wait() == 0, run.output
    assert run.output == "1 shards: complete and correct\n"


def test_the_small_track_finds_them_under_its_own_names(tmp_path):
    made = make_shards(write(tmp_path / "texts", TEXTS), tmp_path, small, val_tokens=100, processes=1)
    assert made.folder == tmp_path / "data" / "fineweb10B"
    assert [path.name for path in find_shards(tmp_path, small.data.train_glob)] == ["fineweb_train_000001.bin"]
    assert [path.name for path in find_shards(tmp_path, small.data.val_glob)] == ["fineweb_val_000000.bin"]
