"""Which engine computes what, and who is told."""

import logging
import sys
from typing import Any

import pytest
import torch

from segloss import DiceLoss, backend
from segloss.engine import backend as engines
from tests.strategies import make_batch

triton = pytest.importorskip("triton", reason="needs Triton")


def engine_of(monkeypatch: pytest.MonkeyPatch) -> str:
    """Who computes a loss on the CPU now."""
    from segloss.engine.kernels import rows

    asked: list[str] = []
    computed = rows.sums

    def noted(*arguments: Any) -> Any:
        asked.append("triton")
        return computed(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(rows, "sums", noted)
        made = make_batch(shape=(1, 2, 2, 2))
        DiceLoss()(made.logits, made.target)
    return asked[0] if asked else "other"


@pytest.fixture(autouse=True)
def left_as_found() -> Any:
    with backend("auto"):
        yield


def test_from_now_on_or_for_a_block(monkeypatch: pytest.MonkeyPatch) -> None:
    assert engine_of(monkeypatch) == "other"
    with backend("triton"):
        assert engine_of(monkeypatch) == "triton"
        with backend("torch"):
            assert engine_of(monkeypatch) == "other"
        assert engine_of(monkeypatch) == "triton"
    assert engine_of(monkeypatch) == "other"
    backend("triton")
    assert engine_of(monkeypatch) == "triton"


def test_an_error_in_the_block_ends_the_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(KeyError), backend("triton"):
        raise KeyError
    assert engine_of(monkeypatch) == "other"


def test_an_engine_that_is_none() -> None:
    with pytest.raises((ValueError, TypeError), match="cuda"):
        backend("cuda")  # type: ignore[arg-type]


def test_without_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "_installed", lambda: False)
    with pytest.raises(ImportError, match="pip install triton"):
        backend("triton")
    monkeypatch.setitem(sys.modules, "segloss.engine.kernels", None)  # importing it fails
    made = make_batch()
    assert DiceLoss()(made.logits, made.target).isfinite()


def test_on_the_cpu_without_the_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    from segloss.engine.kernels import compile as compiling

    monkeypatch.setattr(compiling, "INTERPRETED", False)
    with backend("triton"), pytest.raises(RuntimeError, match=r"cpu.*TRITON_INTERPRET=1"):
        engine_of(monkeypatch)


def test_whether_it_works_is_found_out_once_and_said(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from segloss.engine.kernels import operators

    caplog.set_level(logging.INFO, "segloss")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    engines._tried.cache_clear()
    assert engines._works(device, "operators") and engines._works(device, "operators")
    assert [x.levelname for x in caplog.records] == ["INFO"]

    def fails(*_: Any) -> None:
        raise RuntimeError("Failed to find C compiler")

    monkeypatch.setattr(operators, "row_sums", fails)
    engines._tried.cache_clear()
    assert not engines._works(device, "operators")
    assert caplog.records[-1].levelname == "WARNING"
    assert "Failed to find C compiler" in caplog.text

    monkeypatch.setattr(engines, "_installed", lambda: False)
    engines._tried.cache_clear()
    assert not engines._works(device, "operators")
    assert "not installed" in caplog.records[-1].message
    engines._tried.cache_clear()


@pytest.mark.parametrize("wrong", ["sums", "gradient"])
def test_wrong_numbers_are_found_out_too(
    wrong: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from segloss.engine.kernels import operators

    class Scaled(torch.autograd.Function):
        @staticmethod
        def forward(_: Any, x: torch.Tensor) -> torch.Tensor:
            return x * (1.001 if wrong == "sums" else 1)

        @staticmethod
        def backward(_: Any, slope: torch.Tensor) -> torch.Tensor:
            return slope * (1.001 if wrong == "gradient" else 1)

    right = operators.row_sums
    scaled: Any = Scaled.apply
    monkeypatch.setattr(operators, "row_sums", lambda *given: scaled(right(*given)))
    engines._tried.cache_clear()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with torch.inference_mode():  # whoever asks first
        assert not engines._works(device, "operators")
    assert "not PyTorch's" in caplog.records[-1].message
    engines._tried.cache_clear()


@pytest.mark.parametrize("kernels", ["numbers", "skeleton"])
def test_other_kernels_are_held_to_pytorch_by_themselves(
    kernels: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from segloss.engine.kernels import numbers, skeleton

    caplog.set_level(logging.INFO, "segloss")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    engines._tried.cache_clear()
    assert engines._works(device, kernels)
    right: Any = {"numbers": numbers.sums_by_number, "skeleton": skeleton.slope}[kernels]
    module: Any = {"numbers": numbers, "skeleton": skeleton}[kernels]
    monkeypatch.setattr(module, right.__name__, lambda *given: 1.001 * right(*given))
    engines._tried.cache_clear()
    assert not engines._works(device, kernels)
    assert [x.levelname for x in caplog.records] == ["INFO", "WARNING"]
    engines._tried.cache_clear()
