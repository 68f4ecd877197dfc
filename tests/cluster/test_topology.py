"""How many of what, from what there is: laptops, clusters with a head that trains nothing, nodes still to come."""

import re
from dataclasses import replace

import pytest
from speedrun.execution import PLAIN
from speedrun.tracks import medium, small, tiny

from discreteness.cluster.machines import Cluster, Node, assumed
from discreteness.cluster.topology import choose
from discreteness.experiment import documents
from discreteness.experiment.checkpoint_steps import parse_checkpoints
from discreteness.experiment.config import RunConfig
from discreteness.experiment.prepare import Experiment

HEAD = Node(cpus=0, gpus=0, gpu_type=None, object_store_bytes=10_000_000_000)
P5 = Node(cpus=192, gpus=8, gpu_type="H100", object_store_bytes=400_000_000_000)
LAPTOP = Node(cpus=8, gpus=0, gpu_type=None, object_store_bytes=4_000_000_000)


def experiment(track, world_size, seeds=300, plan=tuple(range(0, 361, 10))):
    return Experiment(
        track=track,
        data_root="",
        documents=tuple(documents.built_in()),
        vary="init",
        packing="isolated",
        score_tokens=16_384,
        world_size=world_size,
        execution=PLAIN,
        plan=plan,
        validation_steps=frozenset(),
        val_tokens=0,
        kept_steps=frozenset(),
        seeds=tuple(range(seeds)),
        identity={},
    )


def test_trainers_fill_a_laptops_cores():
    chosen = choose(experiment(tiny, 2), RunConfig(), Cluster((LAPTOP,), local=True))
    assert (chosen.trainers, chosen.evaluators, chosen.declared_cpus) == (4, 4, 8)
    assert not chosen.use_gpu
    more = choose(experiment(tiny, 4), RunConfig(trainers=3), Cluster((LAPTOP,), local=True))
    assert (more.trainers, more.declared_cpus) == (3, 12)


def test_no_more_trainers_than_seeds():
    assert choose(experiment(tiny, 1, seeds=3), RunConfig(), Cluster((LAPTOP,), local=True)).trainers == 3


def test_a_head_without_gpus_holds_no_trainer_and_its_small_store_no_checkpoint():
    chosen = choose(experiment(small, 8), RunConfig(), Cluster((HEAD, P5, P5), local=False))
    assert (chosen.trainers, chosen.evaluators) == (2, 16)
    assert chosen.gpus_per_worker == pytest.approx(0.9)
    assert any("400000 MB" in line for line in chosen.report)


def test_a_seed_of_medium_takes_its_own_time():
    """2,176,974,848 tokens at 250 ms for 524,288 on eight GPUs; the record took 1041 s (SPEEDRUN 13.2)."""
    chosen = choose(experiment(medium, 8), RunConfig(), Cluster((P5,), local=False))
    assert any("about 1038 s per seed" in line for line in chosen.report)
    (hours,) = re.findall(r"([\d.]+) GPU-hours$", "\n".join(chosen.report), re.M)
    assert float(hours) == pytest.approx(300 * 1038 * 8 / 3600, rel=0.01)
    assert chosen.checkpoint_bytes == pytest.approx(2 * 613_420_437, rel=1e-4)  # matrices in bfloat16, as they are read


def test_four_seeds_of_tiny_at_48_checkpoints_take_what_a_real_run_of_them_took():
    """`make run` of 2026-11-23: 5,184 rows; all files together 2,568,027 bytes."""
    plan = parse_checkpoints("log:48", tiny.schedule.last_step)
    chosen = choose(experiment(tiny, 2, seeds=4, plan=plan), RunConfig(), Cluster((LAPTOP,), local=True))
    assert chosen.rows == 5_184
    assert chosen.dataset_bytes == pytest.approx(2_568_027, rel=0.02)


