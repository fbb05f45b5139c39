"""YAML and TOML that a user wrote: what is wrong is said in one sentence, YAML with its line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from relabel.careers.pages import load_cut_points, load_families
from relabel.errors import DataError, RubricError
from relabel.evaluation.suite import load_suite
from relabel.files import read_user_yaml
from relabel.labelling.providers import find_price, provider_of
from relabel.rubric import load_rubric
from relabel.sources.registry import load_registry

BOMB = "a: &a [1, 2, 3, 4, 5, 6, 7, 8]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 8)}]\n" for before, name in zip("abcdef", "bcdefg", strict=True)
)
MERGES = "m0: &m0 {a: 1}\n" + "".join(f"m{n}: &m{n} {{<<: [*m{n - 1}, *m{n - 1}]}}\n" for n in range(1, 40))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "id: x\ntitle: {{ model }}\n",
            " line 2: a key is a list or a mapping: put text with brackets or braces in quotes",
        ),
        ("id: x\n? [a, b]\n: 1\n", " line 2: a key is a list or a mapping"),
        ("id: x\nwhen: 2024-02-30\n", " line 2: '2024-02-30' cannot be read as timestamp: put text in quotes"),
        (f"n: {'9' * 5000}\n", " line 1: '9999999"),
        (f"a: {':'.join(['59'] * 200)}\n", " line 1: '59:59:59:59:59:59:59:59:59:59:59:59:59:5' cannot be read as int"),
        ("a: !!bool perhaps\n", " line 1: 'perhaps' cannot be read as bool"),
        ("a: !!timestamp never\n", " line 1: 'never' cannot be read as timestamp"),
        ("a: 1\nb: {c: 1,\n    c: 2}\n", " line 3: the key 'c' occurs twice"),
        ("a: [1\n", " line 2: "),
        ("a: *b\n", " line 1: found undefined alias"),
        ("a: !!python/object/apply:os.getcwd []\n", " line 1: could not determine a constructor"),
        ("a: b\nc: \x07\n", " line 2 holds a control character"),
        ("[" * 5000, ": it is nested too deeply"),
        (BOMB + "z: [*g, *g]\n", " line 6: its aliases expand to more than 100,000 values"),
        (MERGES, " line 16: its aliases expand to more than 100,000 values"),
    ],
)
def test_what_is_wrong_is_said_in_one_sentence_with_its_line(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    for read in (lambda: load_rubric(str(path)), lambda: load_suite(str(path))):
        with pytest.raises(DataError) as caught:
            read()
        assert str(caught.value).startswith(f"{path}{said}")
        assert "\n" not in str(caught.value)


def test_another_encoding_and_a_folder_are_refused_as_the_caller_says(tmp_path: Path) -> None:
    (tmp_path / "latin.yaml").write_bytes("title: Büro".encode("latin-1"))
    with pytest.raises(RubricError, match=r"latin.yaml is not in UTF-8 \(byte 8\); save it again"):
        read_user_yaml(tmp_path / "latin.yaml", "a form", refuse=RubricError)
    with pytest.raises(RubricError, match="cannot be read"):
        read_user_yaml(tmp_path, "a form", refuse=RubricError)


def test_what_is_right_comes_with_its_bytes(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_bytes(b"\xef\xbb\xbfa: &x {b: 2024-02-29}\r\nc: {<<: *x, d: [1, yes]}\r\n")
    said, raw = read_user_yaml(path, "a form")
    assert isinstance(said, dict)
    assert str(said["a"]["b"]) == "2024-02-29"
    assert said["c"] == {"b": said["a"]["b"], "d": [1, True]}
    assert raw == path.read_bytes()


@pytest.mark.parametrize(
    ("variable", "ask"),
    [
        ("RELABEL_PRICES", lambda: find_price("m", None)),
        ("RELABEL_PROVIDERS", lambda: provider_of("", "openai")),
        ("RELABEL_SOURCES", load_registry),
    ],
)
@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"a = " + b"[" * 20_000, "is nested too deeply"),
        (b"a = [" + b"1," * 3_000_000 + b"]", "is larger than 5,000,000 bytes"),
        (b"\xff", "is not valid TOML"),
        (b"[[a\n", "is not valid TOML"),
        (None, "cannot be read"),
    ],
)
def test_a_toml_file_that_cannot_be_used_ends_in_one_sentence(
    variable: str,
    ask: Callable[[], object],
    content: bytes | None,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = tmp_path / "mine.toml"
    if content is not None:
        path.write_bytes(content)
    monkeypatch.setenv(variable, str(path))
    with pytest.raises(DataError, match=said) as caught:
        ask()
    assert str(caught.value).count("\n") == 0
    for read in (load_families, load_cut_points):
        with pytest.raises(DataError, match=said):
            read(path)
