"""The command `dimmpim`. Each subcommand lives in a module of its own under :mod:`dimmpim.commands`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import click

from pimspec.errors import PimError, ToolError

from . import commands

__all__ = ["cli", "main"]


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="dimmpim")
def cli() -> None:
    """Open RTL of a DIMM-PIM for long-context LLM decode attention.

    \b
    Examples:
      dimmpim presets
      dimmpim verilog --preset ddr4-3200-x8-8gb --out build/rtl
      dimmpim simulate --preset tiny --unit dot --simulator icarus --waves
    """


for command in commands.ALL:
    cli.add_command(command)


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point: a :class:`PimError` becomes one clear line and exit status 2 (1 if an external tool failed)."""
    try:
        cli.main(args=arguments, standalone_mode=False)
    except PimError as error:
        click.echo(f"dimmpim: error: {error}", err=True)
        sys.exit(1 if isinstance(error, ToolError) else 2)
    except click.ClickException as error:
        click.echo(f"dimmpim: error: {error.format_message()}", err=True)
        sys.exit(2)
    except (click.Abort, KeyboardInterrupt):
        click.echo("dimmpim: interrupted", err=True)
        sys.exit(130)
    except OSError as error:
        click.echo(f"dimmpim: error: {error.strerror}: {error.filename}", err=True)
        sys.exit(2)
