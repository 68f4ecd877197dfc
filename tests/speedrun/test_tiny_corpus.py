"""The tiny corpus: determinism, coverage, concurrent first use, bad folders."""

import functools
import hashlib
import json
import subprocess
import sys
from pathlib import Path
from random import Random

import numpy as np
import pytest
from speedrun.data import tiny_corpus
from speedrun.data.sampler import TrainingBatches, ValidationChunks
from speedrun.data.shards import find_shards, open_shard
from speedrun.data.tiny_corpus import docstring_sentences, ensure_tiny_corpus, make_documents, make_vocabulary
from speedrun.data.tiny_skills import SKILLS
from speedrun.data.tokenizer import BOS, decode_bytes, encode
from speedrun.data.vocabulary import Vocabulary
from speedrun.tracks import tiny

from discreteness.experiment.documents import built_in

ENSURE = "import sys; from speedrun.data.tiny_corpus import ensure_tiny_corpus; print(ensure_tiny_corpus(sys.argv[1]))"


@pytest.fixture(autouse=True)
def docstrings_read_once(monkeypatch):
    """Reading the standard library takes most of the time; here it happens once a process."""
    monkeypatch.setattr(tiny_corpus, "_sentences", remembered_sentences)


remembered_sentences = functools.cache(tiny_corpus._sentences)


