"""What a text request means to a language model of the node."""

from __future__ import annotations

from mesh.text_inference import DEFAULT_MAX_TOKENS, TextRequest
from services.inference.llm.request import GenerationRequest, SamplingRequest
from services.inference.oip.text import make_generation_request


def test_what_is_asked_becomes_sampling_and_limits() -> None:
    asked = TextRequest(
        "Once", max_tokens=5, ignore_eos=True, stop=("\n",), sampling={"top_k": 40, "top_p": 1.0}
    )
    sampling = SamplingRequest(top_k=40, top_p=1.0)
    assert make_generation_request(asked, 2.5) == GenerationRequest(
        "Once", sampling, max_tokens=5, stop=("\n",), ignore_eos=True, timeout_s=2.5
    )


def test_nothing_asked_is_nothing_set_but_an_end() -> None:
    expected = GenerationRequest("Once", max_tokens=DEFAULT_MAX_TOKENS)
    assert make_generation_request(TextRequest("Once"), None) == expected
