"""Every config builds, says what its name says, and says nothing twice."""

import copy
import json
import re
import statistics
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from mmdet.registry import DATA_SAMPLERS, DATASETS, HOOKS, METRICS, MODELS
from mmengine.config import Config, ConfigDict
from mmengine.optim import build_optim_wrapper
from mmengine.registry import PARAM_SCHEDULERS, init_default_scope

from mmdet_eql.analysis.config_files import PARTS, find_experiments
from mmdet_eql.analysis.config_summary import summarize
from mmdet_eql.frequency import ClassFrequency
from mmdet_eql.losses import EqualizationLoss
from tests import config_checks
from tests.config_checks import read
from tests.conftest import CONFIGS, REPOSITORY, TINY
from tests.heads.test_detectors import batch_of, build

EXPERIMENTS = find_experiments(CONFIGS)
FILES = sorted(CONFIGS.rglob("*.py"))
NAME = re.compile(
    r"(?P<detector>faster-rcnn|(cascade-)?mask-rcnn|htc(-without-semantic)?)_"
    r"(?P<backbone>[rx]\d+[\w-]*)_(?P<neck>fpn|c4)_"
    r"((?P<method>[a-z][\w.-]*)_)?(?P<scales>ms-)?(?P<gpus>\d+)xb(?P<batch>\d+)(-(?P<length>\w+))?"
    r"_(?P<data>minilvis(-coco|-openimages)?|lvis-v0\.5|lvis-v1|custom|openimages-challenge2019)"
)
NAMED = [path for path in EXPERIMENTS if NAME.fullmatch(path.stem)]
LOSSES = {
    "softmax": "CrossEntropyLoss",
    "sigmoid": "EqualizationLoss",
    "eql": "EqualizationLoss",
    "eqlv2": "EqualizationLossV2",
    "seql": "SoftmaxEqualizationLoss",
    "focal": "SigmoidFocalLoss",
    "federated": "FederatedLoss",
    "cb-sigmoid": "ClassBalancedSigmoidLoss",
    "cb-softmax": "ClassBalancedSoftmaxLoss",
    "bags": "BalancedGroupSoftmaxLoss",
    "logit-adjustment": "LogitAdjustedSoftmaxLoss",
    "seesaw": "SeesawLoss",
}
ON_SIGMOIDS = {"sigmoid", "eql", "eqlv2", "focal", "federated", "cb-sigmoid"}
SAMPLERS = {"rfs": "RepeatFactorSampler", "class-aware": "CategoryAwareSampler"}
NUM_CLASSES = {
    "minilvis": 200,
    "minilvis-coco": 200,
    "minilvis-openimages": 200,
    "lvis-v0.5": 1230,
    "lvis-v1": 1203,
    "custom": 20,
    "openimages-challenge2019": 500,
}
BACKBONES = {
    "r18": ("ResNet", 18),
    "r50": ("ResNet", 50),
    "r101": ("ResNet", 101),
    "x50-2x4d": ("ResNeXt", 50),
    "x101-64x4d": ("ResNeXt", 101),
}
DETECTORS = {
    "faster-rcnn": ("FasterRCNN", "StandardRoIHead"),
    "mask-rcnn": ("MaskRCNN", "StandardRoIHead"),
    "cascade-mask-rcnn": ("CascadeRCNN", "CascadeRoIHead"),
    "htc-without-semantic": ("HybridTaskCascade", "HybridTaskCascadeRoIHead"),
    "htc": ("HybridTaskCascade", "HybridTaskCascadeRoIHead"),
}
FOLDERS = {"openimages-challenge2019": "OpenImages"}
CLASSIFIERS = {"resnet10", "resnet14", "resnet32", "resnet50"}
EPOCHS = {"1x": 12, "2x": 24, "25e": 25}

every_experiment = pytest.mark.parametrize(
    "path", EXPERIMENTS, ids=lambda path: str(path.relative_to(CONFIGS))
)
every_named = pytest.mark.parametrize("path", NAMED, ids=lambda path: path.stem)


@pytest.fixture(autouse=True)
def scope():
    init_default_scope("mmdet")


