"""What docs/security.md promises: loopback, nothing unpickled, no secrets on command lines, a private token."""

import ast
import re

import pytest
from speedrun.kernels import flash_attention

from discreteness.cluster.rays_token import keep_token_private
from discreteness.dataset.storage import open_storage
from discreteness.experiment.config import RunConfig
from tests.conftest import ROOT
from tests.test_project import tracked

SOURCES = [
    path for path in tracked() if path.suffix == ".py" and path.parts[0] in ("discreteness", "modded-nanogpt", "jobs")
]
UNPICKLING_MODULES = {"pickle", "cloudpickle", "dill", "marshal", "shelve", "joblib"}


def violations(text):
    """What a source does that would run what a file or a shell says, or listen to the network."""
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            names = {alias.name.partition(".")[0] for alias in node.names}
            found += [f"imports {name}" for name in names & UNPICKLING_MODULES]
        elif isinstance(node, ast.ImportFrom):
            error_alone = [alias.name for alias in node.names] == ["UnpicklingError"]
            unpickles = (node.module or "").partition(".")[0] in UNPICKLING_MODULES and not error_alone
            found += [f"imports {node.module}"] * unpickles
        elif isinstance(node, ast.Call):
            name, given = ast.unparse(node.func), {word.arg: ast.unparse(word.value) for word in node.keywords}
            if name == "torch.load" and given.get("weights_only") != "True":
                found.append("torch.load without weights_only=True")
            if name in ("np.load", "numpy.load") and given.get("allow_pickle", "False") != "False":
                found.append("np.load with allow_pickle")
            if name.startswith("yaml.") and name not in ("yaml.safe_load", "yaml.safe_dump"):
                found.append(name)
            if name in ("eval", "exec", "os.system", "os.popen") or given.get("shell") == "True":
                found.append(name)
            if name == "ray.init" and "address" in given and given.get("dashboard_host") != "'127.0.0.1'":
                found.append("ray.init without dashboard_host='127.0.0.1'")
        elif isinstance(node, ast.Constant) and node.value in ("0.0.0.0", "::"):
            found.append(f"listens on {node.value}")
    return found


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("import pickle", "imports pickle"),
        ("from cloudpickle import loads", "imports cloudpickle"),
        ("torch.load(path)", "torch.load without weights_only=True"),
        ("torch.load(path, weights_only=False)", "torch.load without weights_only=True"),
        ("np.load(path, allow_pickle=True)", "np.load with allow_pickle"),
        ("yaml.load(text, Loader=yaml.Loader)", "yaml.load"),
        ("subprocess.run(line, shell=True)", "subprocess.run"),
        ("eval(text)", "eval"),
        ("ray.init(address='local')", "ray.init without dashboard_host='127.0.0.1'"),
        ("serve(host='0.0.0.0')", "listens on 0.0.0.0"),
    ],
)
def test_the_search_finds_what_it_is_for(text, found):
    assert violations(text) == [found]


def test_our_sources_unpickle_nothing_run_no_text_and_listen_on_loopback():
    assert len(SOURCES) > 50
    assert {str(path): found for path in SOURCES if (found := violations((ROOT / path).read_text()))} == {}


def test_code_comes_from_outside_in_the_two_documented_places_only():
    loading = {
        str(path) for path in SOURCES if re.search(r"import_module|get_kernel|load_library", (ROOT / path).read_text())
    }
    assert loading == {"modded-nanogpt/speedrun/tracks.py", "modded-nanogpt/speedrun/kernels/flash_attention.py"}
    text = (ROOT / "docs/security.md").read_text()
    assert "package.module:name" in text and "FLASH_ATTENTION_3" in text


def test_the_pages_name_the_publisher_that_the_code_loads_from_and_what_chooses_it():
    text = (ROOT / "docs/security.md").read_text()
    assert f"`{flash_attention.HUB_REPOSITORY}`" in text
    for variable in ("FOLDER", "REVISION", "MOVING"):
        assert getattr(flash_attention, f"{variable}_VARIABLE") in text
    pages = [path for path in tracked() if path.suffix in (".md", ".yaml", ".toml")]
    named = {name for page in pages for name in re.findall(r"[\w-]+/flash-att[\w-]*", (ROOT / page).read_text())}
    assert named == {flash_attention.HUB_REPOSITORY}


def test_what_is_fetched_from_the_hub_is_code_at_a_commit_or_data_as_documented():
    asking = r"get_kernel|snapshot_download|hf_hub_(url|download)|load_state_dict_from_url|torch\.hub|urlopen"
    fetching = {str(path) for path in SOURCES if re.search(asking, (ROOT / path).read_text())}
    at_a_commit = {
        "discreteness/series/download.py": "checkpoint.commit",
        "discreteness/dataset/hub_storage.py": "self.commit",
    }
    assert fetching == {
        "modded-nanogpt/speedrun/kernels/flash_attention.py",
        "modded-nanogpt/data/fetch.py",
        *at_a_commit,
    }
    for path, commit in at_a_commit.items():
        calls = [node for node in ast.walk(ast.parse((ROOT / path).read_text())) if isinstance(node, ast.Call)]
        asked = [call for call in calls if re.fullmatch(r"hf_hub_(url|download)", ast.unparse(call.func))]
        given = [{word.arg: ast.unparse(word.value) for word in call.keywords} for call in asked]
        assert given and all(words["revision"] == commit for words in given), path
    assert "Shards come from the hub's branch `main`, unpinned on purpose" in (ROOT / "docs/security.md").read_text()


def test_heads_that_we_start_keep_their_dashboard_on_loopback_and_ask_for_the_token():
    for path in tracked():
        if path.suffix in (".yaml", ".yml", ".sh", ".md") or path.name == "Makefile":
            for line in (ROOT / path).read_text().splitlines():
                assert "--dashboard-host=0.0.0.0" not in line, path
                if re.search(r"ray start .*--head", line) and path.suffix != ".md":
                    assert "--dashboard-host=127.0.0.1" in line and "RAY_AUTH_MODE=token" in line, path


SECRET = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"


@pytest.mark.parametrize(
    "uri",
    [
        f"s3://AKIAIOSFODNN7EXAMPLE:{SECRET}@bucket/run",
        f"s3://bucket/run?secret_key={SECRET}",
        f"abfss://account:{SECRET}@container/run",
        f"abfs://container@account/run?sas_token={SECRET}",
    ],
)
def test_a_uri_with_credentials_is_refused_and_not_repeated(uri):
    for use in open_storage, lambda text: RunConfig(output=text).check():
        with pytest.raises(ValueError, match="carries credentials") as caught:
            use(uri)
        assert SECRET not in str(caught.value) and caught.value.__context__ is None


def test_the_token_of_a_local_ray_is_ours_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    keep_token_private()  # there is none
    token = tmp_path / ".ray" / "auth_token"
    token.parent.mkdir()
    token.write_text("0" * 64)
    token.chmod(0o644)
    keep_token_private()
    assert token.stat().st_mode & 0o777 == 0o600
