"""YAML that a user wrote: what is wrong is said in one sentence, with its line."""

from __future__ import annotations

from pathlib import Path

import pytest

from relabel.errors import DataError, RubricError
from relabel.evaluation.suite import load_suite
from relabel.files import read_user_yaml
from relabel.rubric import load_rubric


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
        ("a: !!bool perhaps\n", " line 1: 'perhaps' cannot be read as bool"),
        ("a: !!timestamp never\n", " line 1: 'never' cannot be read as timestamp"),
        ("a: 1\nb: {c: 1,\n    c: 2}\n", " line 3: the key 'c' is given twice"),
        ("a: [1\n", " line 2: "),
        ("a: *b\n", " line 1: found undefined alias"),
        ("a: !!python/object/apply:os.getcwd []\n", " line 1: could not determine a constructor"),
        ("a: b\nc: \x07\n", " line 2 holds a control character"),
        ("[" * 5000, ": it is nested too deeply"),
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
        read_user_yaml(tmp_path / "latin.yaml", refuse=RubricError)
    with pytest.raises(RubricError, match="cannot be read"):
        read_user_yaml(tmp_path, refuse=RubricError)


def test_what_is_right_comes_with_its_bytes(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_bytes(b"\xef\xbb\xbfa: &x {b: 2024-02-29}\r\nc: {<<: *x, d: [1, yes]}\r\n")
    said, raw = read_user_yaml(path)
    assert isinstance(said, dict)
    assert str(said["a"]["b"]) == "2024-02-29"
    assert said["c"] == {"b": said["a"]["b"], "d": [1, True]}
    assert raw == path.read_bytes()