def name_of(path: Path) -> dict[str, str]:
    """The parts of a config's name; ``loss`` and ``variant`` are those of the method."""
    parts = NAME.fullmatch(path.stem).groupdict()
    method = parts["method"] or "softmax"
    losses = [loss for loss in LOSSES if method == loss or method.startswith(f"{loss}-")]
    loss = max(losses, key=len, default="softmax")
    return {**parts, "loss": loss, "variant": method.removeprefix(loss).removeprefix("-")}


def is_openimages(name: dict[str, str]) -> bool:
    return "openimages" in name["data"]


def stages(heads) -> list:
    return list(heads) if isinstance(heads, (list, torch.nn.ModuleList)) else [heads]


_built = {}


def once(build: Callable, *configs):
    """``build(*configs)``, which experiments with equal configs share."""
    key = build, repr(configs)
    if key not in _built:
        _built[key] = build(*copy.deepcopy(configs))
    return _built[key]


def build_model(model: ConfigDict) -> torch.nn.Module:
    """Without memory for weights, which nothing here reads."""
    with torch.device("meta"):
        return MODELS.build(model)


def test_there_are_experiments():
    assert {path.parent.name for path in NAMED} >= {"minilvis", "baselines", "eql"}
    assert len(NAMED) > 100


@every_experiment
def test_the_model_builds(path):
    model = once(build_model, read(path).model)
    assert sum(weight.numel() for weight in model.parameters()) > 0


@every_named
def test_the_model_is_what_the_name_says(path):
    name = name_of(path)
    model = once(build_model, read(path).model)
    num_classes = NUM_CLASSES[name["data"]]
    detector, roi_head = DETECTORS[name["detector"]]
    assert type(model).__name__ == detector
    selective = name["variant"] == "class-specific"
    bases = [base.__name__ for base in type(model.roi_head).__mro__]
    assert bases[0] == roi_head or (selective and roi_head in bases)
    if detector == "HybridTaskCascade":
        assert model.roi_head.with_semantic == (name["detector"] == "htc")
    backbone, _, extra = name["backbone"].partition("-dconv")
    assert (type(model.backbone).__name__, model.backbone.depth) == BACKBONES[backbone]
    assert ("DeformConv2dPack" in repr(model.backbone)) == bool(extra)
    assert model.roi_head.with_mask == (name["detector"] != "faster-rcnn")
    for head in stages(model.roi_head.mask_head) if model.roi_head.with_mask else []:
        assert head.class_agnostic != selective
        assert head.conv_logits.out_channels == (num_classes if selective else 1)
    assert (model.with_neck, model.roi_head.with_shared_head) == (
        (True, False) if name["neck"] == "fpn" else (False, True)
    )
    for head in stages(model.roi_head.bbox_head):
        assert head.num_classes == num_classes
        assert type(head.loss_cls).__name__ == LOSSES[name["loss"]]
        if isinstance(head.loss_cls, EqualizationLoss):
            assert head.fc_cls.out_features == num_classes
            assert (head.loss_cls.lambda_ != 0) == (name["loss"] != "sigmoid")
            assert head.loss_cls.image_level_labels == (name["variant"] == "image-labels")
        if name["loss"] in ON_SIGMOIDS:
            assert type(head.fc_cls).__name__ == "PriorLinear"
    # Open Images is tested with MMDetection's own threshold.
    assert model.test_cfg.rcnn.score_thr <= (1e-2 if is_openimages(name) else 1e-3)


def test_the_head_of_c4_starts_with_the_pretrained_fifth_stage(tmp_path):
    """MMDetection's own file leaves it at random weights."""
    configs = [read(path).model for path in NAMED if "_c4_" in path.stem and path in LARGE]
    assert len(configs) == 4
    for model in configs:
        assert model.roi_head.shared_head.init_cfg == model.backbone.init_cfg
    checkpoint = tmp_path / "resnet.pth"
    options = {"type": "Pretrained", "checkpoint": str(checkpoint)}
    head = MODELS.build(dict(configs[0].roi_head.shared_head, init_cfg=options))
    weights = MODELS.build(dict(type="ResNet", depth=50, style="caffe")).state_dict()
    torch.save(weights, checkpoint)
    head.init_weights()
    for name, value in head.state_dict().items():
        assert name.startswith("layer4.")
        assert torch.equal(value, weights[name])


