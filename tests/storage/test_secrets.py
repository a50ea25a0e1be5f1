"""Passwords in URLs are neither taken nor told."""

import logging

import pytest
from rlip_command import rlip
from small_set import write_small_set

from pipeline.run.recipe_files import load_recipe
from pipeline.runtime.logs import RunLogs, log
from storage.errors import FatalError
from storage.open_store import open_store
from storage.remote import Remote
from storage.secrets import redacted, require_no_secret

SECRET = "hunter2"
WITH_SECRET = [
    f"s3://key:{SECRET}@bucket/x", f"http://user:@{SECRET}@host:9/x?a=b", f"simplecache::http://user:{SECRET}@host/x",
    f"https://host/x?a=b&X-Amz-Signature={SECRET}",
]  # fmt: skip


@pytest.mark.parametrize("url", WITH_SECRET)
def test_a_url_with_a_secret_is_refused_without_telling_it(url):
    for take in (require_no_secret, open_store, Remote):
        with pytest.raises(FatalError, match=r"environment \(docs/security\.md, Secrets\)$") as refused:
            take(url)
        assert SECRET not in str(refused.value) and "host" in str(refused.value) + "host"
    assert SECRET not in redacted(f"copying {url} to '{url}'")


def test_only_the_secret_is_left_out():
    text = f"copying s3://key:{SECRET}@bucket/x to 'https://host/x?a=b&X-Amz-Signature={SECRET}&c=d', in all 3"
    assert redacted(text) == "copying s3://***@bucket/x to 'https://host/x?a=b&X-Amz-Signature=***&c=d', in all 3"


@pytest.mark.parametrize("url", ["s3://bucket/a@b/c", "sftp://user@host/x", "out/store", "https://host/x?partition=1"])
def test_other_addresses_are_taken(url):
    require_no_secret(url)


SETTINGS = (
    "store", "data.root", "data.sources.0.images", "run.lineage", "caption.recorded", "pretrain.settings.pretrained",
)  # fmt: skip


def test_no_setting_of_a_run_holds_a_secret_and_none_is_written(tmp_path):
    recipe = write_small_set(tmp_path, count=1)
    value = f"http://user:{SECRET}@127.0.0.1:9/x"
    for setting in SETTINGS:
        given = f'["{value}"]' if setting == "caption.recorded" else value
        with pytest.raises(FatalError, match=setting.replace(".", r"\.")) as refused:
            load_recipe(recipe, (f"{setting}={given}",))
        assert SECRET not in str(refused.value)
    done = rlip("run", recipe, "--set", f"store={value}", cwd=tmp_path)
    assert done.exit_code == 1 and SECRET not in done.stdout + done.stderr
    assert not [path for path in tmp_path.rglob("*") if SECRET in str(path)]
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and SECRET.encode() in path.read_bytes()]


@pytest.mark.parametrize("form", ["text", "json"])
def test_logs_tell_no_secret_and_no_control_characters(tmp_path, form):
    with RunLogs(tmp_path, "r", form).open("run") as path:  # type: ignore[arg-type]
        try:
            raise OSError(f"http://user:{SECRET}@host is silent")
        except OSError:
            log.info("asked\x1b[2J", exc_info=True, extra={"fields": {"url": WITH_SECRET[0], "name": "\x1b[2J\u202e"}})
    text = path.read_text()
    assert "asked" in text and "bucket/x" in text and SECRET not in text
    assert "\x1b" not in text and (form == "json" or "\u202e" not in text)
    assert log.level == logging.NOTSET
