"""A job that runs in Ray's own copy of an uploaded folder (`ray job submit --working-dir`): which paths mean something.

Ray makes a new copy for each state of the folder, and deletes what no job uses. So nothing may be written there, and
what was left behind cannot be read there.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from discreteness.experiment.config import JobConfig, RunConfig

RAYS_COPIES = "working_dir_files"
"""Name of the folder in which Ray keeps them."""


def settled(config: JobConfig) -> JobConfig:
    """The configuration with an output that stays. Elsewhere than in an upload, as it is. Raises `settled_output`'s."""
    read = [("--documents", config.experiment.documents), ("--data", config.experiment.data)]
    output = settled_output(config.run.output, RunConfig.output, read)
    return config if output == config.run.output else replace(config, run=replace(config.run, output=output))


def settled_output(output: str, default: str, read: Sequence[tuple[str, str | None]]) -> str:
    """An output that stays, for one that was given or is the default. `read`: (flag, path) of what is to be read.

    Raises ValueError for paths that cannot be meant.
    """
    if RAYS_COPIES not in Path.cwd().parts:
        return output
    for flag, path in read:
        if path and not path.startswith("val:") and not Path(path).exists():
            raise ValueError(
                f"{flag} {path}: not there. This job runs in Ray's copy of the uploaded folder, without what git "
                "ignores: give an absolute path that the head node sees"
            )
    if "://" in output or Path(output).is_absolute():
        return output
    if output != default:
        raise ValueError(
            f"--output {output}: this job runs in Ray's copy of the uploaded folder, which Ray deletes; give an "
            "absolute path that the head node sees, or a URI such as s3://bucket/run"
        )
    return str(Path.home() / "discreteness" / output)