def test_sigmoids_start_at_a_low_probability():
    """A probability of 0.5 at the start would make the first steps diverge."""
    for path in NAMED:
        name = name_of(path)
        if name["data"] == "minilvis" and name["loss"] in ON_SIGMOIDS:
            for stage in stages(read(path).model.roi_head.bbox_head):
                head = MODELS.build(stage)
                head.fc_cls.init_weights()
                assert head.fc_cls.bias.sigmoid().max() < 0.01


@every_named
def test_the_rest_is_what_the_name_says(path):
    name, cfg = name_of(path), read(path)
    gpus, per_gpu = int(name["gpus"]), int(name["batch"])
    assert cfg.train_dataloader.batch_size == per_gpu
    assert cfg.auto_scale_lr.base_batch_size == gpus * per_gpu
    assert not cfg.auto_scale_lr.enable
    if name["length"] is not None:
        epochs = EPOCHS[name["length"]]
        assert cfg.train_cfg.max_epochs == epochs
        # The linear rule: 0.02 for 16 images.
        assert cfg.optim_wrapper.optimizer.lr == pytest.approx(0.02 * gpus * per_gpu / 16)
        assert cfg.param_scheduler[-1].end == epochs
    length = cfg.train_cfg.get("max_epochs") or cfg.train_cfg.get("max_iters")
    assert cfg.train_cfg.val_interval == length
    default = "InfiniteSampler" if "max_iters" in cfg.train_cfg else "DefaultSampler"
    sampler = cfg.train_dataloader.sampler
    assert sampler.type == SAMPLERS.get(name["variant"], default)
    # The loop and the sampler agree on whether there are epochs.
    assert sampler.get("infinite", default == "InfiniteSampler") == ("max_iters" in cfg.train_cfg)
    for split in ("train", "val", "test"):
        folder = cfg[f"{split}_dataloader"].dataset.data_root.rstrip("/").rpartition("/")[2]
        assert folder == FOLDERS.get(name["data"], name["data"].replace("-", "_"))
    for split in ("val", "test"):
        dataset, evaluator = cfg[f"{split}_dataloader"].dataset, cfg[f"{split}_evaluator"]
        if not is_openimages(name):
            assert evaluator.ann_file == dataset.data_root + dataset.ann_file
        if "train_ann_file" in evaluator:
            dataset = cfg.train_dataloader.dataset
            assert evaluator.train_ann_file == dataset.data_root + dataset.ann_file
    assert [HOOKS.get(hook.type).__name__ for hook in cfg.custom_hooks] == [
        "ClassFrequencyHook",
        "ResumeRandomnessHook",
        "InterruptionHook",
        "FiniteLossHook",
    ]


@pytest.fixture
def on_tiny_set(minilvis, minilvis_coco, minilvis_openimages):
    """The config of a dataset, with a small MiniLVIS of its format in place of its files."""

    def change(dataset: ConfigDict) -> dict:
        files, prefix = {}, dict(dataset.data_prefix)
        if dataset.type == "CountedOpenImagesChallengeDataset":
            # Its files have the names of the large set's.
            files["data_root"] = str(minilvis_openimages)
        elif prefix["img"]:
            files["data_root"] = str(minilvis_coco)
        else:
            split = "train" if not dataset.get("test_mode") else "val"
            files["data_root"] = str(minilvis)
            files["ann_file"] = f"annotations/minilvis_{split}.json"
        if "seg" in prefix:
            prefix["seg"] = "semantic/"
        return dict(dataset.to_dict(), **files, data_prefix=prefix)

    return change


def first_item(dataset: dict) -> dict:
    return DATASETS.build(dataset)[0]


def first_batch(sampler: dict, batch_sampler: dict | None, dataset: dict) -> list[int]:
    images = DATA_SAMPLERS.build(dict(sampler, dataset=DATASETS.build(dataset)))
    if batch_sampler is None:
        return [next(iter(images))]
    return next(iter(DATA_SAMPLERS.build(dict(batch_sampler, sampler=images, batch_size=1))))


