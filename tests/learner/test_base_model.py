"""A base model is there whole or not at all, and its digest is its content's."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from learner.base_model import base_model_digest, check_base_model, prepare_smollm2
from learner.errors import LearnerError
from tests.support.tiny_model import make_tiny_model


@pytest.fixture
def model(tmp_path):
    return make_tiny_model(tmp_path / "tiny")


@pytest.mark.parametrize(
    ("file", "says"),
    [
        ("config.json", "model_type"),
        ("model.safetensors", "weights"),
        ("tokenizer.json", "tokenizer"),
        ("chat_template.jinja", "chat template"),
    ],
)
def test_a_missing_part_is_named_in_one_line(model, file, says):
    check_base_model(model)
    (model / file).unlink()
    with pytest.raises(LearnerError, match=says) as caught:
        check_base_model(model)
    assert "\n" not in str(caught.value)


def test_the_digest_follows_the_content_of_the_models_files_and_nothing_else(model):
    before = base_model_digest(model)
    (model / "README.md").write_text("about it")
    os.utime(model / "config.json", ns=(1, 1))
    assert base_model_digest(model) == before
    (model / "config.json").write_text((model / "config.json").read_text() + " ")
    assert base_model_digest(model) != before


def test_preparing_leaves_what_is_there_and_refuses_what_is_not_a_model(model, tmp_path):
    before = base_model_digest(model)
    prepare_smollm2(model)
    assert base_model_digest(model) == before
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("mine")
    with pytest.raises(LearnerError, match="not a base model"):
        prepare_smollm2(tmp_path / "other")
    assert (tmp_path / "other" / "notes.txt").read_text() == "mine"


def test_a_download_that_fails_is_one_line_and_leaves_nothing_behind(tmp_path):
    command = [sys.executable, "-m", "learner.base_model", str(tmp_path / "model")]
    environ = {**os.environ, "PIP_NO_INDEX": "1", "PIP_CACHE_DIR": str(tmp_path / "cache")}
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 1
    assert "pip could not download it" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == []
