"""The keyring: a key for each subject, kept through every crash, and gone from every file once destroyed."""

from __future__ import annotations

import base64
import os
import random
import sqlite3
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gateway.config.types import MasterKey
from gateway.errors import ConfigError, KeyringError, OperationError
from gateway.traces.encryption.keyring import FORGET_WITHIN_S, Keyring
from gateway.traces.encryption.master_key import CommandWrapper, LocalWrapper, wrapper_of
from tests.support.disk import small_disk

MASTER = LocalWrapper(b"m" * 32)
OTHER = LocalWrapper(b"o" * 32)


def ring(tmp_path: Path, master: LocalWrapper = MASTER, former: LocalWrapper | None = None) -> Keyring:
    return Keyring.open(tmp_path / "state" / "keyring.sqlite", master, former)


def files(tmp_path: Path) -> bytes:
    """Everything that lies in the folder of the keyring: the file, journals, whatever else SQLite makes."""
    return b"".join(path.read_bytes() for path in (tmp_path / "state").iterdir())


def wrapped_keys(tmp_path: Path) -> dict[str, bytes]:
    with sqlite3.connect(tmp_path / "state" / "keyring.sqlite") as db:
        return {key_id.hex(): wrapped for key_id, wrapped in db.execute("SELECT key_id, wrapped FROM keys")}


def test_a_subject_has_one_key_and_another_subject_client_or_session_another(tmp_path: Path) -> None:
    keys = ring(tmp_path)
    owners = [
        ("app", "ann", "s1"),
        ("app", "bob", "s1"),
        ("web", "ann", "s1"),
        ("app", None, "s1"),
        ("app", None, "ann"),
    ]
    ids = [keys.key_for(*owner).id for owner in owners]
    assert len(set(ids)) == len(owners)
    assert keys.key_for("app", "ann", "another session").id == ids[0]
    keys.commit()
    again = ring(tmp_path)
    assert [again.key_for(*owner).id for owner in owners] == ids


def test_what_one_process_encrypts_another_decrypts(tmp_path: Path) -> None:
    writer = ring(tmp_path)
    key = writer.key_for("app", "ann", "s1")
    sealed = key.cipher.encrypt(b"n" * 12, b"hello", None)
    writer.commit()
    found = ring(tmp_path).read(key.id)
    assert found is not None
    assert found.cipher.decrypt(b"n" * 12, sealed, None) == b"hello"


def test_no_file_names_a_subject_or_holds_a_key_or_is_anybody_elses(tmp_path: Path) -> None:
    keys = ring(tmp_path)
    keys.key_for("app", "ann@example.com", "s1")
    keys.commit()
    assert b"ann@example.com" not in files(tmp_path)
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in (tmp_path / "state").iterdir())


def test_a_destroyed_key_is_in_no_file_and_every_other_key_still_reads(tmp_path: Path) -> None:
    """Thousands of rows, so that the table's pages fill, split and are rewritten between the two."""
    keys, draw = ring(tmp_path), random.Random(4)
    living: dict[str, str] = {}
    destroyed: list[bytes] = []
    for step in range(8):
        for one in range(250):
            subject = f"{step}-{one}"
            living[subject] = keys.key_for("app", subject, "").id
        keys.commit()
        wrapped = wrapped_keys(tmp_path)
        for subject in draw.sample(sorted(living), 6):
            destroyed.append(wrapped[living.pop(subject)])
            assert keys.destroy("app", subject) == 1
    left = files(tmp_path)
    assert [key for key in destroyed if key in left or key[12:28] in left] == []
    again = ring(tmp_path)
    assert all(again.read(key_id) is not None for key_id in living.values())


def test_a_destroyed_key_reads_as_none_and_one_from_elsewhere_is_an_error(tmp_path: Path) -> None:
    keys = ring(tmp_path)
    key_id = keys.key_for("app", "ann", "s1").id
    keys.commit()
    assert keys.destroy("app", "ann") == 1
    assert keys.destroy("app", "ann") == 0
    assert keys.read(key_id) is None
    assert keys.key_for("app", "ann", "s1").id != key_id
    with pytest.raises(KeyringError, match="it comes from another data directory"):
        keys.read("00" * 16)


def test_sessions_are_destroyed_with_their_subject_where_they_are_named(tmp_path: Path) -> None:
    keys = ring(tmp_path)
    mine = [keys.key_for("app", None, "s1").id, keys.key_for("app", None, "s2").id]
    others = [keys.key_for("web", None, "s1").id, keys.key_for("app", None, "s3").id]
    assert keys.destroy("app", sessions=["s1", "s2"]) == 2
    assert [keys.read(key_id) for key_id in mine] == [None, None]
    assert all(keys.read(key_id) is not None for key_id in others)


def test_another_process_forgets_a_destroyed_key_within_its_time(tmp_path: Path) -> None:
    reader, writer = ring(tmp_path), ring(tmp_path)
    key_id = writer.key_for("app", "ann", "s1").id
    writer.commit()
    assert reader.read(key_id) is not None
    assert reader.key_for("app", "ann", "s1").id == key_id
    writer.destroy("app", "ann")
    time.sleep(FORGET_WITHIN_S)
    assert reader.read(key_id) is None
    assert reader.key_for("app", "ann", "s1").id != key_id


