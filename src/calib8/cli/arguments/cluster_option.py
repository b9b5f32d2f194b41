"""The option that takes work to other processes."""

from __future__ import annotations

from calib8.cli.arguments.common_options import OptionHolder


def add_cluster_option(group: OptionHolder, verb: str) -> None:
    """Add `--cluster`.

    Args:
        verb: what is done there, for the help.
    """
    group.add_argument(
        "--cluster", metavar="ADDRESS",
        help=f"{verb} on the workers of a Dask scheduler, like tcp://host:8786, or local:N for N processes on this "
        "machine; the same result as without. Needs pip install 'calib8[cluster]'",
    )  # fmt: skip
