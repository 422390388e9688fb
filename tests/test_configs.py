"""Every config builds, is what its name says, and holds nothing that nothing reads."""

import copy
import functools
import json
import re
import shlex
import statistics
from argparse import ArgumentParser
from pathlib import Path

import mmdet
import numpy as np
import pytest
import torch
from mmdet.registry import DATA_SAMPLERS, DATASETS, HOOKS, METRICS, MODELS
from mmengine.config import Config, ConfigDict, DictAction
from mmengine.optim import build_optim_wrapper
from mmengine.registry import PARAM_SCHEDULERS, init_default_scope

from mmdet_eql.frequency import ClassFrequency
from mmdet_eql.losses import EqualizationLoss
from mmdet_eql.runs.sweep_file import read_entries
from tests import config_checks
from tests.config_checks import read
from tests.conftest import CONFIGS, REPOSITORY, TINY
from tests.heads.test_detectors import batch_of, build
from tests.shrinking import move_to_tiny_set, shrink, stages, unwrapped

EXPERIMENTS = [path for path in sorted(CONFIGS.rglob("*.py")) if "_base_" not in path.parts]
NAME = re.compile(
    r"(?P<detector>faster-rcnn|(cascade-)?mask-rcnn|htc)_"
    r"(?P<backbone>[rx]\d+[\w-]*|swin-t)_(?P<neck>fpn|c4)_"
    r"((?P<method>[a-z][\w.-]*)_)?(ms-)?(?P<gpus>\d+)xb(?P<batch>\d+)(-(?P<length>\w+))?"
    r"_(?P<data>minilvis(-coco|-openimages)?|lvis-v0\.5|lvis-v1|custom|openimages-challenge2019|v3det)"
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
SAMPLERS = {
    "rfs": "RepeatFactorSampler",
    "rfs-copy-paste": "RepeatFactorSampler",
    "class-aware": "CategoryAwareSampler",
}
NUM_CLASSES = {
    "minilvis": 200,
    "minilvis-coco": 200,
    "minilvis-openimages": 200,
    "lvis-v0.5": 1230,
    "lvis-v1": 1203,
    "custom": 20,
    "openimages-challenge2019": 500,
    "v3det": 13204,
}
BACKBONES = {
    "r18": ("ResNet", 18),
    "r50": ("ResNet", 50),
    "r101": ("ResNet", 101),
    "x101-64x4d": ("ResNeXt", 101),
    "swin-t": ("SwinTransformer", 12),
}
DETECTORS = {
    "faster-rcnn": ("FasterRCNN", "StandardRoIHead"),
    "mask-rcnn": ("MaskRCNN", "StandardRoIHead"),
    "cascade-mask-rcnn": ("CascadeRCNN", "CascadeRoIHead"),
    "htc": ("HybridTaskCascade", "HybridTaskCascadeRoIHead"),
}
FOLDERS = {"openimages-challenge2019": "OpenImages", "v3det": "V3Det"}
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


def heads_of(part) -> list:
    return list(part) if isinstance(part, torch.nn.ModuleList) else [part]


_built = {}


def once(build_part, *configs):
    """``build_part(*configs)``, which experiments with equal configs share."""
    key = build_part, repr(configs)
    if key not in _built:
        _built[key] = build_part(*copy.deepcopy(configs))
    return _built[key]


def build_model(model: ConfigDict) -> torch.nn.Module:
    """Without memory for weights, which nothing here reads."""
    for head in stages(model.get("roi_head", {}).get("bbox_head") or []):
        if head.num_classes is None:  # counted by tools/train.py
            head.num_classes = NUM_CLASSES["custom"]
    # Swin reads its own numbers while it is built.
    with torch.device("cpu" if model.backbone.type == "SwinTransformer" else "meta"):
        return MODELS.build(model)


def test_there_are_experiments():
    assert {path.parent.name for path in NAMED} >= {"minilvis", "baselines", "eql"}
    assert len(NAMED) > 80
    assert len(list(CONFIGS.rglob("*.py"))) <= 180
    # tests/classification/test_configs.py and tests/test_one_stage_configs.py have the others.
    others = [path for path in EXPERIMENTS if path not in NAMED]
    assert {path.stem.partition("_")[0] for path in others} == {
        *CLASSIFIERS,
        *("atss", "rtmdet", "deformable-detr", "dino-4scale"),
    }


@every_named
def test_the_model_is_what_the_name_says(path):
    name = name_of(path)
    model = once(build_model, read(path).model)
    num_classes = NUM_CLASSES[name["data"]]
    detector, roi_head = DETECTORS[name["detector"]]
    assert (type(model).__name__, type(model.roi_head).__name__) == (detector, roi_head)
    if detector == "HybridTaskCascade":
        assert model.roi_head.with_semantic
    backbone, _, extra = name["backbone"].partition("-dconv")
    options = read(path).model.backbone
    depth = options.depth if "depth" in options else sum(options.depths)
    assert (type(model.backbone).__name__, depth) == BACKBONES[backbone]
    assert ("DeformConv2dPack" in repr(model.backbone)) == bool(extra)
    assert model.roi_head.with_mask == (name["detector"] != "faster-rcnn")
    for head in heads_of(model.roi_head.mask_head) if model.roi_head.with_mask else []:
        assert head.class_agnostic
        assert head.conv_logits.out_channels == 1
    assert (model.with_neck, model.roi_head.with_shared_head) == (
        (True, False) if name["neck"] == "fpn" else (False, True)
    )
    for head in heads_of(model.roi_head.bbox_head):
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
    configs = [read(path).model for path in NAMED if "_c4_" in path.stem]
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
            head = MODELS.build(read(path).model.roi_head.bbox_head)
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
        # The linear rule: 0.02 for 16 images, by SGD.
        rate = 1e-4 if cfg.optim_wrapper.optimizer.type == "AdamW" else 0.02
        assert cfg.optim_wrapper.optimizer.lr == pytest.approx(rate * gpus * per_gpu / 16)
        assert cfg.param_scheduler[-1].end == epochs
    length = cfg.train_cfg.get("max_epochs") or cfg.train_cfg.get("max_iters")
    assert cfg.train_cfg.val_interval == length
    default = "InfiniteSampler" if "max_iters" in cfg.train_cfg else "DefaultSampler"
    sampler = cfg.train_dataloader.sampler
    assert sampler.type == SAMPLERS.get(name["variant"], default)
    # The loop and the sampler agree on whether there are epochs.
    assert sampler.get("infinite", default == "InfiniteSampler") == ("max_iters" in cfg.train_cfg)
    for split in ("train", "val", "test"):
        dataset = unwrapped(cfg[f"{split}_dataloader"].dataset)
        folder = dataset.data_root.rstrip("/").rpartition("/")[2]
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
        "DataReportHook",
    ]


