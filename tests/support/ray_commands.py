"""words of a `ray` command -> what of them the installed Ray does not know: subcommands and options."""

import click
from ray.scripts.scripts import cli


def unknown_to_ray(words):
    """Nothing is run. What follows `--` is another program's."""
    command, rest = cli, words[1 : words.index("--") if "--" in words else None]
    while isinstance(command, click.Group) and rest and not rest[0].startswith("-"):
        if rest[0] not in command.commands:
            return [rest[0]]
        command, rest = command.commands[rest[0]], rest[1:]
    known = {option for parameter in command.params for option in parameter.opts + parameter.secondary_opts}
    given = [word.partition("=")[0] for word in rest if word.startswith("--")]
    return [option for option in given if option not in known | {"--help"}]
