# SPDX-License-Identifier: Apache-2.0
"""shmpool bench: runs shmpool.bench, a client of the package like any other."""

import click

from . import needs_extra

try:
    from shmpool.bench.command import bench as command
except ModuleNotFoundError as error:
    if error.name is None or error.name.startswith("shmpool"):
        raise
    missing = error

    # The list of commands has a line of each one, so it must be there without the extra.
    @click.command(
        "bench",
        context_settings={"ignore_unknown_options": True},
        epilog="Example: shmpool bench --quick",
    )
    @click.argument("options", nargs=-1, type=click.UNPROCESSED)
    def command(options: tuple[str, ...]) -> None:
        """Measures shmpool against other libraries.

        It needs more than is installed here: pip install 'shmpool[bench]'
        """
        needs_extra(missing, "bench")


__all__ = ["command"]
