"""The command line: one file a command, found by its file name; each module defines ``command``."""

from __future__ import annotations

import importlib
import pkgutil
import sys

import click

from offramp import __version__
from offramp.core.errors import OfframpError


class Commands(click.Group):
    """Loads a command's module only when that command, or the list of all, is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Every module of this package whose name does not begin with an underscore."""
        return sorted(info.name for info in pkgutil.iter_modules(__path__) if not info.name.startswith("_"))

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of that name, or None."""
        if cmd_name not in self.list_commands(ctx):
            return None
        return importlib.import_module(f"{__name__}.{cmd_name}").command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Every command with the whole first paragraph of its help, wrapped, not cut."""
        commands = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        rows = [
            (name, " ".join((command.help or "").split("\n\n")[0].split())) for name, command in commands if command
        ]
        with formatter.section("Commands"):
            formatter.write_dl(rows)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does, with near misses in the error."""
        from offramp.core.errors import near_miss_hint

        if args and not args[0].startswith("-") and args[0] not in self.list_commands(ctx):
            hint = near_miss_hint(args[0], self.list_commands(ctx))
            ctx.fail(f'No such command "{args[0]}". {hint} "offramp --help" lists all.')
        return super().resolve_command(ctx, args)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="offramp")
def root() -> None:
    """Whether, how and when AI workloads can leave one vendor's chips.

    Answers go to stdout, progress to stderr; --json prints the whole Result. Exit codes: 2 bad input, 3 unknown
    fact, 4 out of range, 5 cannot be done, 6 backend.
    """


def main(args: list[str] | None = None) -> None:
    """Entry point; turns the error tree into one line on stderr and an exit code."""
    try:
        root.main(args=args, prog_name="offramp", standalone_mode=False)
    except click.exceptions.Exit as stop:
        sys.exit(stop.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        click.echo("Stopped.", err=True)
        sys.exit(130)
    except OfframpError as error:
        click.echo(f"offramp: {error}", err=True)
        sys.exit(error.exit_code)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(0)
