import pytest

from mesh.cli.tensor_json import BadTensor, read_input


@pytest.mark.parametrize(
    ("text", "datatype", "shape", "data"),
    [
        ('text=["hello","world"]', "BYTES", [2], ["hello", "world"]),
        ("text=hello there", "BYTES", [1], ["hello there"]),
        ("x=[[1,2],[3,4]]", "INT64", [2, 2], [1, 2, 3, 4]),
        ("x=[1,2.5]", "FP32", [2], [1, 2.5]),
        ("x=[true,false]", "BOOL", [2], [True, False]),
        ("x=7", "INT64", [1], [7]),
        ("x:FP16=[1]", "FP16", [1], [1]),
        ("x=[]", "INT64", [0], []),
        ("x=[[],[]]", "INT64", [2, 0], []),
        ("x=a=b", "BYTES", [1], ["a=b"]),
    ],
)
def test_values_say_their_shape_and_datatype(
    text: str, datatype: str, shape: list[int], data: list[object]
) -> None:
    read = read_input(text, {})
    assert (read["datatype"], read["shape"], read["data"]) == (datatype, shape, data)


def test_the_model_knows_the_datatype_better() -> None:
    assert read_input("x=[1]", {"x": "FP32"})["datatype"] == "FP32"
    assert read_input("x:INT8=[1]", {"x": "FP32"})["datatype"] == "INT8"


@pytest.mark.parametrize("text", ["hello", "=1", "x=[[1],[2,3]]", "x=[1,[2]]", "x=[[1],2]"])
def test_what_is_no_tensor_is_refused(text: str) -> None:
    with pytest.raises(BadTensor):
        read_input(text, {})