def schedulers(optim_wrapper: dict, param_scheduler: list[dict]) -> list:
    wrapper = build_optim_wrapper(torch.nn.Linear(1, 1), optim_wrapper)
    for options in param_scheduler:
        options.update(optimizer=wrapper.optimizer, begin=0)
        options.pop("by_epoch")
    return [PARAM_SCHEDULERS.build(options) for options in param_scheduler]


@every_named
def test_data_evaluators_and_schedule_build(path, on_tiny_set):
    cfg, name = read(path), name_of(path)
    masks = name["detector"] != "faster-rcnn"
    for split in ("train", "val", "test"):
        loader = cfg[f"{split}_dataloader"]
        dataset = on_tiny_set(loader.dataset)
        sample = once(first_item, dataset)["data_samples"]
        assert ("gt_sem_seg" in sample) == (split == "train" and name["detector"] == "htc")
        assert ("masks" in sample.gt_instances) == (split == "train" and masks)
        (index,) = once(first_batch, loader.sampler, loader.get("batch_sampler"), dataset)
        assert 0 <= index < max(TINY.num_train_images, TINY.num_val_images)
    for split in ("val", "test"):
        evaluator = dict(cfg[f"{split}_evaluator"])
        loaders = {"ann_file": f"{split}_dataloader", "train_ann_file": "train_dataloader"}
        for key in loaders.keys() & evaluator:
            dataset = on_tiny_set(cfg[loaders[key]].dataset)
            evaluator[key] = f"{dataset['data_root']}/{dataset['ann_file']}"
        metric = once(METRICS.build, evaluator)
        if is_openimages(name):
            assert metric.num_groups == 5
        else:
            assert metric.metrics == (("bbox", "segm") if masks else ("bbox",))
    assert len(once(schedulers, cfg.optim_wrapper, cfg.param_scheduler)) >= 2


SMALL = {"r50": "r18", "r101": "r18", "x101-64x4d": "x50-2x4d"}
SMALL_SETS = {
    "lvis-v0.5": "minilvis",
    "lvis-v1": "minilvis",
    "custom": "minilvis-coco",
    "openimages-challenge2019": "minilvis-openimages",
}
LARGE = [path for path in NAMED if name_of(path)["data"] in SMALL_SETS]


@pytest.mark.parametrize("path", LARGE, ids=lambda path: path.stem)
def test_its_twin_trains_the_same_at_a_small_size(path):
    name = name_of(path)
    backbone, dash, dconv = name["backbone"].partition("-dconv")
    start = f"{name['detector']}_{SMALL[backbone]}{dash}{dconv}_{name['neck']}_"
    start += f"{name['method']}_" if name["method"] else ""
    end = f"1xb4_{SMALL_SETS[name['data']]}.py"
    (twin,) = (CONFIGS / "minilvis").rglob(f"{start}{name['scales'] or ''}{end}")
    large, small = read(path), read(twin)
    assert small.train_dataloader.sampler.type.replace("Infinite", "Default") == (
        large.train_dataloader.sampler.type
    )
    small_steps, large_steps = (
        [step.type for step in cfg.train_dataloader.dataset.pipeline] for cfg in (small, large)
    )
    assert small_steps == large_steps
    assert small.model.type == large.model.type
    assert small.val_evaluator.type == large.val_evaluator.type
    for part in ("bbox_head", "mask_head"):
        if part == "mask_head" and name["detector"] == "faster-rcnn":
            assert small.model.roi_head.get(part) is large.model.roi_head.get(part) is None
            continue
        assert len(stages(small.model.roi_head[part])) == len(stages(large.model.roi_head[part]))
        for ours, theirs in zip(
            stages(small.model.roi_head[part]), stages(large.model.roi_head[part]), strict=True
        ):
            assert ours.type == theirs.type
            assert ours.get("class_agnostic") == theirs.get("class_agnostic")
            assert comparable(ours.get("loss_cls")) == comparable(theirs.get("loss_cls"))


def comparable(loss: dict | None) -> dict | None:
    """A loss without what belongs to the dataset."""
    return loss and {key: loss[key] for key in loss if key not in ("lambda_", "num_classes")}