def test_a_cluster_whose_workers_are_still_to_come_needs_a_number():
    empty = Cluster((HEAD,), local=False)
    with pytest.raises(ValueError, match="--trainers N"):
        choose(experiment(small, 8), RunConfig(), empty)
    assert choose(experiment(small, 8), RunConfig(trainers=8), empty).trainers == 8
    with pytest.raises(ValueError, match="no machine has 1 GPUs"):
        choose(experiment(small, 1), RunConfig(trainers=1), Cluster((LAPTOP,), local=True))


def test_what_the_object_store_cannot_hold_is_refused():
    little = Node(cpus=192, gpus=8, gpu_type="H100", object_store_bytes=5_000_000_000)
    with pytest.raises(ValueError, match="--max-in-flight 8"):
        choose(experiment(small, 8), RunConfig(), Cluster((little,), local=False))
    # 4 checkpoints of 537 MB are below 60 % of 5 GB, but every worker of the trainer may hold one.
    assert choose(experiment(small, 4), RunConfig(max_in_flight=4, trainers=1), Cluster((little,), local=False))


def test_the_bound_of_a_store_is_that_of_the_smallest_node_and_of_the_fullest():
    """537 MB per checkpoint of small, 60 % of a store."""

    def node(gigabytes):
        return Node(cpus=192, gpus=8, gpu_type="H100", object_store_bytes=int(gigabytes * 1e9))

    with pytest.raises(ValueError, match=r"--max-in-flight 1: 1 trainers on a node may hold 4\.3 GB"):
        choose(experiment(small, 8), RunConfig(max_in_flight=1), Cluster((node(5),), local=False))  # one a worker
    with pytest.raises(ValueError, match=r"object store of 5\.0 GB"):
        choose(experiment(small, 8), RunConfig(), Cluster((P5, node(5)), local=False))
    half = RunConfig(trainers=3, max_in_flight=4)  # 2.1 GB per trainer: one of the two nodes has two
    with pytest.raises(ValueError, match=r"2 trainers on a node may hold 4\.3 GB"):
        choose(experiment(small, 4), half, Cluster((node(6), node(6)), local=False))


def moves(chosen):
    """MB/s of a trainer, on average and at its peak, as the report has them."""
    text = re.search(r"moves ([\d.]+) MB/s on average, ([\d.]+) MB/s at its peak", "\n".join(chosen.report))
    return float(text[1]), float(text[2])


def test_the_peak_is_that_of_the_densest_checkpoints_as_many_as_may_be_in_flight():
    """A step of tiny begins with 256 tokens of 600 us: 0.08 s of two workers."""
    machine, config = Cluster((LAPTOP,), local=True), RunConfig(max_in_flight=4)
    dense = choose(experiment(tiny, 2, plan=(*range(0, 200, 100), *range(10, 15), 360)), config, machine)
    assert moves(dense)[1] > 5 * moves(dense)[0]
    assert moves(dense)[1] == pytest.approx(dense.checkpoint_bytes / 0.0768 / 1e6, abs=0.1)
    few = choose(experiment(tiny, 2, plan=(0, 360)), config, machine)
    assert moves(few)[0] == moves(few)[1]


def test_rounds_are_counted_to_the_last_and_kept_weights_take_their_bytes():
    machine = Cluster((LAPTOP,), local=True)
    plain = choose(experiment(tiny, 2, seeds=5), RunConfig(trainers=2), machine)
    assert any(", 3 rounds," in line for line in plain.report)
    kept = replace(experiment(tiny, 2, seeds=5), kept_steps=frozenset({0, 360}))
    embedding = 4 * tiny.model.vocab_size * tiny.model.model_dim  # left out while it is tied, at step 0
    more = choose(kept, RunConfig(trainers=2), machine).dataset_bytes - plain.dataset_bytes
    assert more == 5 * (2 * plain.checkpoint_bytes - embedding)