@pytest.fixture(scope="module")
def data_root(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("data-root")
    ensure_tiny_corpus(root)
    return root


def texts_of(path: Path) -> list[str]:
    tokens = np.asarray(open_shard(path))
    documents = np.split(tokens, np.flatnonzero(tokens == BOS))[1:]
    return [b"".join(decode_bytes(int(token)) for token in document[1:]).decode() for document in documents]


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def refused(call) -> str:
    with pytest.raises(ValueError) as error:
        call()
    assert "\n" not in str(error.value)
    return str(error.value)


def test_shards(data_root):
    train = find_shards(data_root, tiny.data.train_glob)
    val = find_shards(data_root, tiny.data.val_glob)
    assert [path.name for path in train] == ["tiny_train_000001.bin", "tiny_train_000002.bin"]
    assert [path.name for path in val] == ["tiny_val_000000.bin"]
    assert 1_600_000 <= sum(len(open_shard(path)) for path in train) <= 1_610_000
    assert 64_000 <= len(open_shard(val[0])) <= 68_000
    for path in train + val:
        tokens = np.asarray(open_shard(path))
        starts = np.flatnonzero(tokens == BOS)
        assert starts[0] == 0
        lengths = np.diff(starts, append=len(tokens)) - 1
        assert lengths.min() >= 30 and lengths.max() <= 500, "tokens of a document, BOS not counted"


def test_no_text_is_there_twice_nor_among_the_validation_documents(data_root):
    texts = [text for path in sorted((data_root / "data/tiny").glob("*.bin")) for text in texts_of(path)]
    assert len(set(texts)) == len(texts) > 10_000
    assert not {document.text for document in built_in()} & set(texts)
    assert all(text.endswith("\n") for text in texts)


def test_docstrings_of_validation_are_held_out(data_root):
    modules = docstring_sentences(tiny_corpus.read_vocabulary())
    learnt = {sentence for n, module in enumerate(modules) if n % 8 for sentence in module}
    held_out = {sentence for module in modules[::8] for sentence in module} - learnt
    val, train = (
        "".join(
            text for path in sorted((data_root / "data/tiny").glob(f"tiny_{split}_*.bin")) for text in texts_of(path)
        )
        for split in ("val", "train")
    )
    found = sorted(sentence for sentence in held_out if sentence in val)
    assert len(found) > 50
    assert not [sentence for sentence in found[:50] if sentence in train]


def test_the_tiny_track_can_read_it(data_root):
    data = tiny.data
    batches = TrainingBatches(find_shards(data_root, data.train_glob), 0, 1, data.num_slots, data.max_document_tokens)
    for batch_tokens in tiny.schedule.batch_tokens:
        inputs, _, _ = batches.next(batch_tokens)
        assert len(inputs) == batch_tokens // data.num_slots
    chunks = ValidationChunks(find_shards(data_root, data.val_glob), data.val_tokens, data.val_chunk_tokens)
    assert len(chunks) == data.val_tokens // data.val_chunk_tokens


def test_the_vocabulary_covers_corpus_and_documents(data_root):
    vocabulary = Vocabulary.load(tiny_corpus.VOCABULARY_PATH)
    assert vocabulary.num_rows == 3072 <= tiny.model.vocab_size
    for path in find_shards(data_root, "data/tiny/*.bin"):
        assert vocabulary.contains(np.asarray(open_shard(path))), path.name
    for document in built_in():
        assert vocabulary.contains(np.array(document.token_ids)), document.name


def test_vocabulary_file_is_ascending_and_without_bos():
    ids = [int(line) for line in tiny_corpus.VOCABULARY_PATH.read_text().splitlines()]
    assert ids == sorted(set(ids)) and len(ids) <= tiny_corpus.MAX_VOCABULARY_IDS and BOS not in ids


def test_two_generations_are_bitwise_equal(data_root, tmp_path):
    # another process with another hash seed
    subprocess.run([sys.executable, "-c", ENSURE, str(tmp_path)], check=True, env={"PYTHONHASHSEED": "7"})
    assert files(tmp_path / "data/tiny") == files(data_root / "data/tiny")


def test_the_recipe_s_number_changes_with_the_skills():
    """If this fails the corpus changed: raise RECIPE, so that older shards are refused, and set the hash."""
    seen: set[str] = set()
    documents = make_documents("val", 64_000, None, seen) + make_documents("train", 200_000, None, seen)
    found = hashlib.sha256(np.concatenate(documents).astype("<u2").tobytes()).hexdigest()[:16]
    assert (tiny_corpus.RECIPE, found) == (1, "d6a6ac787849e58c")


def test_many_processes_may_ask_first(data_root, tmp_path):
    processes = [
        subprocess.Popen([sys.executable, "-c", ENSURE, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    for process in processes:
        out, _ = process.communicate()
        assert process.returncode == 0 and Path(out.strip()) == tmp_path / "data/tiny"
    assert files(tmp_path / "data/tiny") == files(data_root / "data/tiny")
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["tiny"], "no unfinished folder stays"


def test_the_loser_of_the_race_takes_the_winner_s_folder(data_root, tmp_path, monkeypatch):
    real = tiny_corpus.write_shard

    def meanwhile_another_finishes(path, tokens):
        real(path, tokens)
        folder = tmp_path / "data/tiny"
        if not folder.exists():
            folder.mkdir()
            for name, content in files(data_root / "data/tiny").items():
                (folder / name).write_bytes(content)

    monkeypatch.setattr(tiny_corpus, "write_shard", meanwhile_another_finishes)
    assert ensure_tiny_corpus(tmp_path) == tmp_path / "data/tiny"
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["tiny"]


def test_an_interrupted_generation_leaves_nothing(tmp_path, monkeypatch):
    real, calls = tiny_corpus.write_shard, []

    def interrupted(path, tokens):
        calls.append(path)
        if len(calls) == 2:
            raise KeyboardInterrupt
        real(path, tokens)

    monkeypatch.setattr(tiny_corpus, "write_shard", interrupted)
    with pytest.raises(KeyboardInterrupt):
        ensure_tiny_corpus(tmp_path)
    assert list((tmp_path / "data").iterdir()) == []


def test_what_a_killed_process_left_is_in_nobody_s_way(data_root, tmp_path):
    left = tmp_path / "data/.tiny-0123"
    left.mkdir(parents=True)
    (left / "tiny_train_000001.bin").write_bytes(b"half")
    (tmp_path / "data/tiny").mkdir()
    ensure_tiny_corpus(tmp_path)
    assert files(tmp_path / "data/tiny") == files(data_root / "data/tiny")


def test_it_is_made_once(data_root, monkeypatch):
    monkeypatch.setattr(tiny_corpus, "_make", lambda folder: pytest.fail("made again"))
    assert ensure_tiny_corpus(str(data_root)) == data_root / "data/tiny"


def copy_of(data_root, tmp_path) -> Path:
    folder = tmp_path / "data/tiny"
    folder.mkdir(parents=True)
    for name, content in files(data_root / "data/tiny").items():
        (folder / name).write_bytes(content)
    return folder


def test_a_lost_or_cut_shard_is_refused(data_root, tmp_path):
    folder = copy_of(data_root, tmp_path)
    shard = folder / "tiny_val_000000.bin"
    size = shard.stat().st_size
    shard.write_bytes(shard.read_bytes()[:-2])
    message = refused(lambda: ensure_tiny_corpus(tmp_path))
    assert f"{shard} has {size - 2} bytes, expected {size}; delete {folder}" in message
    shard.unlink()
    assert f"{shard} has no bytes" in refused(lambda: ensure_tiny_corpus(tmp_path))


@pytest.mark.parametrize("content", ["", "[]", '{"recipe": "1"}'])
def test_a_damaged_manifest_is_refused(data_root, tmp_path, content):
    (copy_of(data_root, tmp_path) / "tiny_corpus.json").write_text(content)
    assert "tiny_corpus.json is damaged; delete" in refused(lambda: ensure_tiny_corpus(tmp_path))


def test_another_recipe_is_refused_not_mixed(data_root, tmp_path, monkeypatch):
    folder = copy_of(data_root, tmp_path)
    found = json.loads((folder / "tiny_corpus.json").read_text())["recipe"]
    monkeypatch.setattr(tiny_corpus, "RECIPE", 99)
    message = refused(lambda: ensure_tiny_corpus(tmp_path))
    assert f"another recipe ({found}, now 99, vocabulary" in message and f"delete {folder}" in message


def test_a_data_root_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    message = refused(lambda: ensure_tiny_corpus(tmp_path / "file"))
    assert "cannot make the tiny corpus" in message and "Not a directory" in message and "data root" in message


def test_a_foreign_folder_in_the_place_is_left_alone(tmp_path):
    (tmp_path / "data/tiny").mkdir(parents=True)
    (tmp_path / "data/tiny/notes").write_text("mine")
    assert "not empty" in refused(lambda: ensure_tiny_corpus(tmp_path))
    assert [path.name for path in (tmp_path / "data/tiny").iterdir()] == ["notes"]
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["tiny"]


def test_a_python_without_sources_is_refused_not_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr(tiny_corpus, "DOCSTRING_MODULES", "bisect no_such_module")
    assert "give 0 sentences, the tiny corpus needs 1000" in refused(lambda: ensure_tiny_corpus(tmp_path))


def test_each_skill_has_its_share_of_the_tokens():
    seen: set[str] = set()
    prose = functools.partial(tiny_corpus._prose, docstring_sentences(None))
    documents = make_documents("train", 240_000, prose, seen)
    total = sum(map(len, documents))
    assert sum(SKILLS.values()) == 22 and 240_000 <= total <= 240_000 + 17 * 500
    of_skills = 0
    for skill, share in SKILLS.items():
        random, mine, used = Random(f"train {skill.__name__}"), 0, set()
        while mine <= 10_000 * share:
            text = skill(random)
            assert text in seen
            mine += 0 if text in used else len(encode(text)) + 1
            used.add(text)
        of_skills += mine
    assert 20_000 < total - of_skills < 20_500


@pytest.mark.slow
def test_the_vocabulary_command_gives_the_committed_list():
    ids = make_vocabulary(document.text for document in built_in())
    committed = tiny_corpus.read_vocabulary()
    if sys.version_info[:2] == (3, 11):  # the docstrings' part differs between Python versions
        assert set(ids) == committed
    assert len(ids) == len(committed) == tiny_corpus.VOCABULARY_IDS


def test_texts_with_too_many_ids_are_refused():
    text = b" ".join(decode_bytes(token) for token in range(300, 9000)).decode("utf-8", "replace")
    assert "at most 4094 fit" in refused(lambda: make_vocabulary([text]))


def test_command(tmp_path):
    command = [sys.executable, "-m", "speedrun.data.tiny_corpus"]
    made = subprocess.run([*command, "--data-root", str(tmp_path)], capture_output=True, text=True, check=True)
    assert made.stdout == f"{tmp_path / 'data/tiny'}\n"
    (tmp_path / "file").touch()
    failed = subprocess.run(
        [*command, "--data-root", str(tmp_path / "file")], capture_output=True, text=True, check=False
    )
    assert failed.returncode == 1 and failed.stderr.count("\n") == 1 and "data root" in failed.stderr