def test_what_has_no_such_name_is_a_classifier_with_a_twin_on_crops():
    """So that each experiment has a twin: names that no pattern reads would be passed over."""
    others = [path for path in EXPERIMENTS if path not in NAMED]
    assert {path.stem.partition("_")[0] for path in others} == CLASSIFIERS
    twins = {
        path.stem.split("_")[1]: read(path).model.head.loss_cls
        for path in others
        if path.stem.endswith("_minilvis-crops")
    }
    for path in others:
        # SEQL's own gamma.
        method = path.stem.split("_")[1].removesuffix("-gamma-0.9")
        assert twins[method].type == read(path).model.head.loss_cls.type
        assert twins[method].get("gamma") == read(path).model.head.loss_cls.get("gamma")


FAMILIES = [
    path
    for path in sorted((CONFIGS / "minilvis").glob("*_eql*_1xb4_minilvis.py"))
    if name_of(path)["variant"] == "class-specific" or not path.stem.startswith("mask-rcnn_r18_fpn")
] + [*(CONFIGS / "minilvis").glob("*_ms-1xb4_minilvis.py")]


@pytest.mark.parametrize("path", FAMILIES, ids=lambda path: path.stem)
def test_a_training_step_of_each_family(path, on_tiny_set):
    """Of detectors and backbones; tests/heads/test_detectors.py has the losses,
    tests/test_custom_data.py and tests/datasets/test_open_images.py train on other data."""
    cfg = Config.fromfile(path)
    for stage in stages(cfg.model.roi_head.bbox_head):
        stage.num_classes = TINY.num_categories
        if stage.loss_cls.get("lambda_"):
            stage.loss_cls.lambda_ = 0.1  # the tiny set has no category below the config's
    for stage in stages(cfg.model.roi_head.mask_head):
        stage.num_classes = TINY.num_categories
    cfg.train_dataloader.dataset = on_tiny_set(cfg.train_dataloader.dataset)
    model, dataset = build(cfg)
    total, logged = model.parse_losses(model.train()(**batch_of(model, dataset), mode="loss"))
    total.backward()
    assert torch.isfinite(total)
    assert ("loss_semantic_seg" in logged) == (name_of(path)["detector"] == "htc")
    for head in stages(model.roi_head.bbox_head):
        assert head.fc_cls.weight.grad.abs().sum() > 0
    for weight in model.backbone.parameters():
        assert weight.grad is not None


@every_experiment
def test_everything_in_it_is_read(path):
    assert config_checks.unread_keys(path) == []


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(CONFIGS)))
def test_it_says_nothing_twice(path):
    assert config_checks.repetitions(path) == []
    assert config_checks.depth_of(path) <= 3


def test_no_experiment_is_another():
    texts = {}
    for path in EXPERIMENTS:
        texts.setdefault(repr(read(path)._cfg_dict), []).append(path.name)
    assert [names for names in texts.values() if len(names) > 1] == []


def test_each_experiment_can_be_told_in_a_line():
    lines = [" | ".join(summarize(read(path))) for path in EXPERIMENTS]
    assert not any("\n" in line for line in lines)
    assert all(line.partition(" | ")[0] for line in lines)


def test_experiments_are_short():
    lengths = [len(path.read_text().splitlines()) for path in EXPERIMENTS]
    assert statistics.median(lengths) <= 12


FAULTS = {
    "model = dict(backbone=dict(depht=50))": "model.backbone.depht: nothing reads it",
    "model = dict(train_cfg=dict(rpn=dict(sampler=dict(nums=1))))": "sampler.nums: nothing reads",
    "model = dict(test_cfg=dict(rcnn=dict(score_threshold=0.1)))": "score_threshold: nothing reads",
    "model = dict(neck=dict(type='FNP'))": "model.neck.type: 'FNP' is not registered",
    "train_dataloader = dict(workers=3)": "train_dataloader.workers: nothing reads it",
    "train_dataloader = dict(sampler=dict(seeds=3))": "sampler.seeds: nothing reads it",
    "val_evaluator = dict(metrics=['bbox'])": "val_evaluator.metrics: nothing reads it",
    "optim_wrapper = dict(optimizer=dict(momentums=0.9))": "optimizer.momentums: nothing reads it",
    "max_epochs = 12": "max_epochs: nothing reads it",
}