def test_the_track_fits_the_hardware():
    assert Cluster((LAPTOP,), local=True).track("auto") == "tiny"
    assert Cluster((HEAD, P5), local=False).track("auto") == "small"
    assert Cluster((LAPTOP,), local=True).track("small") == "small"
    old = Node(cpus=8, gpus=4, gpu_type="V100", object_store_bytes=1)
    with pytest.raises(ValueError, match="V100"):
        Cluster((old,), local=False).track("auto")


A100 = Node(cpus=96, gpus=8, gpu_type="A100", object_store_bytes=400_000_000_000)


def test_a_mixed_cluster_counts_only_nodes_of_the_type_that_is_asked_for():
    mixed = Cluster((HEAD, P5, A100, A100, LAPTOP), local=False)
    assert choose(experiment(small, 8), RunConfig(), mixed).trainers == 3
    assert choose(experiment(small, 8), RunConfig(gpu_type="A100"), mixed).trainers == 2
    assert choose(experiment(small, 4), RunConfig(gpu_type="H100"), mixed).trainers == 2
    with pytest.raises(ValueError, match="no machine has 8 B200 GPUs"):
        choose(experiment(small, 8), RunConfig(gpu_type="B200"), mixed)


def test_a_node_with_fewer_cores_than_workers_holds_no_trainer():
    thin = Node(cpus=4, gpus=8, gpu_type="H100", object_store_bytes=400_000_000_000)
    assert choose(experiment(small, 4), RunConfig(), Cluster((thin,), local=False)).trainers == 1
    with pytest.raises(ValueError, match="no machine has 8 GPUs"):
        choose(experiment(small, 8), RunConfig(), Cluster((thin,), local=False))


def test_a_trainer_asks_for_one_node_its_gpus_type_and_leaves_room_for_evaluators():
    from discreteness.service.trainers import scaling

    chosen = choose(experiment(small, 8), RunConfig(evaluator_gpus=0.25), Cluster((P5,), local=False))
    place = scaling(chosen, "H100")
    assert (place.num_workers, place.placement_strategy, place.accelerator_type) == (8, "STRICT_PACK", "H100")
    assert place.resources_per_worker == {"CPU": 1.0, "GPU": 0.75}
    assert chosen.gpus_per_evaluator + place.resources_per_worker["GPU"] == 1
    on_cpus = scaling(choose(experiment(tiny, 2), RunConfig(), Cluster((LAPTOP,), local=True)), None)
    assert (on_cpus.use_gpu, on_cpus.accelerator_type) == (False, None)
    assert on_cpus.resources_per_worker == {"CPU": 1.0}
    with pytest.raises(ValueError, match=r"H100.*tiny trains on CPUs"):
        choose(experiment(tiny, 2), RunConfig(gpu_type="H100"), Cluster((LAPTOP,), local=True))


def test_trainers_that_wait_for_a_node_fill_no_store_of_those_there_are():
    # One trainer's 8 checkpoints of 537 MB are 54 % of 8 GB: two trainers would not fit, but each node holds one.
    node = Node(cpus=192, gpus=8, gpu_type="H100", object_store_bytes=8_000_000_000)
    cluster = Cluster((node, node), local=False)
    assert choose(experiment(small, 8), RunConfig(trainers=5), cluster).trainers == 5
    with pytest.raises(ValueError, match="2 trainers on a node"):
        choose(experiment(small, 4), RunConfig(trainers=5), cluster)
    small_laptop = Node(cpus=2, gpus=0, gpu_type=None, object_store_bytes=120_000_000)
    with pytest.raises(ValueError, match="4 trainers on a node"):
        choose(experiment(tiny, 2), RunConfig(trainers=4), Cluster((small_laptop,), local=True))


