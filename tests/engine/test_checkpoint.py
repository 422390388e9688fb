"""Checkpoints are loaded without running code, through mmengine's own entry point."""

import functools
import os
import pickle
import re
import sys
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.logging import HistoryBuffer, MessageHub
from mmengine.runner import CheckpointLoader

import mmdet_eql  # noqa: F401 - registers the loaders
from mmdet_eql.engine import convert_checkpoint, load_checkpoint_file
from mmdet_eql.engine.checkpoint import address_of
from mmdet_eql.engine.launch import fetch_weights
from mmdet_eql.utils.errors import UserError
from tests.conftest import CONFIGS


def load(path) -> dict:
    return CheckpointLoader.load_checkpoint(str(path), map_location="cpu", logger="silent")


def honest_checkpoint() -> dict:
    hub = MessageHub.get_instance("test_checkpoint")
    for value in (1.0, 2.0):
        hub.update_scalar("train/loss", value)
    hub.update_info("iter", 2)
    return dict(
        state_dict=dict(weight=torch.arange(3.0)),
        meta=dict(epoch=0, iter=2, dataset_meta=dict(classes=("a", "b")), best=np.float64(0.5)),
        message_hub=hub.state_dict(),
        optimizer=dict(state={}, param_groups=[dict(lr=0.1, params=[0])]),
        statistics=np.arange(4, dtype=np.int64),
    )


class Call:
    """Pickles into a call of a function, as a hostile file would."""

    def __init__(self, function, *args):
        self.function, self.args = function, args

    def __reduce__(self):
        return self.function, self.args


def test_what_a_training_run_stores_is_loaded(tmp_path):
    path = tmp_path / "iter_2.pth"
    torch.save(honest_checkpoint(), path)
    checkpoint = load(path)
    assert torch.equal(checkpoint["state_dict"]["weight"], torch.arange(3.0))
    history = checkpoint["message_hub"]["log_scalars"]["train/loss"]
    assert isinstance(history, HistoryBuffer)
    assert history.data[0].tolist() == [1.0, 2.0]
    assert history.statistics("mean") == 1.5
    assert checkpoint["meta"]["best"] == 0.5
    assert checkpoint["statistics"].tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("payload", "asked"),
    [
        (Call(os.system, "touch {}"), "system"),
        (Call(eval, "open('{}', 'w')"), "eval"),
        (Call(getattr, torch.Tensor, "map_"), "getattr"),
        (Call(getattr, HistoryBuffer, "__init__"), "getattr"),
        (Call(pickle.loads, b""), "loads"),
    ],
)
def test_a_hostile_checkpoint_is_refused_unrun(tmp_path, payload, asked):
    path, touched = tmp_path / "hostile.pth", tmp_path / "touched"
    payload.args = tuple(
        arg.format(touched) if isinstance(arg, str) else arg for arg in payload.args
    )
    torch.save(dict(state_dict=dict(weight=torch.zeros(1)), extra=payload), path)
    with pytest.raises(UserError) as error:
        load(path)
    assert not touched.exists()
    assert str(path) in str(error.value)
    assert asked in str(error.value)
    assert "convert_checkpoint.py" in str(error.value)
    assert "\n" not in str(error.value)
    assert "TORCH_FORCE_WEIGHTS_ONLY_LOAD" not in os.environ


def test_a_program_for_resume_is_left_out(tmp_path):
    path = tmp_path / "program.pth"
    meta = dict(config="import os", CLASSES=("a", "b"))
    torch.save(dict(state_dict=dict(weight=torch.arange(3.0)), meta=meta), path)
    checkpoint = load(path)
    assert checkpoint["meta"] == dict(CLASSES=("a", "b"))
    assert torch.equal(checkpoint["state_dict"]["weight"], torch.arange(3.0))


def test_a_cut_off_checkpoint_is_named(tmp_path):
    path = tmp_path / "cut.pth"
    torch.save(honest_checkpoint(), path)
    content = path.read_bytes()
    for kept in (0, 10, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:kept])
        with pytest.raises(UserError, match=r"cut\.pth: is not a readable checkpoint"):
            load(path)


def test_not_a_checkpoint(tmp_path):
    path = tmp_path / "model.pth"
    with pytest.raises(UserError, match="no such checkpoint"):
        load(path)
    path.write_text("hello")
    with pytest.raises(UserError, match="not a readable checkpoint"):
        load(path)
    torch.save([1, 2], path)
    with pytest.raises(UserError, match="holds a list"):
        load(path)


