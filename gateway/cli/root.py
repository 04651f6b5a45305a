"""The root of the `tracetune` command: entry points of judges and learner, errors to exit codes."""

from __future__ import annotations

import getpass
import importlib
import os
import sys
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import rich_click as click
from click.exceptions import NoArgsIsHelpError

from gateway import __version__
from gateway.cli.extras import extra_with
from gateway.config.load import DEFAULT_CONFIG
from gateway.errors import OperationError, TracetuneError, UsageError

# name -> (module, attribute, one-line help). Loaded when used, so that `gateway` starts without the rest.
_OWN_COMMANDS: dict[str, tuple[str, str]] = {
    "up": ("gateway.cli.up", "up"),
    "gateway": ("gateway.cli.gateway", "gateway"),
    "check": ("gateway.cli.check", "check"),
    "explain": ("gateway.cli.explain", "explain"),
    "sql": ("gateway.cli.sql", "sql"),
    "traces": ("gateway.cli.traces", "traces"),
    "feedback": ("gateway.cli.feedback", "feedback"),
    "migrations": ("gateway.cli.migrations", "migrations"),
}


class _Commands(click.RichGroup):
    """Loads a command's module only when it is named."""

    def list_commands(self, ctx: Any) -> list[str]:
        del ctx
        return [*_OWN_COMMANDS, *sorted(point.name for point in entry_points(group="tracetune.commands"))]

    def get_command(self, ctx: Any, cmd_name: str) -> click.Command | None:
        del ctx
        if cmd_name in _OWN_COMMANDS:
            module, attribute = _OWN_COMMANDS[cmd_name]
            command: click.Command = getattr(importlib.import_module(module), attribute)
            return command
        for point in entry_points(group="tracetune.commands", name=cmd_name):
            loaded: click.Command = point.load()
            return loaded
        return None


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="tracetune")
def tracetune() -> None:
    """Swap your base_url; your models start to learn from your own traffic."""


config_option = click.option(
    "--config",
    "config_path",
    type=click.Path(path_type=Path, dir_okay=False),
    default=DEFAULT_CONFIG,
    show_default=True,
    help="Configuration file; relative paths in it resolve against its folder.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON in place of a table.")


def main() -> None:
    """Run the command line; one line per error, no traceback for anything a user can cause."""
    try:
        code = tracetune(standalone_mode=False)
        sys.exit(code if isinstance(code, int) else 0)
    except TracetuneError as error:
        _fail(str(error), error.exit_code)
    except NoArgsIsHelpError as error:
        click.echo(error.ctx.get_help() if error.ctx else "")
        sys.exit(UsageError.exit_code)
    except click.ClickException as error:
        _fail(error.format_message(), UsageError.exit_code)
    except ModuleNotFoundError as error:
        extra = extra_with(error.name or "")
        if extra is None:
            raise
        _fail(f"this needs {error.name}; pip install 'tracetune[{extra}]'", OperationError.exit_code)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(130)
    except BrokenPipeError:
        # The reader of our output left (`| head`): nobody is there to be told, and the exit must stay quiet.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)


def user_name() -> str:
    """Who runs this process, for what a command puts down under a name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        return f"uid {os.getuid()}"


def _fail(message: str, code: int) -> None:
    click.echo(f"tracetune: {' '.join(message.split())}", err=True)
    sys.exit(code)


if __name__ == "__main__":
    main()
