"""A dataset published on a hub of this machine: all or nothing, resumed, compared by hash, and read back."""

import fnmatch
import re

import numpy as np
import pyarrow.parquet as pq
import pytest

import discreteness
from discreteness.cli.main import _parsed
from discreteness.dataset.by_token.compaction import compact
from discreteness.dataset.paths import weights_path
from discreteness.dataset.sharing import publish as module
from discreteness.dataset.sharing.card import QUESTION, TABLES, Words
from discreteness.dataset.sharing.publish import publish
from discreteness.dataset.verify import verify
from discreteness.experiment.annotate import annotate
from tests.dataset.test_merge import WEIGHTS
from tests.support.dataset_case import IDENTITY, commit, create
from tests.support.dataset_hub import TOKEN, DatasetHub

URI = "hf://datasets/me/name"
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # of the hub's client
WORDS = Words(licence="cc-by-4.0")


def made(folder, seeds, **changes):
    dataset = create(folder, **changes)
    for seed in seeds:
        commit(dataset, seed)
    compact(folder)
    return dataset


@pytest.fixture
def folder(tmp_path):
    dataset = made(tmp_path / "local", (0, 1, 2))
    dataset.storage.write(weights_path(1, "one", 20), WEIGHTS)
    dataset.storage.write("analysis/overview.png", b"a picture")
    dataset.log({"event": "job began", "seeds": [0, 1, 2], "max_attempts": 3})
    return tmp_path / "local"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    with DatasetHub() as hub:
        hub.use(monkeypatch, tmp_path)
        monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
        yield hub


def uploads(hub):
    return [request for request in hub.requests if request.startswith("PUT /lfs/")]


def test_published_opened_verified_and_equal_file_by_file(hub, folder):
    published = publish(folder, "me/name", WORDS)
    tree = hub.tree("main")
    names = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert tree.keys() - {".gitattributes", "README.md"} == {
        n for n in names if n.split("/")[0] not in ("log", "weights")
    }
    assert published.files == {name: len(content) for name, content in tree.items() if name != ".gitattributes"}
    assert all(tree[name] == (folder / name).read_bytes() for name in names & tree.keys())
    assert len(hub.commits) == 2, "everything appears by one commit"
    assert verify(URI) == [] and discreteness.open(f"{URI}@{published.commit}").seeds == [0, 1, 2]
    assert np.array_equal(discreteness.open(URI).losses("a.txt"), discreteness.open(folder).losses("a.txt"))


def test_again_sends_what_is_new_and_deletes_what_it_replaces(hub, folder):
    first = publish(folder, "me/name", WORDS)
    again = publish(folder, "me/name", WORDS, weights=True)
    assert again.sent == (weights_path(1, "one", 20),) and len(hub.commits) == 3
    assert publish(folder, "me/name", WORDS).sent == () and len(hub.commits) == 3
    for seed in 3, 4:  # as many as make a part with those that are there
        commit(create(folder), seed)
    compact(folder)
    hub.requests.clear()
    sent = publish(folder, "me/name", WORDS).sent
    assert {"README.md", "losses/seed=00003.parquet", "runs/seed=00003-one.parquet", "tokens/parts.json"} < set(sent)
    assert not {"losses/seed=00000.parquet", "experiment.json"} & set(sent)
    old = {name for name in first.files if name.startswith("tokens/") and name.endswith(".parquet")}
    assert not old & hub.tree("main").keys() and weights_path(1, "one", 20) in hub.tree("main")
    assert verify(URI) == [] and discreteness.open(URI).seeds == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("how", ["busy", "cut"])
def test_interrupted_it_shows_nothing_and_goes_on_with_the_rest(hub, folder, monkeypatch, how):
    monkeypatch.setattr(module, "FILES_AT_ONCE", 3)
    hub.disturb = lambda request: how if len(uploads(hub)) > 4 and request.startswith("PUT") else ""
    with pytest.raises(OSError, match=r"the hub (answers 429; try again later|cannot be reached)"):
        publish(folder, "me/name", WORDS)
    assert len(hub.commits) == 1 and len(hub.objects) >= 3
    came = set(hub.objects)
    del hub.disturb
    hub.requests.clear()
    publish(folder, "me/name", WORDS)
    assert not {request.rpartition("/")[2] for request in uploads(hub)} & came and verify(URI) == []


def test_what_the_hub_holds_otherwise_is_named(hub, folder):
    hub.damage = True
    with pytest.raises(OSError, match=r"@0{39}1 does not hold what was sent of analysis/overview.png, documents"):
        publish(folder, "me/name", WORDS)