def test_conversion_keeps_what_is_plain(tmp_path):
    source, target = tmp_path / "source.pth", tmp_path / "target.pth"
    checkpoint = honest_checkpoint()
    checkpoint["meta"]["config"] = "a = 1"
    checkpoint["meta"]["when"] = Call(print, "converted")
    torch.save(checkpoint, source)
    dropped = convert_checkpoint(str(source), str(target))
    assert "meta.config" in dropped
    clean = load_checkpoint_file(str(target))
    assert torch.equal(clean["state_dict"]["weight"], torch.arange(3.0))
    assert clean["meta"]["dataset_meta"] == dict(classes=("a", "b"))
    assert "config" not in clean["meta"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source.pth", "target.pth"]
    with pytest.raises(UserError, match="exists already"):
        convert_checkpoint(str(source), str(target))


def test_conversion_of_something_else(tmp_path):
    source, target = tmp_path / "source.pth", tmp_path / "target.pth"
    torch.save(dict(state_dict=dict(name="no tensor")), source)
    with pytest.raises(UserError, match="no dict of tensors"):
        convert_checkpoint(str(source), str(target))
    assert not target.exists()


def test_every_scheme_is_guarded(monkeypatch, tmp_path):
    """A file that comes by URL is unpickled as carefully as a local one."""
    path, touched = tmp_path / "hostile.pth", tmp_path / "touched"
    torch.save(dict(state_dict={}, extra=Call(os.system, f"touch {touched}")), path)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    hub = tmp_path / "hub" / "checkpoints"
    hub.mkdir(parents=True)
    path.rename(hub / "hostile.pth")  # where torch.hub keeps what it has downloaded
    with pytest.raises(UserError, match=r"http://localhost/hostile\.pth: refused"):
        load("http://localhost/hostile.pth")
    assert not touched.exists()


def test_weights_that_are_missing_are_downloaded_once(monkeypatch, tmp_path, capfd):
    (tmp_path / "server").mkdir()
    torch.save(honest_checkpoint(), tmp_path / "server" / "a.pth")
    handler = functools.partial(SimpleHTTPRequestHandler, directory=tmp_path / "server")
    monkeypatch.setattr(handler.func, "log_message", lambda *args: None)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/a.pth"
        path = tmp_path / "hub" / "checkpoints" / "a.pth"
        assert load(url)["meta"]["iter"] == 2
        assert f"downloading {url} (0 MB) to {path}" in capfd.readouterr().err
        server.shutdown()
    assert load(url)["meta"]["iter"] == 2


def test_without_a_network_a_sentence_says_which_file_to_put_where(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    # The discard port, where nothing answers.
    cfg = Config(dict(model=dict(init_cfg=dict(type="Pretrained", checkpoint=None))))
    cfg.model.init_cfg.checkpoint = "http://localhost:9/a.pth"
    words = (
        rf"^model\.init_cfg\.checkpoint: http://localhost:9/a\.pth: .* put it at {tmp_path}/hub/"
    )
    with pytest.raises(UserError, match=words):
        fetch_weights(cfg)


def test_published_backbones_have_addresses():
    names = {
        name
        for path in CONFIGS.rglob("*.py")
        for name in re.findall(r"checkpoint=\"(\S+?://\S+?)\"", path.read_text())
    }
    assert {"torchvision://resnet101", "open-mmlab://resnext101_64x4d"} < names
    assert all(re.fullmatch(r"https://\S+\.pth", address_of(name)) for name in names)


def test_names_of_backbones(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    # torchvision itself is not needed.
    monkeypatch.setitem(sys.modules, "torchvision", None)
    url = address_of("torchvision://resnet50")
    assert url == "https://download.pytorch.org/models/resnet50-0676ba61.pth"
    assert address_of("open-mmlab://resnext101_64x4d").endswith("resnext101_64x4d-ee2c6f71.pth")
    assert address_of("weights.pth") == "weights.pth"
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    weights = {"conv1.weight": torch.zeros(1), "fc.weight": torch.zeros(1)}
    torch.save(weights, tmp_path / "hub" / "checkpoints" / "resnet50-0676ba61.pth")
    assert list(load("torchvision://resnet50")) == ["conv1.weight"]
    for name in ("torchvision://resnet9", "open-mmlab://resnet9", "pavi://resnet9"):
        with pytest.raises(UserError, match=f"{name}: "):
            load(name)
