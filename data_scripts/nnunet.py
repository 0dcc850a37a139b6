"""``segloss nnunet``: nnU-Net with the trainers of this package."""

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["nnunet_app"]

nnunet_app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Train nnU-Net with the losses of segloss.",
)

# PyTorch is loaded by the commands that need it, not by those that do not.


@nnunet_app.command()
def path() -> None:
    """Print the folder in which nnU-Net finds the trainers.

    export nnUNet_extTrainer=$(segloss nnunet path)
    """
    from segloss.nnunet import trainer_folder

    typer.echo(trainer_folder())


@nnunet_app.command()
def check() -> None:
    """Say what keeps nnU-Net from finding the trainers, a line each; exit 1 if anything does."""
    from segloss.nnunet import TRAINERS
    from segloss.nnunet.check import problems

    found = list(problems())
    for line in found:
        typer.echo(line, err=True)
    if found:
        raise typer.Exit(1)
    typer.echo(f"nnU-Net finds {', '.join(TRAINERS)}")


@nnunet_app.command()
def export(
    model: Annotated[
        Path,
        typer.Argument(
            metavar="RESULTS_FOLDER",
            help="A trained model, as Dataset001_X/nnUNetTrainerSkeletonRecall__nnUNetPlans__2d.",
        ),
    ],
    out: Annotated[
        Path | None, typer.Option(help="Where the copy goes; beside the model by default.")
    ] = None,
    trainer: Annotated[
        str, typer.Option(help="The trainer's name in the copy: one with the same network.")
    ] = "nnUNetTrainer",
) -> None:
    """Copy a trained model so that any nnU-Net predicts with it, without segloss.

    The model itself stays as it is. Checkpoints are read as nnU-Net reads them, which runs code
    they may hold: export only what you trust.
    """
    from segloss.nnunet.checkpoints import export_model

    try:
        typer.echo(export_model(model, out, trainer))
    except (ValueError, OSError) as error:
        typer.echo(error, err=True)
        raise typer.Exit(2) from error
