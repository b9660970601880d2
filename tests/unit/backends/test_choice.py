"""Which backend a model runs on, and what is said of the others."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.errors import FailedPrecondition
from services.inference.backends.backend import BackendUnavailable, Device, Graph, Obstacle
from services.inference.backends.choice import AUTO, Offer, choose, offer, open_first, remark

NAMES = ("tensorrt", "torch", "onnxruntime")


def refusal(name: str, obstacle: Obstacle = Obstacle.NO_GPU) -> BackendUnavailable:
    return BackendUnavailable(name, obstacle, "as the test has it")


class FakeBackend:
    """A backend that says what the test wants, and opens strings."""

    def __init__(self, name, device=Device.CPU, *, check=None, opening=None):
        self.name = name
        self._device, self._check, self._opening = device, check, opening

    def check(self):
        if self._check is not None:
            raise refusal(self.name, self._check)
        return self._device

    def open_slots(self, decoder, slots):
        raise NotImplementedError

    def open_graph(self, graph: Graph):
        if self._opening is not None:
            raise refusal(self.name, self._opening)
        return f"on {self.name}"


@st.composite
def offers(draw):
    return [
        draw(
            st.one_of(
                st.builds(Offer, st.just(name), device=st.sampled_from(Device)),
                st.builds(
                    lambda o, n=name: Offer(n, refusal=refusal(n, o)), st.sampled_from(Obstacle)
                ),
            )
        )
        for name in NAMES
    ]


@given(offers(), st.sampled_from([AUTO, *NAMES]))
def test_every_backend_is_either_tried_or_has_its_reason_told(given_offers, wanted) -> None:
    choice = choose(wanted, given_offers)
    refused = {each.backend for each in choice.refusals}
    assert set(choice.order) | refused == set(NAMES)
    assert not set(choice.order) & refused
    assert len(choice.order) + len(choice.refusals) == len(NAMES)


@given(offers(), st.sampled_from([AUTO, *NAMES]))
def test_the_wanted_one_comes_first_then_those_with_a_gpu(given_offers, wanted) -> None:
    device = {each.name: each.device for each in given_offers}
    order = choose(wanted, given_offers).order
    if wanted in order:
        assert order[0] == wanted
    others = [device[name] for name in order if name != wanted]
    assert others == sorted(others, key=lambda d: d is not Device.GPU)


def test_a_backend_that_the_node_does_not_know_is_refused_by_name() -> None:
    with pytest.raises(FailedPrecondition, match="no backend 'tpu' here"):
        choose("tpu", [Offer("torch", device=Device.CPU)])


def test_a_model_is_opened_on_the_first_that_takes_it() -> None:
    backends = (
        FakeBackend("tensorrt", check=Obstacle.MISSING_LIBRARY),
        FakeBackend("torch", Device.GPU, opening=Obstacle.UNSUPPORTED_MODEL),
        FakeBackend("onnxruntime"),
    )
    opened, opening = open_first("tensorrt", backends, lambda b: b.open_graph(None))
    assert opened == "on onnxruntime"
    assert opening.backend == "onnxruntime"
    assert opening.remark == (
        "runs on onnxruntime instead of tensorrt (tensorrt: missing_library: as the test has it; "
        "torch: unsupported_model: as the test has it)"
    )


def test_a_model_that_no_backend_takes_fails_with_every_reason() -> None:
    backends = (
        FakeBackend("torch", check=Obstacle.MISSING_LIBRARY),
        FakeBackend("onnxruntime", opening=Obstacle.UNSUPPORTED_MODEL),
    )
    with pytest.raises(FailedPrecondition, match=r"torch: missing_library.*onnxruntime: unsuppo"):
        open_first(AUTO, backends, lambda b: b.open_graph(None))


@pytest.mark.parametrize("obstacle", list(Obstacle))
def test_a_refusal_has_its_obstacle_in_what_crosses_the_wire(obstacle) -> None:
    error = offer(FakeBackend("torch", check=obstacle)).refusal
    assert error is not None
    assert error.metadata == {"backend": "torch", "obstacle": obstacle.value}
    assert error.reason == "BACKEND_UNAVAILABLE"


def test_an_ordinary_machine_without_a_gpu_is_not_worth_a_remark() -> None:
    told = [refusal("tensorrt", Obstacle.MISSING_LIBRARY), refusal("torch", Obstacle.NO_GPU)]
    assert remark(AUTO, "onnxruntime", told) == ""
    assert remark("onnxruntime", "onnxruntime", told) == ""
    assert "unsupported_gpu" in remark(
        AUTO, "torch", [refusal("tensorrt", Obstacle.UNSUPPORTED_GPU)]
    )
