"""How a model is named: what parses, and that it comes back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.errors import InvalidArgument
from mesh.reference import (
    ALIAS_PATTERN,
    LARGEST_VERSION,
    NAME_PATTERN,
    ModelReference,
    alias_name,
    model_name,
    model_reference,
    version_selector,
)

names = st.from_regex(NAME_PATTERN.strip("^$"), fullmatch=True)
aliases = st.from_regex(ALIAS_PATTERN.strip("^$"), fullmatch=True)
references = st.one_of(
    st.builds(ModelReference, names),
    st.builds(ModelReference, names, version=st.integers(1, LARGEST_VERSION)),
    st.builds(ModelReference, names, alias=aliases),
)


@given(reference=references)
def test_a_reference_comes_back_from_its_text(reference: ModelReference) -> None:
    assert model_reference(str(reference)) == reference


@given(text=st.text(max_size=80) | st.text("ab@1.-_ /", max_size=70))
def test_a_text_is_a_reference_or_refused_on_its_field(text: str) -> None:
    refused: InvalidArgument | None = None
    try:
        assert str(model_reference(text, field="x")) == text
    except InvalidArgument as error:
        refused = error
    assert refused is None or (refused.field == "x" and len(refused.message) < 600)


@pytest.mark.parametrize(
    ("text", "reference"),
    [
        ("smollm2", ModelReference("smollm2")),
        ("smollm2@3", ModelReference("smollm2", version=3)),
        ("smollm2@champion", ModelReference("smollm2", alias="champion")),
        ("2b@4294967295", ModelReference("2b", version=LARGEST_VERSION)),
        ("a.b_c-d@e.f_g-h", ModelReference("a.b_c-d", alias="e.f_g-h")),
    ],
)
def test_the_three_forms(text: str, reference: ModelReference) -> None:
    assert model_reference(text) == reference


@pytest.mark.parametrize(
    "text",
    [
        "", "@", "@1", "a@", "a@@1", "a@1@2", "a@0", "a@01", "a@-1", "a@1.5", "a@4294967296",
        "a@1champion", "a@Champion", "A", "a/b", "a b", " a", "a ", "a\n", "-a", ".a", "ä",
        "a" * 64, "a@" + "b" * 64, "a@٣",
    ],
)  # fmt: skip
def test_what_names_nothing(text: str) -> None:
    with pytest.raises(InvalidArgument):
        model_reference(text)


def test_refusals_show_what_was_given_and_cut_it() -> None:
    with pytest.raises(InvalidArgument, match="'Big Model' cannot name a model"):
        model_name("Big Model")
    with pytest.raises(InvalidArgument, match="'7' cannot name an alias"):
        alias_name("7")
    with pytest.raises(InvalidArgument, match="neither a version number"):
        version_selector("0")
    with pytest.raises(InvalidArgument) as refused:
        model_name("X" * 100_000)
    assert len(refused.value.message) < 300