@pytest.fixture
def tiny_folder(minilvis, minilvis_coco, minilvis_openimages):
    """The tiny MiniLVIS in the format of a config's dataset."""

    def choose(dataset: ConfigDict) -> Path:
        if dataset.type == "CountedOpenImagesChallengeDataset":
            return minilvis_openimages
        return minilvis_coco if unwrapped(dataset).data_prefix.img else minilvis

    return choose


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
        options.pop("convert_to_iter_based", None)
    return [PARAM_SCHEDULERS.build(options) for options in param_scheduler]


@every_named
def test_data_evaluators_and_schedule_build(path, tiny_folder):
    cfg, name = copy.deepcopy(read(path)), name_of(path)
    masks = name["detector"] != "faster-rcnn"
    for split in ("train", "val", "test"):
        loader = cfg[f"{split}_dataloader"]
        move_to_tiny_set(loader.dataset, tiny_folder(loader.dataset))
        sample = once(first_item, loader.dataset)["data_samples"]
        assert ("gt_sem_seg" in sample) == (split == "train" and name["detector"] == "htc")
        assert ("masks" in sample.gt_instances) == (split == "train" and masks)
        (index,) = once(first_batch, loader.sampler, loader.get("batch_sampler"), loader.dataset)
        assert 0 <= index < max(TINY.num_train_images, TINY.num_val_images)
    for evaluator in (cfg.val_evaluator, cfg.test_evaluator):
        files = {"ann_file": cfg.val_dataloader, "train_ann_file": cfg.train_dataloader}
        for key in files.keys() & evaluator.keys():
            evaluator[key] = f"{files[key].dataset.data_root}/{files[key].dataset.ann_file}"
        metric = once(METRICS.build, evaluator)
        if is_openimages(name):
            assert metric.num_groups == 5
        else:
            assert metric.metrics == (("bbox", "segm") if masks else ("bbox",))
    assert len(once(schedulers, cfg.optim_wrapper, cfg.param_scheduler)) >= 2


