"""The manifest survives whatever ends its writer."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from segloss.data_scripts.manifest import FolderError, Record, digest, opened, read_manifest
from tests.data_scripts.files import ball, write_itk

RECORD = Record(
    case="siteÄ/a",
    label="/labels/a.nii.gz",
    images=[],
    part="training",
    digest="00",
    version="0",
    finished="2026-01-01T00:00:00+00:00",
    seconds=1.5,
    parameters={"skeleton": {"radius": 2}},
    outputs={"skeleton": {"path": "skeleton/a.nii.gz", "bytes": 7}},
    classes={"1": {"voxels": 3, "thinnest_radius": None}},
    warnings=["line\nbreak"],
)


def test_the_last_record_of_a_case_counts(tmp_path: Path) -> None:
    other = replace(RECORD, case="b", error="bad")
    again = replace(RECORD, seconds=2.0)
    with opened(tmp_path / "out") as manifest:
        for record in (RECORD, other, again):
            manifest.add(record)
        assert manifest.records == {RECORD.case: again, "b": other}
    assert read_manifest(tmp_path / "out") == {RECORD.case: again, "b": other}


@pytest.mark.parametrize("kept", [0, 1, 40])
def test_a_line_cut_short_is_forgotten(tmp_path: Path, kept: int) -> None:
    with opened(tmp_path) as manifest:
        manifest.add(RECORD)
        whole = manifest.path.read_bytes()
        manifest.path.write_bytes(whole + whole[:kept])
    assert list(read_manifest(tmp_path)) == [RECORD.case]
    with opened(tmp_path) as manifest:
        manifest.add(replace(RECORD, case="b"))
    assert list(read_manifest(tmp_path)) == [RECORD.case, "b"]


@pytest.mark.parametrize("line", ["no JSON", '{"case": "a"}', '{"unheard": 1}', "[]"])
def test_a_line_that_is_no_record_is_named(tmp_path: Path, line: str) -> None:
    with opened(tmp_path) as manifest:
        manifest.add(RECORD)
        with manifest.path.open("a") as file:
            file.write(line + "\n")
    with pytest.raises(FolderError, match=r"manifest\.jsonl, line 2, is not the record of a case"):
        read_manifest(tmp_path)


def test_no_manifest(tmp_path: Path) -> None:
    with pytest.raises(FolderError, match=r"is .* what `segloss preprocess --out` was given"):
        read_manifest(tmp_path)


HOLD = """
import sys, time
from pathlib import Path
from segloss.data_scripts.manifest import opened
with opened(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


def test_one_writer_at_a_time_and_a_killed_one_lets_go(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(FolderError, match="another run is writing"), opened(tmp_path):
            pass
        other.kill()
    with opened(tmp_path) as manifest:
        manifest.add(RECORD)


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(FolderError, match="cannot be written to"),
        opened(tmp_path / "file" / "out"),
    ):
        pass


def test_digest_tells_files_apart(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    one.write_bytes(bytes(3_000_000))
    other.write_bytes(bytes(2_999_999) + b"\1")
    assert digest(one) != digest(other)
    other.write_bytes(bytes(3_000_000))
    assert digest(one) == digest(other)


def test_digest_looks_at_the_numbers_that_a_header_points_to(tmp_path: Path) -> None:
    write_itk(tmp_path / "label.mhd", ball())
    before = digest(tmp_path / "label.mhd")
    header = (tmp_path / "label.mhd").read_bytes()
    write_itk(tmp_path / "label.mhd", ball(label=2))
    assert (tmp_path / "label.mhd").read_bytes() == header
    assert digest(tmp_path / "label.mhd") != before