def test_evaluators_with_gpus_of_their_own_leave_whole_ones_to_trainers():
    from discreteness.service.trainers import scaling

    own = RunConfig(evaluator_gpus=1)
    one = choose(experiment(small, 1), own, Cluster((P5,), local=True))
    assert (one.trainers, one.evaluators, one.gpus_per_worker, one.gpus_per_evaluator) == (7, 1, 1.0, 1)
    assert scaling(one, None).resources_per_worker == {"CPU": 1.0, "GPU": 1.0}
    assert any("evaluators: 1, each on its own GPU" in line for line in one.report)
    two = choose(experiment(small, 4), own, Cluster((HEAD, P5, P5), local=False))
    assert (two.trainers, two.evaluators) == (3, 2)
    many = choose(experiment(small, 2), RunConfig(evaluator_gpus=1, evaluators=3), Cluster((P5,), local=True))
    assert (many.trainers, many.evaluators) == (2, 3)
    assert choose(experiment(small, 8), own, Cluster((P5, P5), local=False)).trainers == 1
    # Nodes still to come are waited for, as trainers wait for them.
    assert choose(experiment(small, 1), RunConfig(evaluator_gpus=1, trainers=9), Cluster((HEAD,), local=False))


def test_evaluators_find_gpus_of_their_own_or_a_line_says_why_not():
    with pytest.raises(ValueError, match="8 GPUs for trainers and 1 for evaluators are more than the 8 of this"):
        choose(experiment(small, 8), RunConfig(evaluator_gpus=1), Cluster((P5,), local=True))
    with pytest.raises(ValueError, match="6 GPUs for trainers and 3 for evaluators"):
        choose(experiment(small, 2), RunConfig(evaluator_gpus=1, evaluators=3, trainers=3), Cluster((P5,), local=True))
    with pytest.raises(ValueError, match="types A100, H100"):
        choose(experiment(small, 1), RunConfig(evaluator_gpus=1), Cluster((P5, A100), local=False))


@pytest.mark.parametrize(("text", "nodes", "gpus", "kind"), [("8xH100", 1, 8, "H100"), ("4x8xA100", 4, 8, "A100")])
def test_a_plan_can_be_made_for_machines_that_are_not_here(text, nodes, gpus, kind):
    cluster = assumed(text)
    assert [(node.gpus, node.gpu_type) for node in cluster.nodes] == nodes * [(gpus, kind)] and not cluster.local
    assert choose(experiment(small, 8, seeds=9), RunConfig(), cluster).trainers == nodes


@pytest.mark.parametrize("text", ["", "H100", "8", "0xH100", "axH100", "8x8x8xH100", "8x-H100"])
def test_an_assumption_that_names_no_machines_is_refused(text):
    with pytest.raises(ValueError, match="such as 8xH100"):
        assumed(text)


def test_only_a_plan_is_made_for_machines_that_are_not_here():
    with pytest.raises(ValueError, match="add --dry-run"):
        RunConfig(assume="8xH100").check()


def line(chosen, beginning):
    (found,) = [text for text in chosen.report if text.startswith(beginning)]
    return found


def test_the_plan_says_which_evaluators_find_no_place():
    """Each GPU of a trainer has a share for one evaluator; a free GPU has ten of a tenth."""
    many = RunConfig(evaluators=16)
    here = choose(experiment(small, 1), many, Cluster((P5,), local=True))
    assert line(here, "evaluators: 16").endswith("; 8 of them find a place, 8 never will: ask for fewer")
    eight = choose(experiment(small, 1), RunConfig(evaluators=8), Cluster((P5,), local=True))
    assert line(here, "time:") == line(eight, "time:")  # those without a place score nothing
    later = choose(experiment(small, 1), many, Cluster((P5,), local=False))
    assert line(later, "evaluators: 16").endswith("; 8 of them find a place, 8 wait for machines that are not here")
    beside = choose(experiment(small, 1), RunConfig(evaluators=16, trainers=7), Cluster((P5,), local=True))
    assert line(beside, "evaluators: 16").endswith("on the trainers' nodes")  # 7 and 10
    own = choose(
        experiment(small, 1), RunConfig(evaluators=9, evaluator_gpus=1, trainers=8), Cluster((P5, P5), local=False)
    )
    assert line(own, "evaluators: 9").endswith("each on its own GPU")
    assert line(own, "trainers: 8").endswith("; 7 of them find a place, 1 wait for machines that are not here")
    assert line(choose(experiment(tiny, 2), many, Cluster((LAPTOP,), local=True)), "evaluators: 16").endswith("CPUs")


