"""LAVIS in its own environment says the same from the same weights; its checkpoints convert without running code."""

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from PIL import Image
from pydantic import ValidationError

from pipeline.captioning.blip import BlipCaptioner
from pipeline.captioning.captioner import Caption
from pipeline.captioning.lavis import LavisCaptioner
from pipeline.captioning.lavis_weights import convert, to_transformers
from pipeline.captioning.settings import CaptionSettings
from pipeline.stages.caption import CaptionStage
from storage.errors import FatalError, RetryableError

Pictures = list[Image.Image]
Models = tuple[Path, Path]


@pytest.fixture(scope="module")
def python(root: Path) -> Path:
    found = Path(os.environ.get("RLIP_LAVIS_PYTHON", root / ".lavis/bin/python"))
    if not found.is_file():
        pytest.skip(f"no {found}: `make lavis-env` builds it (or set RLIP_LAVIS_PYTHON)")
    return found


def workers() -> set[int]:
    """The process ids of all workers that this process has."""
    children = psutil.Process().children()
    return {each.pid for each in children if each.status() != "zombie" and "lavis_worker" in " ".join(each.cmdline())}


@pytest.fixture(scope="module")
def lavis(python: Path, one_blip: Models) -> Iterator[LavisCaptioner]:
    """A captioner with four draws whose worker the tests share."""
    captioner = LavisCaptioner(settings(one_blip, python, draws=4))
    yield captioner
    captioner.close()


def settings(models: Models, python: Path, **changed: Any) -> CaptionSettings:
    return CaptionSettings(captioner="lavis", model=str(models[1]), lavis_python=python, **changed)


def said(found: list[list[Caption]]) -> list[list[tuple[str, int, int | None]]]:
    return [[(c.text, c.draw, c.seed) for c in captions] for captions in found]


def likely(found: list[list[Caption]]) -> list[float]:
    return [c.log_probability for captions in found for c in captions if c.log_probability is not None]


def by_transformers(models: Models, pictures: Pictures, **changed: Any) -> list[list[Caption]]:
    captioner = BlipCaptioner(CaptionSettings(model=str(models[0]), **changed))
    return captioner.caption(pictures, range(len(pictures)))


def test_seeded_draws_are_those_of_transformers_weights(lavis, one_blip, pictures):
    found = lavis.caption(pictures, range(len(pictures)))
    expected = by_transformers(one_blip, pictures, draws=4)
    assert said(found) == said(expected)
    assert len({text for drawn in said(found) for text, *_ in drawn}) > 20
    assert likely(found) == pytest.approx(likely(expected), abs=1e-3)
    assert {c.source for drawn in found for c in drawn} == {"lavis blip nucleus"}


def test_beam_search_says_the_same(python, one_blip, pictures):
    changed: dict[str, Any] = {"decoding": "beam", "num_beams": 4, "min_length": 8}
    captioner = LavisCaptioner(settings(one_blip, python, **changed))
    found = captioner.caption(pictures, range(len(pictures)))
    captioner.close()
    expected = by_transformers(one_blip, pictures, **changed)
    assert said(found) == said(expected)
    assert likely(found) == pytest.approx(likely(expected), abs=1e-3)


def test_other_rules_are_followed_too(python, one_blip, pictures):
    changed: dict[str, Any] = {
        "draws": 3, "top_k": 0, "top_p": 1.0, "temperature": 0.7, "repetition_penalty": 1.4, "prompt": "", "seed": 6,
    }  # fmt: skip
    captioner = LavisCaptioner(settings(one_blip, python, **changed))
    found = captioner.caption(pictures, range(len(pictures)))
    captioner.close()
    assert said(found) == said(by_transformers(one_blip, pictures, **changed))


def test_batch_and_order_change_no_bit(lavis, pictures):
    whole = lavis.caption(pictures, range(len(pictures)))
    assert lavis.caption([pictures[i] for i in (5, 2)], [5, 2]) == [whole[5], whole[2]]


def test_a_killed_worker_is_replaced_and_the_captions_stay(lavis, pictures):
    before = lavis.caption(pictures[:2], [0, 1])
    (first,) = workers()
    os.kill(first, signal.SIGKILL)
    assert lavis.caption(pictures[:2], [0, 1]) == before
    assert first not in workers()


def test_weights_that_are_no_captioner_are_named(python, one_blip, tmp_path):
    torch.save({"model": {"visual_encoder.cls_token": torch.zeros(1, 1, 64)}}, tmp_path / "half.pth")
    (tmp_path / "vocab.txt").write_bytes((one_blip[1] / "vocab.txt").read_bytes())
    captioner, before = LavisCaptioner(settings((tmp_path, tmp_path), python)), workers()
    with pytest.raises(FatalError, match=r"(?s)can't load .*half\.pth.*KeyError"):
        captioner.caption([Image.new("RGB", (8, 8))], [1])
    assert not workers() - before


def test_weights_of_a_stranger_are_looked_at_before_a_worker_reads_them(one_blip, tmp_path):
    class Runs:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "escaped"),)

    marks = tmp_path / "python"
    marks.write_text(f"#!/bin/sh\ntouch {tmp_path}/started\n")
    marks.chmod(0o755)
    (tmp_path / "vocab.txt").write_bytes((one_blip[1] / "vocab.txt").read_bytes())
    huge = torch.zeros(1).expand(10**13)
    hostile = {"is code": Runs(), "claims": {"model": {"visual_encoder.cls_token": huge}}, "list": [1, 2]}
    for words, content in hostile.items():
        torch.save(content, tmp_path / "blip.pth")
        captioner = LavisCaptioner(settings((tmp_path, tmp_path), marks))
        with pytest.raises(FatalError, match=rf"blip\.pth: .*{words}"):
            captioner.caption([Image.new("RGB", (8, 8))], [1])
    assert not (tmp_path / "started").exists() and not (tmp_path / "escaped").exists()


