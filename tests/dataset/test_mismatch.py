"""Another experiment in the directory: what the refusal says is short, names what differs, and what to do."""

import json
import pickle

import pytest

from discreteness.dataset.manifest import read_manifest
from discreteness.dataset.mismatch import IdentityMismatch
from discreteness.dataset.storage import open_storage
from tests.support.dataset_case import DOCUMENTS, IDENTITY, STEPS, Text, create


def refusal(folder, **changes):
    """What stands in the parentheses of the error for a command with these changes."""
    with pytest.raises(IdentityMismatch) as caught:
        create(folder, **changes)
    before, _, rest = str(caught.value).partition("holds another experiment (")
    assert before.strip() == str(folder)
    return rest.partition("); ")[0]


def test_the_error_names_directory_differences_and_ways():
    error = IdentityMismatch("runs/x", ["packing: 'isolated' there, 'reference' here", "track.lr: 0.5 there"], False)
    assert str(error) == (
        "runs/x holds another experiment (packing: 'isolated' there, 'reference' here; track.lr: 0.5 there); "
        "give another --output, or that experiment's settings"
    )
    back = pickle.loads(pickle.dumps(error))
    assert (str(back), back.differing, back.sources_alone) == (str(error), error.differing, False)


def test_another_plan_is_named_by_its_expression(tmp_path):
    create(tmp_path, steps=STEPS, plan="log:4")
    every = {"identity": {**IDENTITY, "checkpoints": list(range(21))}, "steps": range(21), "plan": "every:1"}
    assert refusal(tmp_path, **every) == (
        "checkpoints: log:4 (4 steps from 0 to 20) there, every:1 (21 steps from 0 to 20) here"
    )
    assert create(tmp_path, steps=STEPS, plan="0,1,5,20").manifest.plan == "log:4"  # the same steps: as it began


def test_a_plan_without_an_expression_is_described_and_equal_descriptions_name_steps(tmp_path):
    create(tmp_path)
    content = json.loads((tmp_path / "experiment.json").read_text())
    del content["plan"]  # as it was written before expressions were kept
    (tmp_path / "experiment.json").write_text(json.dumps(content))
    assert read_manifest(open_storage(tmp_path)).plan == ""
    assert refusal(tmp_path, steps=(0, 20), plan="log:2") == (
        "checkpoints: 4 steps from 0 to 20 there, log:2 (2 steps from 0 to 20) here"
    )
    assert refusal(tmp_path, steps=(0, 2, 5, 20), plan=",".join(map(str, range(60)))) == (
        "checkpoints: 4 steps from 0 to 20; only there 1, only here 2"
    )


def test_documents_are_named_with_what_became_of_them(tmp_path):
    create(tmp_path)
    others = (
        Text(doc_id=0, name="0.txt", category="0", token_ids=(50256, 9)),  # before the others, whose numbers move
        Text(doc_id=1, name="a.txt", category="a", token_ids=(50256, 5, 6, 7), answers=frozenset({2})),
        Text(doc_id=2, name="b.txt", category="b", token_ids=(50256, 200)),
    )
    identity = {**IDENTITY, "documents": "0" * 64}
    told = "documents: only there c, only here 0.txt, with other text or answers a.txt"
    assert refusal(tmp_path, documents=others, identity=identity) == told
    (tmp_path / "documents.parquet").write_bytes(b"damaged")
    assert refusal(tmp_path, documents=others) == "documents: only there c, only here 0.txt"
    longer = Text(doc_id=4, name="c", category="c", token_ids=(50256, 1, 2, 3))
    assert refusal(tmp_path, documents=(*DOCUMENTS[:2], longer)) == "documents: of another length c"
    same_length = Text(doc_id=4, name="c", category="c", token_ids=(50256, 1, 3))
    assert refusal(tmp_path, documents=(*DOCUMENTS[:2], same_length)) == (
        "documents: other tokens, or the same documents under other numbers"
    )


def test_many_documents_stay_one_readable_line(tmp_path):
    create(tmp_path)
    many = [Text(doc_id=i, name=f"{i:03}.txt", category="", token_ids=(50256, 1)) for i in range(500)]
    told = refusal(tmp_path, documents=many)
    assert told == (
        "documents: only there a.txt, b.txt, c, only here 000.txt, 001.txt, 002.txt, 003.txt, 004.txt and 495 more"
    )


def test_shards_and_another_track_are_named_and_hashes_cut_short(tmp_path):
    first, second = ({"name": f"{i}.bin", "tokens": 8, "first_mib": str(i) * 64} for i in (1, 2))
    create(tmp_path, identity={**IDENTITY, "data": [first, second]})
    moved = {**IDENTITY, "data": [{**first, "tokens": 9}, {**second, "name": "3.bin"}], "track": {"name": "small"}}
    assert refusal(tmp_path, identity=moved) == (
        "track: tiny there, small here; data: only there 2.bin, only here 3.bin, with other content 1.bin"
    )
    create(tmp_path / "other", identity={**IDENTITY, "sources": "a" * 64})
    assert refusal(tmp_path / "other", identity={**IDENTITY, "sources": "b" * 64}) == (
        "sources: aaaaaaaaaaaa... there, bbbbbbbbbbbb... here"
    )


def test_code_may_be_let_in_only_where_nothing_else_differs(tmp_path):
    create(tmp_path)
    changed = {**IDENTITY, "sources": "bbbb"}
    with pytest.raises(IdentityMismatch, match="--allow-code-change"):
        create(tmp_path, identity=changed)
    with pytest.raises(IdentityMismatch) as caught:
        create(tmp_path, identity=changed, steps=(0, 1))
    assert "--allow-code-change" not in str(caught.value)
    create(tmp_path, identity=changed, allow_code_change=True)
    assert refusal(tmp_path, identity=changed, steps=(0, 1)).startswith("checkpoints: ")  # the code is let in


def test_very_many_fields_stay_one_readable_line(tmp_path):
    create(tmp_path)
    told = refusal(tmp_path, identity={**IDENTITY, **{f"f{i:02}": "x" * 500 for i in range(50)}})
    assert told.endswith("and 30 more fields") and "\n" not in told and len(told) < 5000


@pytest.mark.parametrize("shards", [[{"tokens": 3}], ["a"], [None], 7])
def test_shards_of_a_damaged_identity_are_an_ordinary_difference(tmp_path, shards):
    create(tmp_path, identity={**IDENTITY, "data": shards})
    told = refusal(tmp_path, identity={**IDENTITY, "data": [{"name": "a", "tokens": 3}]})
    assert told.startswith("data") and "there" in told
