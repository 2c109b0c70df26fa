import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feature_cache.datasets.pocket.meshes import read_obj

SQUARE = b"v 0 0 0\nv 1 0 0\nv 1 1 0\nv 0 1 0\n"


@st.composite
def polygons(draw: st.DrawFn) -> tuple[list[tuple[float, ...]], list[list[int]]]:
    coordinate = st.floats(-1e6, 1e6, allow_nan=False)
    vertices = draw(st.lists(st.tuples(coordinate, coordinate, coordinate), min_size=3, max_size=12))
    corner = st.integers(0, len(vertices) - 1)
    return vertices, draw(st.lists(st.lists(corner, min_size=3, max_size=6), min_size=1, max_size=8))


@settings(deadline=None)
@given(polygons(), st.sampled_from(["{}", "{0}/{0}", "{0}//{0}", "{0}/1/1"]), st.booleans(), st.sampled_from("\n\r"))
def test_a_mesh_that_is_written_is_read_back(
    mesh: tuple[list[tuple[float, ...]], list[list[int]]], corner: str, negative: bool, ending: str
) -> None:
    vertices, faces = mesh
    shift = -len(vertices) if negative else 1
    lines = ["v " + " ".join(map(repr, vertex)) for vertex in vertices]
    lines += ["f " + " ".join(corner.format(index + shift) for index in face) for face in faces]
    read_vertices, triangles = read_obj(("\r\n" if ending == "\r" else "\n").join(lines).encode())
    np.testing.assert_array_equal(read_vertices, np.array(vertices))
    fan = [[face[0], face[k], face[k + 1]] for face in faces for k in range(1, len(face) - 1)]
    assert triangles.tolist() == fan


def test_negative_indices_count_back_from_the_vertices_defined_so_far() -> None:
    later = b"f -4 -3 -2\nv 9 9 9\nf -4 -3 -1\n"
    assert read_obj(SQUARE + later)[1].tolist() == [[0, 1, 2], [1, 2, 4]]


def test_what_is_no_geometry_is_ignored() -> None:
    data = b"# f 1 1 1\nmtllib x.mtl\nvn 0 0 1\nvt 0 0\ng f\n" + SQUARE + b"usemtl v\nl 1 2\nf 1 2 3\n"
    assert read_obj(data)[1].tolist() == [[0, 1, 2]]


def test_a_line_may_go_on_after_a_backslash() -> None:
    assert read_obj(SQUARE + b"f 1 2 \\\n3 4\n")[1].tolist() == [[0, 1, 2], [0, 2, 3]]


def test_colours_after_the_coordinates_are_ignored() -> None:
    vertices, _ = read_obj(b"v 1 2 3 0.5 0.5 0.5\nv 4 5 6 0 0 0\nv 7 8 9 1 1 1\nf 1 2 3\n")
    assert vertices.tolist() == [[1, 2, 3], [4, 5, 6], [7, 8, 9]]


@pytest.mark.parametrize(
    "data, complaint",
    [
        (b"", "has no faces"),
        (SQUARE, "has no faces"),
        (SQUARE + b"f 1 2\n", "has no faces"),
        (SQUARE + b"f 1 2 5\n", "with 4 vertices has a face of vertex 5"),
        (SQUARE + b"f 0 1 2\n", "with 4 vertices has a face of vertex 0"),
        (SQUARE + b"f 1 2 -5\n", "with 4 vertices has a face of vertex 0"),
        (b"v a b c\nf 1 1 1\n", "could not convert"),
        (SQUARE + b"f x y z\n", "invalid literal"),
    ],
)
def test_a_damaged_file_is_an_error_that_says_why(data: bytes, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        read_obj(data)
