"""``segloss report``: the page, read as HTML and opened in a real browser."""

import base64
import io
import json
import re
import shutil
import subprocess
from dataclasses import asdict, dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from segloss.data_scripts.cli import app
from segloss.data_scripts.manifest import Record, read_manifest
from segloss.data_scripts.pictures import color
from segloss.data_scripts.report import page
from segloss.data_scripts.summary import outlying, summarise
from segloss.data_scripts.thumbnails import thumbnail
from segloss.data_scripts.volumes import Grid

NASTY = '<script>document.title="owned"</script>"&'
COLUMNS = [
    "case", "part", "state", "shape", "spacing", "voxels", "components", "centreline_length",
    "thinnest_radius", "seconds", "notes",
]  # fmt: skip


def run(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, [*map(str, arguments)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, " ".join(result.output.split())


def record(case: str, *voxels: int, **rest: Any) -> Record:
    """A case with a class for each number of voxels."""
    classes = {
        str(key): {
            "name": f"class {key}", "voxels": count, "components": 1,
            "centreline_length": count / 10, "thinnest_radius": 1.5 if count else None,
        }
        for key, count in enumerate(voxels, start=1)
    }  # fmt: skip
    given: dict[str, Any] = {
        "case": case, "label": f"/nowhere/{case}.nii.gz", "images": [], "part": "training",
        "digest": "0", "version": "1", "finished": "2026-01-01T00:00:00+00:00", "seconds": 0.5,
        "parameters": {"skeleton": {"radius": 2, "per_class": False, "region_labels": None}},
        "outputs": {"skeleton": {"path": "skeleton/x.nii.gz", "bytes": 2**20}},
        "shape": [8, 8, 8], "spacing": [1.0, 1.0, 2.0], "unit": "mm", "classes": classes,
    }  # fmt: skip
    return Record(**{**given, **rest})


def failure(case: str) -> Record:
    empty: dict[str, Any] = {"shape": [], "spacing": [], "outputs": {}, "parameters": {}}
    return record(case, error=f"{case}.nii.gz: is cut short", **empty)


@dataclass
class Table(HTMLParser):
    """The rows of the table of cases, as text and as what they are sorted by."""

    text: str
    heads: list[dict[str, str | None]] = field(default_factory=list)
    rows: list[list[str]] = field(default_factory=list)
    values: list[list[dict[str, str | None]]] = field(default_factory=list)
    hidden: list[bool] = field(default_factory=list)
    tags: list[str] = field(default_factory=list)
    inside: str = ""

    def __post_init__(self) -> None:
        super().__init__()
        self.feed(self.text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        given = dict(attrs)
        if tag == "table":
            self.inside = "head" if given.get("id") == "cases" else ""
        elif tag == "tbody" and self.inside == "head":
            self.inside = "body"
        elif tag == "tr" and self.inside == "body":
            self.rows.append([])
            self.values.append([])
            self.hidden.append("hidden" in given)
        elif tag == "th" and self.inside == "head":
            self.heads.append(given)
        elif tag in {"td", "th"} and self.inside == "body":
            self.rows[-1].append("")
            self.values[-1].append(given)

    def handle_endtag(self, tag: str) -> None:
        if tag == "table":
            self.inside = ""

    def handle_data(self, data: str) -> None:
        if self.inside == "body" and self.rows and self.rows[-1]:
            self.rows[-1][-1] = " ".join(f"{self.rows[-1][-1]} {data}".split())

    def row(self, case: str) -> dict[str, str]:
        (found,) = (row for row in self.rows if row[0] == case)
        return dict(zip(COLUMNS, found, strict=True))


def made(folder: Path, *records: Record) -> str:
    return page(folder, records, {}, {})


def test_every_case_has_a_row_with_all_that_is_known(tmp_path: Path) -> None:
    table = Table(
        made(tmp_path, record("a", 1234, 0), failure("b"), record("c", 5, 6, part="test"))
    )
    assert [head["data-column"] for head in table.heads] == COLUMNS
    assert table.row("a") == {
        "case": "a", "part": "training", "state": "good", "shape": "8 × 8 × 8",
        "spacing": "1 × 1 × 2", "voxels": "class 1 1,234 class 2 0", "components": "1 1",
        "centreline_length": "123 0", "thinnest_radius": "1.5 –", "seconds": "0.50", "notes": "",
    }  # fmt: skip
    assert table.row("b") == {
        "case": "b", "part": "training", "state": "failed", "shape": "–", "spacing": "–",
        "voxels": "–", "components": "–", "centreline_length": "–", "thinnest_radius": "–",
        "seconds": "0.50", "notes": "b.nii.gz: is cut short",
    }  # fmt: skip
    assert table.row("c")["part"] == "test"


def test_classes_are_added_up_to_sort_by_but_of_radii_the_least_counts(tmp_path: Path) -> None:
    both = record("a", 20, 30)
    both.classes["2"]["thinnest_radius"] = 0.5
    (row,) = Table(made(tmp_path, both)).values
    found = dict(zip(COLUMNS, row, strict=True))
    assert [found["voxels"][f"data-{key}"] for key in ("all", "c1", "c2")] == [
        "50.0",
        "20.0",
        "30.0",
    ]
    assert found["centreline_length"]["data-all"] == "5.0"
    assert found["thinnest_radius"]["data-all"] == "0.5"


def test_the_head_says_how_the_maps_were_made(tmp_path: Path) -> None:
    (tmp_path / "datalist.json").write_text(json.dumps({"name": "my vessels"}))
    text = made(tmp_path, record("a", 1), record("b", 2, warnings=["odd"]), failure("c"))
    assert "<h1>my vessels</h1>" in text
    assert "<b>3</b>cases" in text
    assert "<b>1</b>failed" in text
    assert "<b>1</b>to check" in text
    assert "<b>2 MiB</b>of maps" in text
    assert "<b>1.5 s</b>of work" in text
    assert "<dt>skeleton</dt><dd>radius 2, per_class no</dd>" in text
    (tmp_path / "datalist.json").unlink()
    assert f"<h1>{tmp_path.name}</h1>" in made(tmp_path, record("a", 1))


def test_large_numbers_are_readable(tmp_path: Path) -> None:
    large = {"skeleton": {"path": "x", "bytes": 3 * 2**40}}
    text = made(
        tmp_path, record("a", 1, seconds=90.0), record("b", 1, seconds=7110.0, outputs=large)
    )
    assert "<b>3 TiB</b>of maps" in text
    assert "<b>2 h 0 min</b>of work" in text
    assert "<b>2 min</b>of work" in made(tmp_path, record("a", 1, seconds=100.0))
    assert "<b>0.977 GiB</b>of maps" in made(tmp_path, *[record(f"{n}", 1) for n in range(1000)])


def test_maps_of_different_make_are_told_apart(tmp_path: Path) -> None:
    other = record("b", 1, parameters={"skeleton": {"radius": 3}})
    text = made(tmp_path, record("a", 1), other)
    assert re.search(r"radius 2, per_class no <span class=\"faint\">\(1 cases\)", text)
    assert re.search(r"radius 3 <span class=\"faint\">\(1 cases\)", text)


def test_a_page_needs_nothing_from_elsewhere(tmp_path: Path) -> None:
    text = made(tmp_path, record("a", 1, 2))
    assert not re.search(r"https?://|//[a-z]|<link|@import|url\(", text)
    assert "default-src 'none'" in text


def test_text_is_only_text(tmp_path: Path) -> None:
    nasty = record(NASTY, 1, part=NASTY, warnings=[NASTY])
    nasty.classes["1"]["name"] = NASTY
    (tmp_path / "datalist.json").write_text(json.dumps({"name": NASTY}))
    table = Table(made(tmp_path, nasty))
    plain = Table(made(tmp_path, record("a", 1)))
    assert table.tags.count("script") == plain.tags.count("script") == 1
    row = table.row(" ".join(NASTY.split()))
    assert row["part"] == row["notes"] == NASTY


def test_no_cases_are_no_problem(tmp_path: Path) -> None:
    assert Table(made(tmp_path)).rows == []
    assert len(Table(made(tmp_path, failure("a"))).rows) == 1


def test_ranges_are_those_of_the_cases_that_have_the_class() -> None:
    one, two = summarise([record("a", 10, 0), record("b", 30, 7), record("c", 20, 0), failure("d")])
    assert (one.name, one.cases, two.cases) == ("class 1", 3, 1)
    voxels = one.ranges["voxels"]
    assert (voxels.low, voxels.median, voxels.high, sum(voxels.bins)) == (10, 20, 30, 3)
    assert (voxels.bins[0], voxels.bins[-1]) == (1, 1)
    assert two.ranges["voxels"].median == 7


def test_outliers_are_far_from_the_median_on_a_logarithmic_scale() -> None:
    usual = {str(number): 100 * 1.1 ** (number % 5 - 2) for number in range(20)}
    # the logarithms are -2 … 2 times log 1.1, so their median absolute deviation is log 1.1
    limit = 1.1 ** (3.5 * 1.4826)
    found = outlying({**usual, "below": 100 / limit * 0.999, "above": 100 * limit * 1.001})
    assert set(found) == {"below", "above"}
    assert found["above"] == pytest.approx(limit, rel=0.01)
    assert not outlying({**usual, "below": 100 / limit * 1.01, "above": 100 * limit * 0.99})
    few = {**{str(number): usual[str(number)] for number in range(6)}, "above": 1e9}
    assert not outlying(few)
    assert set(outlying({**few, "one more": 100.0})) == {"above"}
    assert not outlying({**dict.fromkeys("abcdefghi", 5.0), "j": 1e9})


def test_outliers_are_noted(tmp_path: Path) -> None:
    records = [record(f"case{number}", 1000 + number) for number in range(20)]
    table = Table(made(tmp_path, *records, record("huge", 9000)))
    huge = table.row("huge")
    assert huge["state"] == "check"
    assert huge["notes"] == "outlying class 1: 8.91 × the median voxels, 8.91 × the median length"
    assert table.row("case3")["state"] == "good"


def test_a_thumbnail_shows_the_classes() -> None:
    label = np.zeros((20, 30, 10), dtype=np.uint8)
    label[5:15, 5:15, 3:6], label[5:15, 15:25, 3:6] = 1, 2
    grid = Grid(label.shape, np.eye(4), (1.0, 1.0, 1.0))
    picture = Image.open(io.BytesIO(thumbnail(label, grid, {"a": (1,), "b": (2,)})))
    assert picture.format == "WEBP"
    assert picture.size == (64, 128)  # seen from above, as 10 x 20
    pixels = np.asarray(picture.convert("RGBA"), float)
    for y, number in ((32, 2), (96, 1)):  # y runs to the front, which is up
        ink = [int(color(number)[at : at + 2], 16) for at in (1, 3, 5)]
        shown = pixels[y, 32]
        assert shown[3] == 255
        np.testing.assert_allclose(shown[:3] / shown[:3].max(), np.divide(ink, max(ink)), atol=0.06)
    assert thumbnail(np.zeros_like(label), grid, {"a": (1,)}) == b""


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (7, 5), (1, 1, 1), (1, 9, 1), (2, 1, 3)])
def test_thumbnails_of_any_shape(shape: tuple[int, ...]) -> None:
    grid = Grid(shape, np.eye(4))
    file = thumbnail(np.ones(shape, np.uint8), grid, {"a": (1,), "b": (1,)})
    assert max(Image.open(io.BytesIO(file)).size) == 128


@pytest.fixture(scope="module")
def maps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A preprocessed folder: three good cases and a bad one."""
    folder = tmp_path_factory.mktemp("data")
    options = ("--count", 3, "--shape", "24x20x16", "--classes", "several")
    assert run("phantom", folder, *options)[0] == 0
    (folder / "labels" / f"{NASTY[:8]}.nii.gz").write_bytes(b"none")
    choices = ("--classes", 3, "--maps", "skeleton", "--jobs", 1)
    assert run("preprocess", folder / "labels", "--out", folder / "maps", *choices)[0] == 1
    return folder / "maps"


def test_reports_what_preprocess_has_made(maps: Path) -> None:
    code, output = run("report", maps, "--jobs", 2)
    assert (code, "4 cases in" in output) == (0, True)
    table = Table((maps / "report.html").read_text())
    label = nib.Nifti1Image.from_filename(maps.parent / "labels" / "phantom_0001.nii.gz")
    counts = np.bincount(np.asarray(label.dataobj).ravel())
    assert table.row("phantom_0001")["voxels"] == f"1 {counts[1]:,} 2 {counts[2]:,}"
    assert table.row(NASTY[:8])["state"] == "failed"
    assert table.tags.count("img") == 3
    packed = re.findall(r'src="data:image/webp;base64,([^"]+)"', table.text)
    for each in packed:
        assert max(Image.open(io.BytesIO(base64.b64decode(each))).size) == 128
    assert not list(maps.glob(".unfinished*"))


def test_a_label_that_has_gone_is_reported(maps: Path, tmp_path: Path) -> None:
    records = [asdict(each) for each in read_manifest(maps).values()]
    records[-1]["label"] = str(tmp_path / "gone.nii.gz")
    (tmp_path / "manifest.jsonl").write_text("".join(json.dumps(each) + "\n" for each in records))
    code, output = run("report", tmp_path, "--out", tmp_path / "new" / "page.html", "--jobs", 1)
    assert code == 1
    assert "gone.nii.gz: does not exist" in output
    table = Table((tmp_path / "new" / "page.html").read_text())
    assert table.row("phantom_0002")["notes"].startswith("no picture: gone.nii.gz: does not exist")


def test_wrong_usage(tmp_path: Path) -> None:
    code, output = run("report", tmp_path)
    assert (code, "manifest.jsonl cannot be" in output) == (2, True)
    assert run("report", tmp_path, "--jobs", 0)[0] == 2


def test_a_page_that_cannot_be_written_costs_a_line(maps: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    code, output = run("report", maps, "--out", tmp_path / "file" / "page.html", "--jobs", 1)
    assert (code, "page.html cannot be written: " in output) == (2, True)


def test_help_shows_examples() -> None:
    assert "Examples: segloss report maps" in run("report", "--help")[1]


class Browser:
    """A real one, without a window."""

    def __init__(self, program: str, folder: Path) -> None:
        self.command = [
            program, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
            "--allow-file-access-from-files", f"--user-data-dir={folder / 'profile'}",
            "--virtual-time-budget=2000",
        ]  # fmt: skip

    def __call__(self, *arguments: str) -> str:
        return subprocess.run(
            [*self.command, *arguments], check=True, capture_output=True, text=True, timeout=120
        ).stdout

    def cases(self, page: Path, wish: str) -> list[str]:
        """The cases in sight, from the first to the last."""
        table = Table(self("--dump-dom", f"{page.as_uri()}#{wish}"))
        return [row[0] for row, hidden in zip(table.rows, table.hidden, strict=True) if not hidden]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Browser:
    names = ("chromium", "chromium-browser", "google-chrome")
    program = next(filter(None, map(shutil.which, names)), None)
    if program is None:
        pytest.skip(f"needs a browser: one of {', '.join(names)} (Debian: apt install chromium)")
    return Browser(program, tmp_path_factory.mktemp("browser"))


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    records = [
        record("case10", 300, 1, seconds=2.0),
        record("case9", 20, 0, warnings=["the axes are odd"]),
        failure("broken"),
        record(NASTY, 1000, 5, part="validation"),
    ]
    (folder / "report.html").write_text(made(folder, *records), encoding="utf-8")
    return folder / "report.html"


FOUR = ["case10", "case9", "broken", NASTY]


@pytest.mark.parametrize(
    ("wish", "expected"),
    [
        ("", FOUR),
        ("sort=case:asc", [NASTY, "broken", "case9", "case10"]),
        ("sort=voxels:asc", ["case9", "case10", NASTY, "broken"]),
        ("sort=voxels:desc", [NASTY, "case10", "case9", "broken"]),
        ("sort=voxels%3Adesc&class=c2", [NASTY, "case10", "case9", "broken"]),
        ("sort=thinnest_radius:asc&class=c2", ["case10", NASTY, "case9", "broken"]),
        ("sort=state:desc", ["broken", "case9", "case10", NASTY]),
        ("sort=seconds:desc", FOUR),
        ("sort=part:desc", [NASTY, "case10", "case9", "broken"]),
        ("find=case&sort=case:desc", ["case10", "case9"]),
        ("find=ODD%20axes", ["case9"]),
        ("find=nothing", []),
        ("sort=colour:asc&class=c9", FOUR),
    ],
)
def test_the_address_says_how_the_table_is_sorted(
    browser: Browser, shown: Path, wish: str, expected: list[str]
) -> None:
    assert browser.cases(shown, wish) == expected


def test_a_browser_runs_our_script_and_no_other(browser: Browser, shown: Path) -> None:
    text = browser("--dump-dom", f"{shown.as_uri()}#sort=voxels:desc&class=c2&find=case")
    table = Table(text)
    order = {head["data-column"]: head["aria-sort"] for head in table.heads}
    assert order == {**dict.fromkeys(COLUMNS, "none"), "voxels": "descending"}
    assert "owned" not in re.findall(r"<title>(.*?)</title>", text)[0]
    assert 'data-class="c2"' in text
    assert ">2 of 4 cases</output>" in text


def test_a_click_sorts_and_the_address_keeps_it(
    browser: Browser, shown: Path, tmp_path: Path
) -> None:
    """The page in a frame, and a hand that clicks in it."""
    (tmp_path / "hand.html").write_text(
        f"""<iframe src="{shown.as_uri()}" width="1400" height="900"></iframe><pre></pre><script>
        const frame = document.querySelector("iframe"), said = document.querySelector("pre");
        frame.onload = () => {{
          const page = frame.contentDocument;
          const tell = () => said.append(frame.contentWindow.location.hash + " " + [
            ...page.querySelectorAll("#cases tbody tr:not([hidden]) th")
          ].map((head) => head.dataset.value[0] + head.dataset.value.slice(-1)).join() + "\\n");
          page.querySelector("[data-column=voxels] button").click(); tell();
          page.querySelector("[data-column=voxels] button").click(); tell();
          page.querySelector("[data-column=case] button").click(); tell();
          page.querySelector("[value=c2]").click(); tell();
          const find = page.querySelector("[name=find]");
          find.value = "case 9"; find.dispatchEvent(new Event("input")); tell();
        }};
        </script>"""
    )
    text = browser("--disable-web-security", "--dump-dom", (tmp_path / "hand.html").as_uri())
    found = re.findall(r"(#\S+) (.*)", text.split("<pre>")[1].split("</pre>")[0])
    assert [
        (wish.replace("&amp;", "&"), cases.replace("&amp;", "&").replace("&lt;", "<"))
        for wish, cases in found
    ] == [
        ("#sort=voxels:desc", "<&,c0,c9,bn"),
        ("#sort=voxels:asc", "c9,c0,<&,bn"),
        ("#sort=case:asc", "<&,bn,c9,c0"),
        ("#sort=case:asc&class=c2", "<&,bn,c9,c0"),
        ("#sort=case:asc&class=c2&find=case%209", "c9"),
    ]


def test_a_browser_draws_it(browser: Browser, shown: Path, tmp_path: Path) -> None:
    picture = tmp_path / "page.png"
    browser("--window-size=1400,900", f"--screenshot={picture}", shown.as_uri())
    with Image.open(picture) as image:
        assert image.size == (1400, 900)
        assert len(image.convert("RGB").getcolors(2**24) or ()) > 50
