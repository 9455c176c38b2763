"""A command with subcommands that does something of its own too.

`edgewright profiles pixel-8` shows a profile and `edgewright profiles detect` is a subcommand: what does not
begin with the name of a subcommand belongs to the subcommand `show`.
"""

from __future__ import annotations

from typing import Any

from typer.core import TyperGroup

DEFAULT = "show"


class DefaultGroup(TyperGroup):
    """Puts `show` in front of arguments that name no subcommand."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments as the default subcommand's unless they name one."""
        if not args or (args[0] not in self.commands and args[0] != "--help"):
            args = [DEFAULT, *args]
        return super().parse_args(ctx, args)