@functools.cache
def variants() -> list[tuple[str, Path, list[str]]]:
    """The variants that docs/experiments.md gives as options: their names, configs and options."""
    rows = re.findall(
        r"^\| ([^|]+) \| `([^`]+\.py)` \| `([^`]+)` \|$",
        (REPOSITORY / "docs" / "experiments.md").read_text(),
        re.MULTILINE,
    )
    return [(name, CONFIGS / config, shlex.split(options)) for name, config, options in rows]


def with_options(path: Path, options: list[str]) -> Config:
    """A config with options as the command line's ``--cfg-options`` takes them."""
    parser = ArgumentParser()
    parser.add_argument("--cfg-options", nargs="+", action=DictAction)
    cfg = copy.deepcopy(read(path))
    cfg.merge_from_dict(parser.parse_args(["--cfg-options", *options]).cfg_options)
    return cfg


def test_there_are_variants():
    assert len(variants()) > 15


@pytest.mark.parametrize(
    ("name", "path", "options"), variants(), ids=[name for name, _, _ in variants()]
)
def test_a_variant_by_one_line(name, path, options, tiny_folder):
    cfg = with_options(path, options)
    assert cfg.to_dict() != read(path).to_dict()
    assert config_checks.unread_keys(path, cfg) == []
    once(build_model, cfg.model)
    assert "lass-specific" not in name or not stages(cfg.model.roi_head.mask_head)[0].class_agnostic
    once(schedulers, cfg.optim_wrapper, cfg.param_scheduler)
    if "roi_head" not in cfg.model:
        return
    loader = cfg.train_dataloader
    move_to_tiny_set(loader.dataset, tiny_folder(loader.dataset))
    once(first_item, loader.dataset)
    once(first_batch, loader.sampler, loader.get("batch_sampler"), loader.dataset)


def test_convnext_is_that_of_mmdetection(tmp_path):
    """MMPretrain, which has it, need not be installed."""
    text = (REPOSITORY / "docs" / "experiments.md").read_text()
    (block,) = re.findall(r"```python\n([^`]*mmpretrain[^`]*)```", text)
    path = tmp_path / "convnext.py"
    path.write_text(block.replace("../eql/", f"{CONFIGS}/eql/"))
    theirs = Path(mmdet.__file__).parent / ".mim" / "configs" / "convnext"
    theirs /= "mask-rcnn_convnext-t-p4-w7_fpn_amp-ms-crop-3x_coco.py"
    ours, theirs = (Config.fromfile(each, import_custom_modules=False) for each in (path, theirs))
    assert ours.model.backbone == theirs.model.backbone
    assert ours.model.neck == theirs.model.neck
    for key in ("constructor", "paramwise_cfg", "optimizer"):
        assert ours.optim_wrapper[key] == theirs.optim_wrapper[key]
    assert ours.model.roi_head.bbox_head.loss_cls.type == "EqualizationLoss"


