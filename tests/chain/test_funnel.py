"""Every image, caption, triplet, candidate and label is accounted for: it led to something, or has a reason why not."""

from typing import Any

from tiny_chain import World

LEVELS = ("images", "captions", "triplets", "candidates", "scored")


def asked(world: World, run: str, sql: str) -> int:
    """The single number that a query answers with."""
    ((number,),) = [row.values() for row in world.ask("query", run, sql)]
    return int(number or 0)


def check(world: World, run: str) -> dict[str, Any]:
    """Asserts that each level less its losses is what the tables hold. Returns the counts."""
    counts: dict[str, Any] = world.ask("show", run, "tag")["labels"]["counts"]
    left = {level: counts[level] - sum(counts["lost"].get(level, {}).values()) for level in LEVELS}
    assert left == {
        "images": asked(world, run, "select count(*) from captions where len(captions) > 0"),
        "captions": asked(
            world, run,
            "select count(*) from (select distinct image_id, t.caption from triplets, unnest(triplets) u(t))",
        ),
        "triplets": asked(
            world, run,
            "select sum(support) from (select distinct image_id, p.mention, p.support from candidates, unnest(pairs) "
            "u(p))",
        ),
        "candidates": counts["scored"] - counts["unproposed"],
        "scored": counts["kept"],
    }  # fmt: skip
    assert left["triplets"] == counts["grounded"]
    assert asked(world, run, "select count(*) from dropped") == counts["triplets"] - counts["grounded"]
    assert asked(world, run, "select count(*) from labels where kept") == counts["kept"]
    assert (
        asked(world, run, "select count(*) from labels where reason is not null") == counts["scored"] - counts["kept"]
    )
    return counts


def test_the_funnel_of_the_synthetic_world_adds_up(finished):
    counts = check(finished, "tiny")
    assert counts["lost"]["triplets"]
    shards = finished.artifacts()["shard:pseudo"].values()
    assert counts["kept"] == sum(shard.manifest.facts["relations"] for shard in shards)


def test_the_funnel_of_real_pictures_adds_up(shared, root, tmp_path):
    world = World(root, root / "recipes" / "coco_sample.toml", shared / "data" / "coco", tmp_path / "store")
    world.run("tag.method=prior", "run.until=shard")
    counts = check(world, "coco_sample")
    assert (counts["images"], counts["captions"]) == (188, 1060)
    assert {"subject names no category", "object names no category", "no box of the object"} <= set(
        counts["lost"]["triplets"]
    )


def test_explain_names_the_fate_of_each_triplet_and_label_of_an_image(finished):
    dropped = finished.ask("query", "tiny", "select * from dropped order by image_id, triplet limit 1")[0]
    image = f"{dropped['partition'].split('/')[0]}/{dropped['image_id']}"
    found = finished.ask("explain", image, "tiny")
    assert (found["dropped"][0]["reason"], found["dropped"][0]["value"]) == (dropped["reason"], dropped["value"])
    assert found["dropped"][0]["subject"] and found["dropped"][0]["predicate"]
    labels = finished.ask("query", "tiny", f"select * from labels where image_id = {dropped['image_id']}")
    assert sorted(str(label["reason"]) for label in labels) == sorted(str(each["not_kept"]) for each in found["labels"])
