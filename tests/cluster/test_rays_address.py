"""RAY_ADDRESS: what can be joined, and what is answered at once where Ray would try for minutes."""

import socket

import pytest

from discreteness.cluster.connection import find_cluster
from discreteness.cluster.rays_address import named_cluster, try_address


@pytest.fixture
def closed():
    """A port of this machine where nobody listens."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        yield one.getsockname()[1]


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("http://10.0.0.1:8265", "is a dashboard, for `ray job submit`"),
        ("ray://10.0.0.1:10001", "has to run on a machine of the cluster"),
        ("10.0.0.1", "such as RAY_ADDRESS=10.0.0.1:6379"),
        ("head:port", "or `auto`"),
    ],
)
def test_what_a_job_cannot_join_is_said_with_what_it_can(monkeypatch, address, words):
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(ValueError, match=words) as caught:
        find_cluster()
    assert f"RAY_ADDRESS={address}" in str(caught.value)


def test_without_an_address_it_is_this_machine(monkeypatch):
    for address in "", "local":
        monkeypatch.setenv("RAY_ADDRESS", address)
        assert named_cluster() is None
    monkeypatch.setenv("RAY_ADDRESS", "[::1]:6379")
    assert named_cluster() == "[::1]:6379"


def test_where_nobody_listens_it_is_said_at_once(monkeypatch, closed):
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{closed}")
    with pytest.raises(OSError, match=rf"RAY_ADDRESS=127.0.0.1:{closed}: no Ray answers there \(.*refused\)"):
        find_cluster()
    with pytest.raises(OSError, match="no Ray answers there"):
        try_address("no-such-host.invalid:6379")
    with pytest.raises(OSError, match="no Ray answers there"):
        try_address("127.0.0.1:99999")
    with socket.create_server(("127.0.0.1", 0)) as server:
        try_address(f"127.0.0.1:{server.getsockname()[1]}")


def test_auto_is_the_ray_that_this_machine_remembers(monkeypatch, short_folder, closed):
    """The file that Ray leaves in its folder; no process of Ray's is looked for among those of other tests."""
    from ray._private import services

    monkeypatch.setattr(services, "find_gcs_addresses", set)
    monkeypatch.setenv("RAY_TMPDIR", str(short_folder))
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    with pytest.raises(OSError, match="RAY_ADDRESS=auto: no Ray runs on this machine"):
        try_address("auto")
    (short_folder / "ray").mkdir()
    (short_folder / "ray" / "ray_current_cluster").write_text(f"10.255.255.1:{closed}")
    monkeypatch.setattr(services, "resolve_ip_for_localhost", lambda host: "127.0.0.1")
    with pytest.raises(OSError, match=rf"RAY_ADDRESS=auto \(127.0.0.1:{closed}\): no Ray answers there"):
        try_address("auto")
