"""Files to a volume and back through S3: the real client, the simulator's server, cuts in the middle, wrong keys."""

import hashlib
import random
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from simulator_client import Client

from infra.simulator.server import RunningSimulator
from pushtrain.cloud import Volume
from pushtrain.errors import CloudAuthFailed, CloudUnavailable, PushtrainError, RequestRejected, UsageError
from pushtrain.volumes.endpoints import access_to
from pushtrain.volumes.files import Place, check_places, is_elsewhere, is_volume, place
from pushtrain.volumes.folders import copy, get, put
from pushtrain.volumes.progress import progress_lines
from pushtrain.volumes.store import Changed, Entry, VolumeFull, VolumeStore
from pushtrain.volumes.transfer import Transfer

pytest_plugins = ("simulator_fixtures",)

MIB = 1024**2


@pytest.fixture
def volume(api: Client) -> Volume:
    return made(api, "EU-RO-1")


def made(api: Client, data_center: str) -> Volume:
    volume_id = api.create_volume(data_center)
    return Volume(id=volume_id, name="pt-volume", size_gb=10, data_center=data_center)


@pytest.fixture
def store(simulator: RunningSimulator, volume: Volume) -> VolumeStore:
    return VolumeStore(access_to(volume, simulator.env()))


@pytest.fixture
def transfer() -> Transfer:
    return Transfer(sleep=lambda _: None, part_bytes=MIB)


def folder_of(simulator: RunningSimulator, volume: Volume) -> Path:
    return simulator.state_dir / "volumes" / volume.id


def write(path: Path, size: int, seed: int = 1) -> bytes:
    content = random.Random(seed).randbytes(size)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return content


def test_files_are_paths_on_the_volume_both_ways(
    simulator: RunningSimulator, volume: Volume, store: VolumeStore, transfer: Transfer, tmp_path: Path
) -> None:
    here = tmp_path / "dataset"
    contents = {
        name: write(here / name, size) for name, size in (("a.bin", 0), ("b.bin", 5), ("deep/ä #1.bin", 3 * MIB + 7))
    }
    (here / "link").symlink_to("a.bin")
    report = put(transfer, store, here, "data/set")
    assert report.left_out == [str(here / "link")]
    assert sorted([*report.sent, *report.there]) == [f"data/set/{name}" for name in sorted(contents)]
    on_pod = folder_of(simulator, volume) / "data" / "set"
    assert {name: (on_pod / name).read_bytes() for name in contents} == contents
    # What a pod wrote comes back the same way.
    write(on_pod / "from-pod.bin", 2 * MIB, 2)
    back = tmp_path / "back"
    assert get(transfer, store, "data/set/", back).bytes_sent == sum(map(len, contents.values())) + 2 * MIB
    assert {name: (back / name).read_bytes() for name in contents} == contents
    assert (back / "from-pod.bin").read_bytes() == (on_pod / "from-pod.bin").read_bytes()
    get(transfer, store, "data/set/b.bin", tmp_path / "one.bin")
    assert (tmp_path / "one.bin").read_bytes() == contents["b.bin"]
    # Once more: nothing travels; a file that changed does, and no other.
    again = put(transfer, store, here, "data/set")
    assert (again.bytes_sent, get(transfer, store, "data/set", back).bytes_sent) == (0, 0)
    write(here / "b.bin", 5, 9)
    assert put(transfer, store, here, "data/set").sent == ["data/set/b.bin"]
    put(transfer, store, here / "b.bin", "")
    assert [it.key for it in store.files("b")] == ["b.bin"]


def test_an_upload_that_was_cut_off_goes_on_with_the_parts_that_are_missing(
    simulator: RunningSimulator, volume: Volume, transfer: Transfer, tmp_path: Path
) -> None:
    content = write(tmp_path / "model.safetensors", 6 * MIB + 1)
    hasty = VolumeStore(access_to(volume, simulator.env()), attempts=1)
    arrived, is_cut, one_at_a_time = 0, False, threading.Lock()

    def cut_off_later(path: str, done: int, size: int) -> None:
        nonlocal arrived, is_cut
        # Each of the four that send waits here with the part it has sent, until the cut is there: three at the most.
        with one_at_a_time:
            arrived = max(arrived, done)
            if done < 3 * MIB or is_cut:
                return
            is_cut = True
            simulator.fault("transfer_cut", times=None, operation="s3_put", volume_id=volume.id)

    with pytest.raises(CloudUnavailable, match="part"):
        put(replace(transfer, progress=cut_off_later), hasty, tmp_path / "model.safetensors", "models/")
    assert 3 * MIB <= arrived <= 6 * MIB and hasty.find("models/model.safetensors") is None
    assert list(hasty.files()) == [], "what is unfinished is no file"
    simulator.request("DELETE", "/_simulator/faults").raise_for_status()
    report = put(transfer, hasty, tmp_path / "model.safetensors", "models/")
    assert 0 < report.bytes_sent <= 4 * MIB + 1, "three parts were there"
    assert (folder_of(simulator, volume) / "models/model.safetensors").read_bytes() == content
    assert not list((folder_of(simulator, volume) / ".s3compat_uploads").iterdir())


