import gc
import io
import json
import tarfile

import pytest
import webdataset
from PIL import Image

from parti_data.errors import ConfigError, ShardError
from parti_data.image_dataset import load_pictures
from parti_data.images import ImageLimits
from parti_data.ledger import PairDirectory, read_ledger
from parti_data.manifest import manifest_digest, read_manifest
from parti_data.sources import WebDatasetSource
from pipelines.filter import FilterConfig, filter_pairs
from pipelines.shard import ShardConfig, ShardPlan, plan_shards, shard_pairs, write_shard


def test_every_kept_pair_is_in_one_shard_once(filtered, sharded):
    before = list(PairDirectory(filtered).kept())
    after = list(PairDirectory(sharded).kept())
    moved = {"path": "", "offset": 0}
    assert [row._replace(**moved) for row in after] == [row._replace(**moved) for row in before]
    assert read_manifest(sharded).counts == {"kept": len(before)}
    assert {row.outcome for row in PairDirectory(sharded).ledger()} == {"kept"}


def test_every_split_has_its_tar_and_its_ledger(sharded):
    manifest = read_manifest(sharded)
    tars = [shard for shard in manifest.shards if shard.name.endswith(".tar")]
    ledgers = [shard for shard in manifest.shards if shard.name.startswith("ledger-")]
    assert [shard.rows for shard in tars] == [shard.rows for shard in ledgers] == [18, 18, 18, 18]
    for tar, ledger in zip(tars, ledgers, strict=True):
        rows = list(read_ledger(f"{sharded}/{ledger.name}"))
        assert {row.path for row in rows} == {tar.name}
        assert len(rows) == ledger.rows


def test_pairs_that_were_changed_during_the_run_are_refused(filtered, tmp_path, contents):
    plan, digest = ShardPlan(0, 1, 0, 5), manifest_digest(filtered)
    with pytest.raises(ShardError, match=r"expected the manifest efefefefefef that the run began with, found"):
        write_shard(plan, filtered, "ef" * 32, str(tmp_path))
    assert contents(str(tmp_path)) == {}
    assert [record.rows for record in write_shard(plan, filtered, digest, str(tmp_path))] == [5, 5]


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # webdataset leaves its files to the garbage collector
def test_the_webdataset_library_reads_our_tars(filtered, sharded):
    original = PairDirectory(filtered)
    tars = [f"{sharded}/{shard.name}" for shard in read_manifest(sharded).shards if shard.name.endswith(".tar")]
    samples = list(webdataset.WebDataset(tars, shardshuffle=False))
    gc.collect()
    rows = list(original.kept())
    assert [sample["__key__"] for sample in samples] == [f"{number:09d}" for number in range(len(rows))]
    for sample, row in zip(samples, rows, strict=True):
        assert sample["png"] == original.fetch(row)
        assert sample["txt"].decode() == row.captions[0]
        assert json.loads(sample["json"]) == {
            "key": row.key, "source": row.source, "source_key": row.source_key, "captions": row.captions
        }  # fmt: skip


def test_members_have_no_time_and_no_owner(sharded):
    with tarfile.open(f"{sharded}/pairs-00000-of-00004.tar") as tar:
        members = tar.getmembers()
    assert len(members) == 3 * 18
    assert {(m.mtime, m.uid, m.gid, m.uname, m.gname, m.mode, m.isfile()) for m in members} == {
        (0, 0, 0, "", "", 0o644, True)
    }


def test_filtering_our_own_tars_keeps_every_pair(filtered, sharded, tmp_path, beam_options):
    source = WebDatasetSource(kind="webdataset", path=sharded)
    manifest = filter_pairs(FilterConfig(output=f"{tmp_path}/again", source=source), beam_options())
    before = list(PairDirectory(filtered).kept())
    assert manifest.counts == {"read": len(before), "kept": len(before), "merged": 0, "dropped": 0}
    assert [row.key for row in PairDirectory(f"{tmp_path}/again").kept()] == [row.key for row in before]


def test_sharding_shards_gives_the_pairs_in_other_portions(sharded, tmp_path, beam_options):
    shard_pairs(ShardConfig(output=f"{tmp_path}/again", source=sharded, pairs_per_shard=50), beam_options())
    again, before = PairDirectory(f"{tmp_path}/again"), PairDirectory(sharded)
    for mine, theirs in zip(again.kept(), before.kept(), strict=True):
        assert again.fetch(mine) == before.fetch(theirs)
    assert again.manifest.details["kept"] == [36, 36]


def test_what_filter_decoded_under_goes_with_the_pairs(make_tar, tmp_path, beam_options):
    clear = io.BytesIO()
    Image.new("RGBA", (32, 32), (0, 0, 0, 0)).save(clear, "PNG")
    tar = make_tar("x.tar", [("a.png", clear.getvalue()), ("a.txt", b"clear")])
    source = WebDatasetSource(kind="webdataset", path=tar)
    limits = ImageLimits(background="#0a0b0c", formats=["PNG"])
    filter_pairs(FilterConfig(output=f"{tmp_path}/pairs", source=source, limits=limits), beam_options())
    shard_pairs(ShardConfig(output=f"{tmp_path}/shards", source=f"{tmp_path}/pairs"), beam_options())
    shard_pairs(ShardConfig(output=f"{tmp_path}/again", source=f"{tmp_path}/shards"), beam_options())
    for name in ("pairs", "shards", "again"):
        pairs = PairDirectory(f"{tmp_path}/{name}")
        assert pairs.limits == limits
        picture, _ = next(load_pictures(pairs, [next(pairs.kept())], 32))
        assert (picture == (10, 11, 12)).all()


@pytest.mark.parametrize(("num_pairs", "pairs_per_shard"), [(0, 5), (1, 5), (5, 5), (6, 5), (101, 10), (7, 1)])
def test_shards_are_even_and_none_is_over_its_size(num_pairs, pairs_per_shard):
    plans = plan_shards(num_pairs, pairs_per_shard)
    sizes = [plan.last - plan.first for plan in plans]
    assert sum(sizes) == num_pairs
    assert max(sizes) <= pairs_per_shard
    assert max(sizes) - min(sizes) <= 1
    assert len(plans) == max(-(-num_pairs // pairs_per_shard), 1)
    assert [plan.first for plan in plans[1:]] == [plan.last for plan in plans[:-1]]
    assert plans[0] == ShardPlan(0, len(plans), 0, sizes[0])


def test_no_kept_pairs_make_one_empty_shard(make_tar, tmp_path, beam_options):
    source = WebDatasetSource(kind="webdataset", path=make_tar("x.tar", []))
    filter_pairs(FilterConfig(output=f"{tmp_path}/pairs", source=source), beam_options())
    manifest = shard_pairs(ShardConfig(output=f"{tmp_path}/shards", source=f"{tmp_path}/pairs"), beam_options())
    assert manifest.counts == {"kept": 0}
    assert list(PairDirectory(f"{tmp_path}/shards").kept()) == []


@pytest.mark.parametrize("size", [0, -1])
def test_shards_without_room_are_refused(size):
    with pytest.raises(
        ConfigError, match=f"expected for 'pairs_per_shard' that input should be greater than 0, found {size}"
    ):
        ShardConfig.load(None, ["output=x", "source=y", f"pairs_per_shard={size}"])