def test_a_change_of_the_master_key_keeps_every_key_readable(tmp_path: Path) -> None:
    key_id = (keys := ring(tmp_path)).key_for("app", "ann", "s1").id
    keys.commit()
    assert ring(tmp_path, OTHER, former=MASTER).read(key_id) is not None
    assert ring(tmp_path, OTHER).read(key_id) is not None
    with pytest.raises(KeyringError):
        ring(tmp_path, MASTER)


def test_a_lost_master_key_is_one_line_and_changes_nothing(tmp_path: Path) -> None:
    keys = ring(tmp_path)
    keys.key_for("app", "ann", "s1")
    keys.commit()
    before = files(tmp_path)
    with pytest.raises(KeyringError) as error:
        ring(tmp_path, OTHER)
    assert "\n" not in str(error.value)
    assert "privacy.master_key does not open" in str(error.value)
    assert files(tmp_path) == before


def test_a_full_disk_refuses_new_keys_and_the_same_ones_are_written_when_there_is_room(
    tmp_path: Path,
) -> None:
    with small_disk(tmp_path / "small", "1m") as disk:
        keys = ring(disk.path)
        disk.fill(free=60_000)
        ids = [keys.key_for("app", f"s{n}", "").id for n in range(1200)]
        with pytest.raises(KeyringError, match="cannot be used"):
            keys.commit()
        (disk.path / "filler").unlink()
        keys.commit()
        again = ring(disk.path)
        assert all(again.read(key_id) is not None for key_id in ids)


KILLED = """
import os, signal, sys
from pathlib import Path
from gateway.traces.encryption.keyring import Keyring
from gateway.traces.encryption.master_key import LocalWrapper
keys = Keyring.open(Path(sys.argv[1]), LocalWrapper(b"m" * 32))
for n in range(10_000):
    key = keys.key_for("app", str(n), "")
    keys.commit()
    print(key.id, flush=True)
"""


def test_a_key_that_was_committed_outlives_a_kill_at_any_moment(tmp_path: Path) -> None:
    path = tmp_path / "state" / "keyring.sqlite"
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    told = [process.stdout.readline() for _ in range(20)]
    process.kill()
    told += process.communicate()[0].splitlines(keepends=True)
    keys = ring(tmp_path)
    assert all(keys.read(line.strip()) is not None for line in told if line.endswith("\n"))


def test_a_program_of_the_users_wraps_in_place_of_a_key(tmp_path: Path) -> None:
    program = tmp_path / "kms"
    program.write_text(
        f"#!{sys.executable}\nimport base64, sys\n"
        "data = base64.b64decode(sys.stdin.read())\n"
        "flipped = bytes(byte ^ 90 for byte in data)\n"
        "print(base64.b64encode(b'kms:' + flipped if sys.argv[1] == 'wrap' else flipped[4:]).decode())\n"
    )
    program.chmod(0o700)
    command = CommandWrapper([str(program)])
    assert command.unwrap(command.wrap(b"k" * 32)) == b"k" * 32
    keys = Keyring.open(tmp_path / "state" / "keyring.sqlite", command)
    key_id = keys.key_for("app", "ann", "s1").id
    keys.commit()
    assert Keyring.open(tmp_path / "state" / "keyring.sqlite", command).read(key_id) is not None


@pytest.mark.parametrize(
    ("command", "told"),
    [
        (["/nonexistent/kms"], "cannot be run: No such file or directory"),
        (["/bin/sh", "-c", "echo secret >&2; exit 3"], "ended with 3; run it by hand"),
        (["/bin/sh", "-c", "echo no base64"], "printed something else than base64"),
        (["/bin/sh", "-c", "true"], "printed nothing"),
    ],
)
def test_a_program_that_fails_is_one_line_that_quotes_nothing(command: list[str], told: str) -> None:
    with pytest.raises(OperationError) as error:
        CommandWrapper(command).unwrap(b"w" * 60)
    assert told in str(error.value)
    assert "secret" not in str(error.value)


def test_a_master_key_is_read_in_base64_and_in_hex_and_nothing_else_is_taken_for_one() -> None:
    key = os.urandom(32)
    asked = MasterKey(env="KEY")
    wrapped = LocalWrapper(key).wrap(b"x")
    for text in (base64.b64encode(key).decode(), key.hex()):
        assert wrapper_of(asked, {"KEY": text}, "$.privacy.master_key").unwrap(wrapped) == b"x"
    for text in ("hunter2", base64.b64encode(key[:31]).decode(), key.hex()[:-2] + "zz"):
        with pytest.raises(ConfigError, match="a master key is 32 bytes in base64 or hex") as error:
            wrapper_of(asked, {"KEY": text}, "$.privacy.master_key")
        assert text not in str(error.value)