@pytest.mark.parametrize(("line", "fault"), FAULTS.items(), ids=FAULTS.values())
def test_a_key_that_nothing_reads_is_found(line, fault, tmp_path):
    base = CONFIGS / "eql" / "mask-rcnn_r50_fpn_eql_8xb2-1x_lvis-v1.py"
    path = tmp_path / "config.py"
    path.write_text(f'_base_ = "{base}"\n{line}\n')
    (found,) = config_checks.unread_keys(path)
    assert fault in found


@pytest.mark.parametrize(
    ("line", "key"),
    [
        ("model = dict(backbone=dict(depth=50))", "model.backbone.depth"),
        ("train_pipeline = [*_base_.train_pipeline]", "train_pipeline"),
        (
            "auto_scale_lr = dict(_delete_=True, enable=False, base_batch_size=16)",
            "auto_scale_lr",
        ),
    ],
)
def test_a_repetition_is_found(line, key, tmp_path):
    base = CONFIGS / "eql" / "mask-rcnn_r50_fpn_eql_8xb2-1x_lvis-v1.py"
    path = tmp_path / "config.py"
    path.write_text(f'_base_ = "{base}"\n{line}\n')
    assert config_checks.repetitions(path) == [f"{key}: its base says so already"]


def test_the_tail_ratios_in_the_comments():
    counts_file = REPOSITORY.parent / "shared" / "lvis_v0.5_image_counts.json"
    if not counts_file.is_file():
        pytest.skip("the image counts of LVIS v0.5 are not there")
    counts = json.loads(counts_file.read_text())
    freq = ClassFrequency(
        image_count=np.array(counts["image_count"]),
        instance_count=np.array(counts["image_count"]),
        num_images=counts["num_images"],
        class_names=tuple(map(str, range(len(counts["image_count"])))),
    )
    checked = 0
    for path in (*(CONFIGS / "ablations").glob("*lambda*"), CONFIGS / PARTS / "losses" / "eql.py"):
        text = path.read_text()
        ratio = float(re.search(r"# .*Tail ratio: ([\d.]+) %\.", text).group(1))
        lambda_ = float(re.search(r"lambda_=([\d.e-]+)", text).group(1))
        assert ratio == pytest.approx(100 * freq.tail_ratio(lambda_), abs=0.005)
        checked += 1
    assert checked == 8


DOCUMENTS = ["README.md", "docs/custom-data.md", "docs/experiments.md", "docs/losses.md"]
DOCUMENTS += ["docs/open-images.md"]


@pytest.mark.parametrize("name", DOCUMENTS)
def test_the_documents_name_configs_that_exist(name):
    document = REPOSITORY / name
    links = re.findall(r"\]\(([^)#:]*configs/[^)]*)\)", document.read_text())
    assert links
    for link in links:
        assert (document.parent / link).exists(), link


METAFILES = sorted(CONFIGS.glob("*/metafile.yml"))


def test_the_model_index_names_the_metafiles():
    index = yaml.safe_load((REPOSITORY / "model-index.yml").read_text())
    assert [REPOSITORY / name for name in index["Import"]] == METAFILES


@pytest.mark.parametrize("metafile", METAFILES, ids=lambda path: path.parent.name)
def test_a_metafile_lists_the_experiments_beside_it(metafile):
    contents = [yaml.safe_load(path.read_text()) for path in METAFILES]
    collections = {each["Name"] for content in contents for each in content.get("Collections", [])}
    models = yaml.safe_load(metafile.read_text())["Models"]
    assert [REPOSITORY / each["Config"] for each in models] == sorted(metafile.parent.glob("*.py"))
    for model in models:
        path = REPOSITORY / model["Config"]
        assert model["Name"] == path.stem
        assert model["In Collection"] in collections
        assert model["Metadata"]["Epochs"] == read(path).train_cfg.max_epochs
        data = path.stem.rpartition("_")[2].removesuffix("-crops")
        named = re.sub("[ -]", "", model["Metadata"]["Training Data"].lower())
        assert named == data.replace("-", "")
