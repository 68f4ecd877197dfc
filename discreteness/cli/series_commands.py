"""The command lines of a series of checkpoints that others have trained: scored, or only checked."""

from dataclasses import dataclass

from discreteness.series.config import ChosenModels, SeriesConfig


@dataclass(frozen=True, kw_only=True)
class CheckSeries(ChosenModels):
    """Say what is wrong with a series before anything is scored: steps and files that are missing, equal weights."""

    def __call__(self) -> int:
        self.check()
        from discreteness.series.check import check_series

        lines, problems = check_series(self)
        for line in [*lines, *problems]:
            print(line)
        print(f"{len(problems)} problems" if problems else "no problems")
        return 1 if problems else 0


def score_series(config: SeriesConfig) -> int:
    """The exit code of jobs/score_checkpoints.py."""
    config.check()  # a typo is answered before anything heavy is imported
    if not config.inline:
        from discreteness.service.driver import leave
        from discreteness.service.series_job import score_series_on_ray

        leave(score_series_on_ray(config))
    from discreteness.service.inline_series import score_series_inline

    return score_series_inline(config)