def test_an_unfinished_upload_of_another_file_lends_no_parts(
    simulator: RunningSimulator, volume: Volume, store: VolumeStore, transfer: Transfer, tmp_path: Path
) -> None:
    write(tmp_path / "x", 3 * MIB, 1)
    upload = store.start("x")
    store.put_part("x", upload, 1, b"old" * 1000)
    content = write(tmp_path / "x", 3 * MIB, 2)
    assert put(transfer, store, tmp_path / "x", "x").bytes_sent == 3 * MIB
    assert (folder_of(simulator, volume) / "x").read_bytes() == content


def test_what_was_begun_and_given_up_takes_no_room_once_the_file_is_there_or_removed(
    simulator: RunningSimulator, volume: Volume, store: VolumeStore, transfer: Transfer, tmp_path: Path
) -> None:
    uploads = folder_of(simulator, volume) / ".s3compat_uploads"
    for key in ("set/x", "set/x", "set/small", "set/gone", "settle"):
        store.put_part(key, store.start(key), 1, b"old" * 1000)
    (tmp_path / "set").mkdir()
    content = write(tmp_path / "set" / "x", 3 * MIB, 1)
    write(tmp_path / "set" / "small", 10, 2)
    put(transfer, store, tmp_path / "set", "set")
    assert (folder_of(simulator, volume) / "set/x").read_bytes() == content
    assert sorted(store.unfinished("")) == ["set/gone", "settle"], "what was sent has nothing beside it"
    assert len(list(uploads.iterdir())) == 2
    for key, ids in store.unfinished("set/").items():
        for upload in ids:
            store.abort(key, upload)
            store.abort(key, upload)
    assert sorted(store.unfinished("")) == ["settle"]


def test_a_download_that_was_cut_off_goes_on_and_answers_cut_in_the_middle_are_asked_again(
    simulator: RunningSimulator, volume: Volume, store: VolumeStore, transfer: Transfer, tmp_path: Path
) -> None:
    content = write(folder_of(simulator, volume) / "adapter.bin", 5 * MIB + 3)
    simulator.fault("transfer_cut", times=2, operation="s3_get", volume_id=volume.id)
    assert get(transfer, store, "adapter.bin", tmp_path / "a").bytes_sent == len(content)
    assert (tmp_path / "a").read_bytes() == content
    seen = []

    def stop(path: str, done: int, size: int) -> None:
        seen.append(done)
        if done > 3 * MIB:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        get(replace(transfer, progress=stop), store, "adapter.bin", tmp_path / "b")
    assert not (tmp_path / "b").exists()
    report = get(transfer, store, "adapter.bin", tmp_path / "b")
    assert report.bytes_sent <= 2 * MIB + 3 and (tmp_path / "b").read_bytes() == content
    assert [path.name for path in tmp_path.iterdir()].count(".b") == 0 and len(list(tmp_path.iterdir())) == 2


def test_a_file_that_changes_while_it_travels_is_not_passed_off_as_whole(
    simulator: RunningSimulator, volume: Volume, store: VolumeStore, transfer: Transfer, tmp_path: Path
) -> None:
    on_pod = folder_of(simulator, volume) / "x"
    write(on_pod, 2 * MIB, 1)
    entry = store.find("x")
    assert entry is not None
    write(on_pod, 2 * MIB, 2)
    with pytest.raises(Changed):
        transfer.download(store, entry, tmp_path / "x")
    assert not (tmp_path / "x").exists()
    with pytest.raises(Changed):
        store.read(Entry(key="gone", size=1, etag="0" * 32), 0, 1)
    # Half a file with wrong bytes in it: the hash says so, and the next try begins anew.
    found = store.find("x")
    assert found is not None
    (tmp_path / f".x.{found.etag[:12]}.part").write_bytes(b"z" * MIB)
    with pytest.raises(Changed, match="not what the volume has"):
        transfer.download(store, found, tmp_path / "x")
    assert transfer.download(store, found, tmp_path / "x") == 2 * MIB


def test_a_volume_is_copied_to_another_data_center_resumed_and_compared(
    simulator: RunningSimulator, api: Client, volume: Volume, store: VolumeStore, transfer: Transfer
) -> None:
    there = made(api, "EUR-IS-1")
    target = VolumeStore(access_to(there, simulator.env()), attempts=1)
    contents = {"models/a.safetensors": 4 * MIB + 9, "data/b.jsonl": 100, "c": MIB}
    for seed, (name, size) in enumerate(contents.items()):
        write(folder_of(simulator, volume) / name, size, seed)
    simulator.fault("transfer_cut", times=None, operation="s3_post", volume_id=there.id)
    with pytest.raises(CloudUnavailable):
        copy(transfer, store, target)
    simulator.request("DELETE", "/_simulator/faults").raise_for_status()
    report = copy(transfer, store, target)
    assert sorted([*report.sent, *report.there]) == sorted(contents) and len(report.there) >= 2
    for name in contents:
        source, copied = (folder_of(simulator, it) / name for it in (volume, there))
        assert hashlib.sha256(source.read_bytes()).digest() == hashlib.sha256(copied.read_bytes()).digest()
    assert copy(transfer, store, target).bytes_sent == 0


