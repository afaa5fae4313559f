"""Names in little memory: the order of Python's sort, and finding them."""

from hypothesis import given
from hypothesis import strategies as st

from compositional_prompts.files.sorted_names import SortedNames

NAME = st.text(st.characters(exclude_categories=("Cs",)), max_size=6)


@given(st.lists(NAME), st.lists(NAME))
def test_names_come_as_python_sorts_them_and_are_found(names: list[str], others: list[str]) -> None:
    held = SortedNames(names)
    ordered = sorted(names)
    assert list(held) == ordered
    assert len(held) == len(names)
    for name in {*names, *others}:
        alike = [one for one in ordered if one.startswith(name[:2])]
        assert list(held.beginning_with(name[:2])) == alike
    for name in {*names, *others, "\udce9"}:
        assert held.find(name) == (ordered.index(name) if name in ordered else None)


def test_the_order_is_by_code_point_and_not_by_utf16() -> None:
    assert list(SortedNames(["\U0001f45e", "\uffee", "a/b", "a.b", "a"])) == [
        "a",
        "a.b",
        "a/b",
        "\uffee",
        "\U0001f45e",
    ]
