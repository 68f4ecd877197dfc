"""a model's folder -> its checkpoints: sub-folders whose names hold a step."""

from pathlib import Path

from discreteness.series.step_names import StepPattern
from discreteness.series.steps import named_steps
from discreteness.series.stored import StoredCheckpoint, StoredFile


def checkpoints_in(model: str, matching: str | None, pattern: StepPattern) -> list[StoredCheckpoint]:
    """The checkpoints of the sub-folders of `model` that match; None: of all whose names hold a step. Raises ValueError
    if there are none, or as `named_steps`."""
    folder = Path(model).expanduser().absolute()
    paths = [path for path in folder.glob(matching or "*") if path.is_dir()]
    steps = named_steps(model, [path.relative_to(folder).as_posix() for path in paths], matching, pattern)
    return [
        StoredCheckpoint(
            model=model,
            name=name,
            step=read.step,
            tokens=read.tokens,
            commit="",
            folder=str(folder / name),
            files=files_of(folder / name),
        )
        for name, read in steps.items()
    ]


def files_of(folder: Path) -> tuple[StoredFile, ...]:
    paths = sorted(path for path in folder.glob("*") if path.is_file())
    return tuple(StoredFile(name=path.name, num_bytes=path.stat().st_size, hash="") for path in paths)