#: One config of each kind of detector, backbone, box head, mask head and dataset; with options.
FAMILIES = {
    "eql/mask-rcnn_r50_c4_eql_16xb2-25e_lvis-v0.5.py": "",
    "eql/mask-rcnn_r50_fpn_eql-image-labels_16xb2-25e_lvis-v0.5.py": "",
    "eql/mask-rcnn_r50_fpn_eql-rfs-copy-paste_8xb2-2x_lvis-v1.py": "",
    "eql/mask-rcnn_x101-64x4d_fpn_eql_8xb2-1x_lvis-v1.py": "",
    "eql/cascade-mask-rcnn_r101_fpn_eql_8xb2-1x_lvis-v1.py": "",
    "eql/htc_r50_fpn_eql_16xb2-25e_lvis-v0.5.py": "",
    "lvis_challenge_2019/htc_x101-64x4d-dconv-c3-c5_fpn_eql-rfs_ms-16xb2-25e_lvis-v0.5.py": "",
    "custom/faster-rcnn_r50_fpn_eql_8xb2-1x_custom.py": "",
    "openimages/faster-rcnn_r50_fpn_eqlv2_32xb2-1x_openimages-challenge2019.py": "",
    **{
        f"{path.relative_to(CONFIGS)} {name}": " ".join(map(shlex.quote, options))
        for name, path, options in variants()
        if "mask" in name or "semantic" in name
    },
}


@pytest.mark.parametrize("name", FAMILIES)
def test_a_training_step_of_each_family(name, tiny_folder):
    """tests/heads/test_detectors.py has a step of each loss."""
    path, options = CONFIGS / name.partition(" ")[0], shlex.split(FAMILIES[name])
    cfg = with_options(path, options) if options else read(path)
    cfg = shrink(cfg, tiny_folder(cfg.train_dataloader.dataset))
    model, dataset = build(cfg)
    total, logged = model.parse_losses(model.train()(**batch_of(model, dataset), mode="loss"))
    total.backward()
    assert torch.isfinite(total)
    semantic = name_of(path)["detector"] == "htc" and "without" not in name
    assert ("loss_semantic_seg" in logged) == semantic
    for head in heads_of(model.roi_head.bbox_head):
        assert head.fc_cls.weight.grad.abs().sum() > 0
    for weight in model.backbone.parameters():
        assert weight.grad is not None or not weight.requires_grad


@every_experiment
def test_everything_in_it_is_read(path):
    assert config_checks.unread_keys(path) == []
    assert config_checks.depth_of(path) <= 3


def test_no_experiment_is_another():
    texts = {}
    for path in EXPERIMENTS:
        texts.setdefault(repr(read(path)._cfg_dict), []).append(path.name)
    assert [names for names in texts.values() if len(names) > 1] == []


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


@pytest.mark.parametrize("path", sorted((CONFIGS / "studies").glob("*.yaml")), ids=lambda p: p.stem)
def test_the_options_of_a_study_fit_its_configs(path):
    for entry in read_entries(path):
        cfg = copy.deepcopy(read(REPOSITORY / entry.config))
        cfg.merge_from_dict(copy.deepcopy(entry.options))
        assert config_checks.unread_keys(REPOSITORY / entry.config, cfg) == []
        once(build_model, cfg.model)


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
    paths = [
        *(CONFIGS / "ablations").glob("*lambda*"),
        CONFIGS / "eql" / "mask-rcnn_r50_fpn_eql_16xb2-25e_lvis-v0.5.py",
    ]
    assert len(paths) == 8
    for path in paths:
        text = path.read_text()
        ratio = float(re.search(r"# .*Tail ratio: ([\d.]+) %\.", text).group(1))
        lambda_ = float(re.search(r"lambda_=([\d.e-]+)", text).group(1))
        assert ratio == pytest.approx(100 * freq.tail_ratio(lambda_), abs=0.005)


READMES = sorted(CONFIGS.glob("*/README.md"))
DOCUMENTS = [
    *(REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md")), *READMES),
]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_the_documents_name_configs_that_exist(document):
    for link in re.findall(r"\]\(([^)#:\s]*(?:configs/[^)#]*|\.py))\)", document.read_text()):
        assert (document.parent / link).exists(), link


@pytest.mark.parametrize(
    "folder", sorted({path.parent for path in EXPERIMENTS}), ids=lambda p: p.name
)
def test_a_readme_names_each_experiment(folder):
    # Folders within configs/minilvis have that folder's.
    readme = (folder if folder.parent == CONFIGS else folder.parent) / "README.md"
    text = readme.read_text()
    missing = [path.name for path in folder.glob("*.py") if path.name not in text]
    assert missing == []
