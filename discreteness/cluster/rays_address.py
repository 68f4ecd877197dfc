"""RAY_ADDRESS -> the cluster that is meant, and whether anybody listens there: Ray itself tries for five minutes."""

import os
import re
import socket

CONNECT_TIMEOUT_S = 10
HEAD = "the address of its head, such as RAY_ADDRESS=10.0.0.1:6379"


def named_cluster() -> str | None:
    """What RAY_ADDRESS says. None: a Ray is started on this machine.

    Raises ValueError if a job cannot join what it names.
    """
    address = os.environ.get("RAY_ADDRESS", "")
    if address in ("", "local"):
        return None
    if address.startswith(("http://", "https://")):
        raise ValueError(
            f"RAY_ADDRESS={address} is a dashboard, for `ray job submit`; to join the cluster from here, give {HEAD}"
        )
    if address.startswith("ray://"):
        raise ValueError(
            f"RAY_ADDRESS={address}: a job has to run on a machine of the cluster; use `ray job submit`, or on such a "
            f"machine {HEAD}"
        )
    if address != "auto" and not re.search(r".:\d+$", address):
        raise ValueError(f"RAY_ADDRESS={address}: give {HEAD}, or `auto` for a Ray that runs on this machine")
    return address


def try_address(address: str) -> None:
    """Raises OSError if nothing listens there."""
    if address == "auto":
        from ray._private.services import canonicalize_bootstrap_address  # how Ray finds it

        try:
            found = canonicalize_bootstrap_address(address)
        except ConnectionError:
            raise OSError(
                "RAY_ADDRESS=auto: no Ray runs on this machine; leave RAY_ADDRESS unset to start one"
            ) from None
    else:
        found = address
    if not found:
        return
    host, _, port = found.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_TIMEOUT_S).close()
    except (OSError, OverflowError) as error:
        named = found if found == address else f"{address} ({found})"
        raise OSError(
            f"RAY_ADDRESS={named}: no Ray answers there ({error}); start it with `ray start --head`, give {HEAD}, or "
            "leave RAY_ADDRESS unset to start one on this machine"
        ) from None