def test_an_interpreter_without_lavis_says_so_with_its_stderr(one_blip, tmp_path):
    false = tmp_path / "python"
    false.write_text("#!/bin/sh\necho 'no such library' >&2\nexit 3\n")
    false.chmod(0o755)
    captioner = LavisCaptioner(settings(one_blip, false))
    with pytest.raises(FatalError, match=r"(?s)did not start \(exit code 3.*no such library.*make lavis-env"):
        captioner.caption([Image.new("RGB", (8, 8))], [1])


def test_a_worker_that_dies_of_a_batch_is_tried_twice(one_blip, tmp_path):
    """A process that loads, then dies on every batch: the error names the images and is retryable."""
    dying = tmp_path / "python"
    dying.write_text(
        f"#!{sys.executable}\nimport os, sys\nfrom multiprocessing.connection import Connection\n"
        "channel = Connection(int(sys.argv[-1]))\nchannel.recv_bytes(), channel.recv_bytes()\n"
        f"open('{tmp_path}/starts', 'a').write('started\\n')\nchannel.send_bytes(b'{{\"side\": 8}}')\n"
        "channel.recv_bytes()\nprint('out of memory', file=sys.stderr, flush=True)\nos.kill(os.getpid(), 9)\n"
    )
    dying.chmod(0o755)
    captioner = LavisCaptioner(settings(one_blip, dying))
    with pytest.raises(RetryableError, match=r"(?s)died 2 times on images 1…2 \(signal 9.*out of memory"):
        captioner.caption([Image.new("RGB", (8, 8))] * 2, [1, 2])
    assert (tmp_path / "starts").read_text().split() == ["started"] * 2


def test_the_stage_is_keyed_by_checkpoint_and_vocabulary(one_blip, tmp_path):
    folder = one_blip[1]
    stage = CaptionStage(settings(one_blip, Path(sys.executable)))
    assert stage.files() == {"captioner": folder / "blip.pth", "vocabulary": folder / "vocab.txt"}
    assert stage.row_settings()["captioner"] == "lavis"
    with pytest.raises(FatalError, match="lavis_python"):
        CaptionStage(settings(one_blip, tmp_path / "nowhere")).files()


def test_what_lacks_is_named_with_the_way_out(one_blip, tmp_path):
    with pytest.raises(FatalError, match=r"(?s)no such file \(setting: lavis_python\).*make lavis-env"):
        LavisCaptioner(settings(one_blip, tmp_path / "nowhere"))
    with pytest.raises(FatalError, match=r"one BLIP checkpoint.*vocab\.txt"):
        settings((tmp_path, tmp_path), tmp_path / "nowhere").plugin.open()
    with pytest.raises(ValidationError, match="'lavis' supports float32 only"):
        settings(one_blip, tmp_path, precision="bfloat16")


def test_a_converted_checkpoint_captions_as_the_original(one_blip, pictures, tmp_path):
    convert(one_blip[1] / "blip.pth", one_blip[1] / "vocab.txt", tmp_path / "made")
    made, original = (BlipCaptioner(CaptionSettings(model=str(f), draws=3)) for f in (tmp_path / "made", one_blip[0]))
    ids = range(len(pictures))
    assert made.caption(pictures, ids) == original.caption(pictures, ids)


def test_a_weight_of_something_else_is_named():
    with pytest.raises(FatalError, match=r"queue: not a captioning BLIP's weight"):
        to_transformers({"queue": torch.zeros(1)})


class _Code:
    def __reduce__(self) -> tuple[type, tuple[str]]:
        return (Path, ("/",))


def test_a_checkpoint_with_code_is_not_run(one_blip, tmp_path):
    torch.save({"model": {}, "args": _Code()}, tmp_path / "code.pth")
    with pytest.raises(FatalError, match=r"code\.pth: contains pathlib\.Path, which is code"):
        convert(tmp_path / "code.pth", one_blip[1] / "vocab.txt", tmp_path / "made")


def test_the_words_that_blip_adds_to_the_vocabulary_get_their_places(one_blip, tmp_path):
    """A checkpoint has two more rows than bert-base-uncased's list: [DEC], the begin token, and [ENC]."""
    state = torch.load(one_blip[1] / "blip.pth", weights_only=True)["model"]
    for name in ("bert.embeddings.word_embeddings.weight", "cls.predictions.decoder.weight", "cls.predictions.bias"):
        values = state[f"text_decoder.{name}"]
        state[f"text_decoder.{name}"] = torch.cat([values, values[:2]])
    state["text_decoder.cls.predictions.decoder.bias"] = state["text_decoder.cls.predictions.bias"]
    torch.save(state, tmp_path / "blip.pth")
    (tmp_path / "vocab.txt").write_text((one_blip[1] / "vocab.txt").read_text().replace("[DEC]", "[unused5]"))
    convert(tmp_path / "blip.pth", tmp_path / "vocab.txt", tmp_path / "made")
    captioner = BlipCaptioner(CaptionSettings(model=str(tmp_path / "made"), draws=1))
    assert captioner._prompt[0] == 90 and captioner._tokenizer.convert_tokens_to_ids("[ENC]") == 91
    assert captioner.caption([Image.new("RGB", (64, 64))], [1])[0][0].text


def test_the_vocabulary_of_another_model_is_refused(one_blip, tmp_path):
    (tmp_path / "vocab.txt").write_text("[PAD]\n[SEP]\na\n[DEC]")
    with pytest.raises(FatalError, match=r"the vocabulary has 5 words .* the checkpoint 90"):
        convert(one_blip[1] / "blip.pth", tmp_path / "vocab.txt", tmp_path / "made")
