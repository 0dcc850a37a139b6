"""The ``segloss`` command; one module per subcommand."""

import typer

from segloss.data_scripts.inspection import inspect
from segloss.data_scripts.nnunet import nnunet_app
from segloss.data_scripts.phantoms import phantom
from segloss.data_scripts.preprocess import preprocess
from segloss.data_scripts.report import report

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode=None)
app.command()(preprocess)
app.command()(inspect)
app.command()(report)
app.command()(phantom)
app.add_typer(nnunet_app, name="nnunet")


@app.callback()
def main() -> None:
    """Prepare and inspect the data that segmentation losses learn from."""
