"""``segloss nnunet``; most of this needs no nnU-Net."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from segloss import nnunet
from segloss.data_scripts.nnunet import nnunet_app
from segloss.nnunet import TRAINERS, check, trainer_folder
from segloss.nnunet.checkpoints import export_model

FINE: dict[str, Any] = {
    "nnunet": "2.8.1",
    "namesake": None,
    "copies": {"nnunetv2": ["/a/nnunetv2"], "segloss": ["/a/segloss"]},
    "trainers": dict.fromkeys(TRAINERS, "segloss.nnunet.trainers"),
    "errors": {},
}


def run(*arguments: str) -> Any:
    return CliRunner().invoke(nnunet_app, list(arguments))


def test_public_names_are_sorted_and_documented() -> None:
    page = Path(__file__).parents[2] / "docs" / "api" / "nnunet.md"
    assert nnunet.__all__ == sorted(nnunet.__all__)
    for name in nnunet.__all__:
        assert f"::: segloss.nnunet.{name}\n" in page.read_text()
    with pytest.raises(AttributeError, match="no attribute 'nnUNetTrainer'"):
        nnunet.nnUNetTrainer  # noqa: B018
    assert dir(nnunet) == nnunet.__all__


def test_path_is_a_folder_with_the_shim_alone() -> None:
    outcome = run("path")
    folder = Path(outcome.stdout.strip())
    assert outcome.exit_code == 0
    assert folder == trainer_folder()
    assert [each.name for each in folder.glob("*.py")] == ["segloss_nnunet_trainers.py"]


def test_the_shim_has_every_trainer() -> None:
    source = (trainer_folder() / "segloss_nnunet_trainers.py").read_text()
    namespace: dict[str, Any] = {}
    pytest.importorskip("batchgeneratorsv2", reason="needs nnU-Net")
    exec(source, namespace)  # noqa: S102
    assert namespace["__all__"] == list(TRAINERS)
    assert all(namespace[name].__module__ == "segloss.nnunet.trainers" for name in TRAINERS)


def test_without_nnunet_the_error_names_the_extra(tmp_path: Path) -> None:
    (tmp_path / "nnunetv2").mkdir()
    (tmp_path / "nnunetv2" / "__init__.py").write_text("raise ImportError('broken')")
    for code in ("import segloss.nnunet.trainers", "from segloss.nnunet import SegLossMixin"):
        outcome = subprocess.run(
            [sys.executable, "-c", f"import segloss.nnunet; {code}"],
            env={**os.environ, "PYTHONPATH": str(tmp_path)},
            capture_output=True,
            text=True,
            check=False,
        )
        last = outcome.stderr.strip().splitlines()[-1]
        assert last.startswith("ImportError: segloss's trainers need nnU-Net, 2.8 or newer")
        assert last.endswith("pip install 'segloss-monai[nnunet]'")


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """One in which nothing is wrong; what nnU-Net's Python says can be changed."""
    found: dict[str, Any] = {**FINE, "copies": dict(FINE["copies"]), "errors": {}}
    monkeypatch.setattr(check, "_python_of_nnunet", lambda: "/env/bin/python")
    monkeypatch.setattr(check, "_probed", lambda python: found)
    monkeypatch.setenv("nnUNet_extTrainer", str(trainer_folder()))
    monkeypatch.delenv("SEGLOSS_NNUNET_CONFIG", raising=False)
    return found


def said() -> str:
    outcome = run("check")
    lines = str(outcome.output).strip().splitlines()
    assert outcome.exit_code == 1
    assert len(lines) == 1, lines
    return lines[0]


def test_check_is_content(environment: dict[str, Any]) -> None:
    outcome = run("check")
    assert outcome.exit_code == 0
    assert outcome.stdout == f"nnU-Net finds {', '.join(TRAINERS)}\n"


def test_check_names_what_is_wrong_with_an_installation(environment: dict[str, Any]) -> None:
    environment["nnunet"] = "2.7.0"
    assert said().startswith("nnU-Net 2.7.0 does not know nnUNet_extTrainer, which came with 2.8:")
    environment |= {"nnunet": None, "errors": {"nnunetv2": "ModuleNotFoundError: x"}}
    assert said() == "/env/bin/python has no nnU-Net: pip install 'segloss-monai[nnunet]'"
    environment |= {"nnunet": "2.8.1", "errors": {"nnunetv2": "ImportError: torchvision"}}
    assert said().startswith("nnU-Net cannot be imported (ImportError: torchvision):")
    environment["errors"] = {"segloss": "ModuleNotFoundError: No module named 'segloss'"}
    assert "which cannot import segloss" in said()
    environment |= {"errors": {}, "namesake": "1.0"}
    assert "pip uninstall segloss" in said()
    environment["namesake"] = None
    environment["copies"]["nnunetv2"] = ["/a/nnunetv2", "/b/nnunetv2"]
    assert said().startswith("nnunetv2 is there 2 times, and the first is used: /a/nnunetv2, /b")


def test_check_names_what_is_wrong_with_the_trainers(environment: dict[str, Any]) -> None:
    name = TRAINERS[0]
    environment["trainers"] = {**FINE["trainers"], name: "nnunetv2.training.nnUNetTrainer.mine"}
    assert said().startswith(f"nnU-Net finds {name} in nnunetv2.training.nnUNetTrainer.mine first")
    environment |= {"trainers": FINE["trainers"], "errors": {name: "SyntaxError:\n bad"}}
    assert said() == f"looking for {name}, nnU-Net fails: SyntaxError: bad"


