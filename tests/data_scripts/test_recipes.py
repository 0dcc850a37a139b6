"""What a YAML file may say, and what it is told when it says something else."""

from pathlib import Path

import numpy as np
import pytest

from segloss.data_scripts.recipes import RECIPES, Config, Distance, Label, RecipeError, Skeleton


def test_defaults_are_those_of_the_transforms() -> None:
    assert list(Config.of({}).recipes()) == ["skeleton", "distance"]
    assert list(Config.of({}).recipes(",".join(RECIPES))) == list(RECIPES)


def test_options_come_from_the_file_and_names_from_the_command_line() -> None:
    config = Config.of({"maps": {"skeleton": {"radius": 3}, "distance": {"clip": 5}}, "classes": 4})
    assert config.recipes() == {"skeleton": Skeleton(radius=3), "distance": Distance(clip=5)}
    assert config.recipes("distance") == {"distance": Distance(clip=5)}
    assert list(config.recipes("band, skeleton")) == ["band", "skeleton"]
    assert config.classes == 4


def test_a_list_of_maps_will_do() -> None:
    assert list(Config.of({"maps": ["band", "skeleton"]}).recipes()) == ["band", "skeleton"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("maps: [skeleton", "is no YAML"),
        ("maps: {band: {width: 1}, band: {width: 2}}", "'band' stands there twice"),
        ("maps: {skelton: {}}", "maps: 'skelton' is unknown; did you mean 'skeleton'"),
        ("map: {}", "the file: 'map' is unknown; did you mean 'maps'"),
        ("maps: {skeleton: {width: 2}}", "skeleton: 'width' is unknown; known: radius, per_class"),
        ("maps: {skeleton: {radius: -1}}", "skeleton: radius must be 0 or more, got -1"),
        ("maps: {skeleton: {per_class: 1}}", "skeleton: per_class must be true or false, got 1"),
        ("maps: {skeleton: 3}", "skeleton must be a table of names and values, got 3"),
        ("maps: {distance: {convention: up}}", "distance: convention must be one of"),
        ("maps: {distance: {clip: 0}}", "distance: clip must be a finite number above 0, got 0"),
        ("maps: {band: {width: wide}}", "band: width must be a number, got 'wide'"),
        ("maps: {instances: {regions: boxes}}", "instances: regions must be one of"),
        ("maps: {instances: {connectivity: 0}}", "instances: connectivity must be 1 or more"),
        ("maps: {weight: {kind: heavy}}", "weight: kind must be one of"),
        ("maps: {weight: {sigma: -1}}", "weight: sigma must be a finite number above 0, got -1"),
        ("classes: two", "classes must be a whole number or null, got 'two'"),
        ("ignore: true", "ignore must be a whole number or null, got True"),
        ("- skeleton", "the file must be a table of names and values"),
        ("maps: 3", "maps must be a table of names and values, got 3"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "maps.yaml"
    path.write_text(text)
    with pytest.raises(RecipeError) as error:
        Config.read(path).recipes()
    assert message in str(error.value)


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"maps\.yaml cannot be read"):
        Config.read(tmp_path / "maps.yaml")


@pytest.mark.parametrize(
    ("spacing", "step"),
    [
        (None, 1 / 64),
        ((1.0, 1.0, 5.0), 1 / 64),
        ((0.25, 1.0, 1.0), 1 / 64),
        ((0.2, 1.0, 1.0), 1 / 128),
        ((0.001, 0.001), 2.0**-14),
    ],
)
def test_a_voxel_is_sixteen_steps_or_more(spacing: tuple[float, ...] | None, step: float) -> None:
    channels = [np.zeros((4, 4, 4), np.uint8)]
    label = Label(channels, 2, None, spacing, channels)
    assert Distance().step(label) == step
    assert step <= min(spacing or [1.0]) / 16
    assert Distance(normalize=True).step(label) == 2.0**-14