def test_the_plan_says_which_trainers_find_no_place():
    crowd = choose(experiment(small, 1), RunConfig(trainers=9), Cluster((P5,), local=True))
    assert line(crowd, "trainers: 9").endswith("(8 would fit now); 8 of them find a place, 1 never will: ask for fewer")
    assert ", 38 rounds," in line(crowd, "time:")  # 300 seeds on eight


def test_the_time_counts_scoring_and_says_which_decides():
    """300 checkpoints of the built-in documents are 2 s of a GPU; of a thousand times as many 1,440 s."""
    plan = tuple(range(300))
    few = experiment(small, 1, seeds=8, plan=plan)
    many = replace(few, documents=1_000 * few.documents)
    machine = Cluster((P5,), local=True)
    assert line(choose(few, RunConfig(), machine), "time:").startswith(
        "time: about 870 s per seed, bound by training (alone: training 868 s, scoring 6 s), 1 round, 15 minutes, "
    )
    slow = line(choose(many, RunConfig(), machine), "time:")
    (seed_s,) = re.findall(r"about (\d+) s per seed, bound by scoring \(alone: training 868 s, ", slow)
    assert int(seed_s) == pytest.approx(868 + 300 * (1_000 * 4.8e-3 + 2.7e-3), rel=0.01)
    one = line(choose(many, RunConfig(evaluators=1), machine), "time:")  # all eight trainers wait for it
    assert int(re.findall(r"about (\d+) s", one)[0]) == pytest.approx(8 * 300 * 1_000 * 4.8e-3, rel=0.01)


def test_a_time_says_from_which_gpu_it_is():
    for kind, words in (("H200", "seed, bound"), ("A100", "seed, by the peak of its GPU, "), ("L4", "as on an H100")):
        chosen = choose(experiment(small, 1), RunConfig(), assumed(f"8x{kind}"))
        assert words in line(chosen, "time:")


def test_a_price_becomes_the_cost_of_what_is_left():
    asked = RunConfig(price_per_gpu_hour=2.5)
    chosen = choose(experiment(small, 8, seeds=9), asked, assumed("8xH100"))
    (hours,) = re.findall(r"([\d.]+) GPU-hours$", line(chosen, "time:"))
    assert float(hours) == pytest.approx(8 * (40 + 9 * 108.5) / 3600, rel=0.01)
    cost = f"cost: about {2.5 * float(hours):.2f} for {hours} GPU-hours at 2.5"
    assert line(chosen, "cost:")[:15] == cost[:15] and line(chosen, "cost:").endswith(f"for {hours} GPU-hours at 2.5")
    part = line(choose(experiment(small, 1, seeds=2), asked, assumed("8xH100")), "cost:")
    used, whole = re.fullmatch(
        r"cost: about ([\d.]+) for .* at 2.5; all 8 GPUs .* in that time ([\d.]+)", part
    ).groups()
    assert float(whole) == pytest.approx(4 * float(used), abs=0.05)
    assert not any("cost" in text for text in choose(experiment(small, 8), RunConfig(), assumed("8xH100")).report)
    with pytest.raises(ValueError, match=r"--price-per-gpu-hour 2\.5: --track tiny trains on CPUs"):
        choose(experiment(tiny, 2), asked, Cluster((LAPTOP,), local=True))
    with pytest.raises(ValueError, match="--price-per-gpu-hour -1"):
        RunConfig(price_per_gpu_hour=-1).check()