def test_check_names_what_is_wrong_with_the_variable(
    environment: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def set_to(*folders: Path | str) -> None:
        monkeypatch.setenv("nnUNet_extTrainer", os.pathsep.join(map(str, folders)))

    remedy = "export nnUNet_extTrainer=$(segloss nnunet path)"
    set_to("")
    assert said() == f"nnUNet_extTrainer is not set: {remedy}"
    set_to(tmp_path)
    assert said() == (f"no folder in nnUNet_extTrainer holds segloss_nnunet_trainers.py: {remedy}")
    set_to(trainer_folder(), "~/mine")
    assert said().startswith("nnUNet_extTrainer names ~/mine, which is no folder")
    (tmp_path / "segloss_nnunet_trainers.py").touch()
    set_to(tmp_path, trainer_folder())
    assert said() == f"{tmp_path} is of another copy of segloss than this command: {remedy}"
    (tmp_path / "utils.py").touch()
    set_to(trainer_folder(), tmp_path)
    assert "utils.py is imported by nnU-Net too, as utils" in said()


def test_check_reads_the_config(
    environment: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SEGLOSS_NNUNET_CONFIG", str(tmp_path / "none.yaml"))
    assert said().startswith("SEGLOSS_NNUNET_CONFIG names a file that will not do: ")


def test_check_asks_the_python_of_nnunets_command(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The usual accident: two environments, and segloss in the other one."""
    command = tmp_path / "nnUNetv2_train"
    command.touch(0o755)
    spaced = tmp_path / "my env" / "python3"
    spaced.parent.mkdir()
    spaced.symlink_to(sys.executable)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{spaced.parent}")
    for first_lines, python in {
        f"#!{sys.executable} -sP\n# it's nnU-Net\n": sys.executable,
        f'#!/bin/sh\n\'\'\'exec\' "{spaced}" "$0" "$@"\n': str(spaced),
        f"#!/bin/sh\n'''exec' {sys.executable} \"$0\" \"$@\"\n": sys.executable,
        "#!/usr/bin/env python3\n": "python3",
        "MZ\n": sys.executable,  # a program of Windows
    }.items():
        command.write_text(first_lines)
        assert check._python_of_nnunet() == python
    found = check._probed(sys.executable)
    assert Path(found["copies"]["segloss"][0]) == Path(check.__file__).parents[1]
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\nexit 1\n")
    broken.chmod(0o755)
    command.write_text(f"#!{broken}\n")
    assert list(check.problems()) == [f"nnU-Net's Python, {broken}, does not run: "]
    command.unlink()
    assert check._python_of_nnunet() is None
    assert any(line.startswith("nnUNetv2_train is not on PATH") for line in check.problems())


def model(folder: Path, name: str = "nnUNetTrainerX__nnUNetPlans__2d") -> Path:
    """A trained model, as far as exporting looks into it."""
    for fold in ("fold_0", "fold_all"):
        (folder / name / fold).mkdir(parents=True)
        for kind in ("checkpoint_best", "checkpoint_final", "of_epoch_100"):
            torch.save(
                {
                    "network_weights": {"w": torch.arange(3.0)},
                    "trainer_name": "nnUNetTrainerX",
                    "logging": {"loss": np.float64(0.5)},  # as nnU-Net has it
                },
                folder / name / fold / f"{kind}.pth",
            )
    (folder / name / "plans.json").write_text("{}")
    torch.save([0.5], folder / name / "notes.pth")  # no checkpoint, and copied as it is
    return folder / name


def test_export_writes_a_copy_under_a_stock_name(tmp_path: Path) -> None:
    source = model(tmp_path)
    before = {path: path.read_bytes() for path in source.rglob("*.pth")}
    outcome = run("export", str(source))
    target = tmp_path / "nnUNetTrainer__nnUNetPlans__2d"
    assert outcome.exit_code == 0 and outcome.stdout.strip() == str(target)
    assert {path: path.read_bytes() for path in source.rglob("*.pth")} == before
    files = {path.relative_to(source) for path in source.rglob("*")}
    assert {path.relative_to(target) for path in target.rglob("*")} == files
    assert (target / "notes.pth").read_bytes() == before[source / "notes.pth"]
    for path in target.glob("fold_*/*.pth"):
        renamed = torch.load(path, weights_only=False)
        assert renamed["trainer_name"] == "nnUNetTrainer"
        assert torch.equal(renamed["network_weights"]["w"], torch.arange(3.0))
        assert renamed["logging"] == {"loss": 0.5}
    again = run("export", str(source))
    assert again.exit_code == 2 and "is there already" in again.output
    elsewhere = tmp_path / "shared" / "model"
    outcome = run("export", str(source), "--out", str(elsewhere), "--trainer", "nnUNetTrainerDA5")
    assert outcome.exit_code == 0
    path = elsewhere / "fold_0" / "checkpoint_final.pth"
    assert torch.load(path, weights_only=False)["trainer_name"] == "nnUNetTrainerDA5"


def test_an_export_that_fails_leaves_nothing(tmp_path: Path) -> None:
    source = model(tmp_path)
    torch.save({"weights": 1}, source / "fold_all" / "checkpoint_final.pth")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ValueError, match=r"checkpoint_final.pth names no trainer"):
        export_model(source)
    assert sorted(tmp_path.rglob("*")) == before


def test_export_wants_the_folder_of_a_model(tmp_path: Path) -> None:
    assert "holds no fold_*" in run("export", str(tmp_path)).output
    odd = model(tmp_path, "mine")
    outcome = run("export", str(odd))
    assert outcome.exit_code == 2
    assert "mine is not TRAINER__PLANS__CONFIGURATION" in outcome.output