def test_seeds_and_experiments_of_others_are_left_as_they_are(hub, folder, tmp_path):
    publish(folder, "me/name", WORDS)
    made(tmp_path / "less", (0, 1))
    with pytest.raises(ValueError, match=r"holds seeds 2, which \S+/less does not have.*discreteness merge"):
        publish(tmp_path / "less", "me/name", WORDS)
    made(tmp_path / "other", (0,), identity={**IDENTITY, "packing": "reference"})
    with pytest.raises(ValueError, match=r"packing: 'isolated' there, 'reference' here"):
        publish(tmp_path / "other", "me/name", WORDS)
    assert len(hub.commits) == 2


def test_a_token_comes_from_the_hubs_own_place_and_is_not_shown(hub, folder, monkeypatch, capsys):
    hub.private = True
    arguments = ["publish", str(folder), "--repo", "me/name", "--license", "mit"]
    with pytest.raises(OSError, match=r"`hf auth login` or set HF_TOKEN"):
        _parsed(arguments)()
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert _parsed(arguments)() == 0
    out = capsys.readouterr()
    assert "all hashes agree; discreteness.open(" in out.out and TOKEN not in out.out + out.err
    assert all(TOKEN.encode() not in content for content in hub.tree("main").values())


def test_a_dry_run_lists_files_and_bytes_and_asks_nothing(hub, folder, capsys):
    command = ["publish", str(folder), "--repo", "me/name", "--license", "mit", "--weights", "--dry-run"]
    assert _parsed(command)() == 0
    *lines, total = capsys.readouterr().out.splitlines()
    listed = {line.split()[1]: int(line.split()[0].replace(",", "")) for line in lines}
    assert listed.pop("README.md") > 1000 and listed == {name: (folder / name).stat().st_size for name in listed}
    assert weights_path(1, "one", 20) in listed and len(listed) > 12 and hub.requests == []
    assert total.startswith(f"{len(lines)} files, 0.0 MB would be published at me/name")


def test_what_cannot_be_published_is_said_first(hub, folder, tmp_path):
    with pytest.raises(ValueError, match="--repo 'name' is not the name of a repository; give OWNER/NAME"):
        publish(folder, "name", WORDS)
    create(tmp_path / "empty")
    with pytest.raises(ValueError, match=r"no seed is committed in \S+/empty yet"):
        publish(tmp_path / "empty", "me/name", WORDS)
    commit(create(folder), 7)
    with pytest.raises(ValueError, match=r"seeds 7 of \S+ are not arranged by token.*run: discreteness compact"):
        publish(folder, "me/name", WORDS)
    compact(folder)
    (folder / "runs/seed=00007-one.parquet").write_bytes(b"PAR1")
    with pytest.raises(ValueError, match=r"is not whole, and is not published: runs/seed=00007-one.parquet: its hash"):
        publish(folder, "me/name", WORDS)
    assert hub.requests == []


def test_the_card_says_what_it_is_and_which_files_are_tables(hub, folder):
    publish(folder, "me/name", Words(licence="cc-by-4.0", question="Is it so?", hardware="8 H100"))
    text = hub.tree("main")["README.md"].decode()
    for said in (
        'license: "cc-by-4.0"', "Is it so?", "(analysis/overview.png)", 'discreteness.open("hf://datasets/me/name")',
        "dataset.losses('a.txt', token=1)", "8 H100", 'load_dataset("me/name", "losses", split="train")', "@misc{name,",
        "different weights, the same data in the same order", "| track | tiny", "| token_index | int32 |",
    ):  # fmt: skip
        assert said in text
    assert QUESTION not in text
    globs = dict(re.findall(r'config_name: (\w+)\n  data_files: "([^"]+)"', text))
    assert globs.keys() == TABLES.keys()
    found = {table: fnmatch.filter(hub.tree("main"), glob) for table, glob in globs.items()}
    rows = sum(pq.read_metadata(folder / name).num_rows for name in found["losses"])
    assert rows == 3 * 4 * 6, "one row per loss, none twice"
    assert len(found["seeds"]) == len(found["training"]) == 3 and found["documents"] == ["documents.parquet"]


def test_the_card_of_other_peoples_models_says_nothing_of_the_speedrun(hub, tmp_path):
    identity = {"vary": "model", "tokenizer": "aa", "dtype": "float32", "sources": "bb"}
    made(tmp_path / "series", (0, 1), identity=identity, names={0: "me/one", 1: "me/two"})
    publish(tmp_path / "series", "me/name", WORDS)
    text = hub.tree("main")["README.md"].decode()
    assert "| seed 1 | me/two |" in text and "each is a model that others have trained" in text
    assert "None" not in text and "modded-nanogpt" not in text and "| track |" not in text


def test_annotations_are_published_with_what_they_are_of(hub, folder):
    annotate(folder)
    publish(folder, "me/name", WORDS)
    assert discreteness.open(URI).annotations().equals(discreteness.open(folder).annotations())