def test_what_is_wrong_is_named_with_what_to_do(
    simulator: RunningSimulator, api: Client, volume: Volume, transfer: Transfer, tmp_path: Path
) -> None:
    write(tmp_path / "x", 10)
    env = simulator.env()
    for name in ("RUNPOD_S3_ACCESS_KEY", "RUNPOD_S3_SECRET_KEY"):
        with pytest.raises(CloudAuthFailed, match=name) as missing:
            access_to(volume, {it: value for it, value in env.items() if it != name})
        assert "S3 API key" in str(missing.value.hint)
        with pytest.raises(CloudAuthFailed) as refused:
            put(transfer, VolumeStore(access_to(volume, env | {name: "rps_wrong"})), tmp_path / "x", "x")
        assert "rps_wrong" not in str(refused.value)
    with pytest.raises(RequestRejected, match="EU-SE-1") as none:
        access_to(made(api, "EU-SE-1"), env)
    assert none.value.reason == "NoS3" and "EU-RO-1" in str(none.value.hint)
    with pytest.raises(RequestRejected, match="gone"):
        put(transfer, VolumeStore(access_to(replace(volume, data_center="EUR-IS-1"), env)), tmp_path / "x", "x")
    store = VolumeStore(access_to(volume, env))
    for act in (
        lambda: put(transfer, store, tmp_path / "absent", "x"),
        lambda: put(transfer, store, tmp_path / "x", "../x"),
        lambda: get(transfer, store, "absent", tmp_path / "y"),
        lambda: get(transfer, store, "absent/", tmp_path / "y"),
    ):
        with pytest.raises(PushtrainError) as said:
            act()
        assert said.value.reason in ("NoSuchFile", "UnsafePath")
    simulator.fault("volume_full", operation="s3_put", volume_id=volume.id)
    with pytest.raises(VolumeFull) as full:
        put(transfer, store, tmp_path / "x", "x")
    assert "grow" in str(full.value.hint)
    simulator.fault("http_502", times=2, volume_id=volume.id)
    assert put(transfer, store, tmp_path / "x", "x").sent == ["x"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here: a full disk was not tried")
def test_a_full_disk_here_is_said_and_what_came_stays(
    simulator: RunningSimulator, volume: Volume, store: VolumeStore, transfer: Transfer, tmp_path: Path
) -> None:
    write(folder_of(simulator, volume) / "x", MIB)
    entry = store.find("x")
    assert entry is not None
    (tmp_path / f".x.{entry.etag[:12]}.part").symlink_to("/dev/full")
    with pytest.raises(PushtrainError) as full:
        transfer.download(store, entry, tmp_path / "x")
    assert full.value.reason == "DiskFull" and "goes on" in str(full.value.hint)


def test_nothing_leaves_the_volume_by_a_name_or_a_link(
    simulator: RunningSimulator, volume: Volume, store: VolumeStore, tmp_path: Path
) -> None:
    root = folder_of(simulator, volume)
    (root / "out").symlink_to(tmp_path)
    write(tmp_path / "secret", 10)
    for key in ("out/secret", ".s3compat_uploads/x"):
        with pytest.raises((CloudAuthFailed, RequestRejected)):
            store.put(key, b"x")
    assert (tmp_path / "secret").stat().st_size == 10
    assert [it.key for it in store.files()] == []


def test_a_long_listing_has_pages(simulator: RunningSimulator, volume: Volume, store: VolumeStore) -> None:
    root = folder_of(simulator, volume) / "many"
    root.mkdir()
    for number in range(1100):
        (root / f"{number:05}").touch()
    begun = time.monotonic()
    assert len(list(store.files("many/"))) == 1100
    assert time.monotonic() - begun < 200


def test_progress_is_a_line_now_and_then() -> None:
    now_s, said = [0.0], list[str]()
    progress = progress_lines(said.append, lambda: now_s[0])
    for second in range(1, 13):
        now_s[0] = second
        progress("models/a", second * 10**8, 2 * 10**9)
    assert said == [
        "models/a: 25% of 2.00 GB, 100.0 MB/s",
        "models/a: 50% of 2.00 GB, 100.0 MB/s",
    ]
    progress("models/b", 1, 1)
    assert len(said) == 2, "what takes a moment says nothing"


def test_a_place_on_a_volume_is_told_from_a_path_and_from_a_pods() -> None:
    assert place("volume:models/a/b") == place("models/a/b") == Place(name="models", path="a/b")
    assert place("volume:models") == Place(name="models", path="")
    with pytest.raises(UsageError):
        place("volume:/x")
    assert is_volume("volume:x/y") and not is_volume("run:x") and not is_volume("./volume:x")
    assert is_elsewhere("job-01234567-89abcdef:data") and not is_elsewhere("volume:x/y", "./a:b", "data", "/a")
    for pair in (["volume:a/x", "volume:b/y"], ["job:x", "volume:a/y"], ["volume:a/x", "job:y"], ["volume:a/x"]):
        with pytest.raises(UsageError, match="cannot copy"):
            check_places(pair)
