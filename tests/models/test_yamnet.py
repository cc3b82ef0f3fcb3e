from __future__ import annotations

import copy
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import soundfile
import torch
from asserts import assert_equals_masked_dense
from torch import Tensor, nn
from torch.nn import functional

from lightning_cosprune import apply_plan, load_pruned, measure_complexity, plan_pruning
from lightning_cosprune.models import YAMNet, log_mel_patches, read_class_names
from lightning_cosprune.models.yamnet import WIDTHS
from lightning_cosprune.models.yamnet_patches import mel_filters
from lightning_cosprune.models.yamnet_tflite import read_tflite
from recipes.repair import yamnet_esc10

SHARED = Path(__file__).resolve().parents[3] / "shared"
published = pytest.mark.skipif(
    not (SHARED / "weights" / "yamnet.pt").is_file(), reason="the weights of YAMNet are not at ../shared/weights"
)
NARROW = (8, 12, 8, 8, 16, 8, 8, 12, 8, 8, 8, 8, 16, 12)
PATCH = torch.zeros(1, 1, 96, 64)


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


# The network


def test_counts_as_published() -> None:
    complexity = measure_complexity(YAMNet(), PATCH)
    assert complexity.params == complexity.trainable_params == 3_729_481
    assert complexity.macs == 69_165_056


def test_widths_of_a_pruned_network_make_its_size() -> None:
    widths = tuple(width - width // 4 for width in WIDTHS)
    complexity = measure_complexity(YAMNet(10, widths), PATCH)
    assert complexity.params == 2_208_569 - 511 * 769


@pytest.mark.parametrize(("frames", "bands"), [(96, 64), (97, 64), (250, 63), (33, 33)])
def test_pads_as_tensorflow_does(frames: int, bands: int) -> None:
    network = YAMNet(7, NARROW).double().eval()
    x = normal(2, 1, frames, bands, dtype=torch.float64)
    torch.testing.assert_close(network(x), _literal(network, x), rtol=1e-12, atol=1e-12)


def _literal(network: YAMNet, x: Tensor) -> Tensor:
    """The table of the network, with the padding of TensorFlow's documentation written out."""
    layers = [network.layer1.conv]
    for number in range(2, 15):
        layer = network.get_submodule(f"layer{number}")
        layers += [layer.depthwise, layer.pointwise]
    for number, layer in enumerate(layers):
        stride = 2 if number in {0, 3, 7, 11, 23} else 1
        kernel = layer.weight.shape[-1]
        padding: list[int] = []
        for size in (x.shape[3], x.shape[2]):
            total = max((math.ceil(size / stride) - 1) * stride + kernel - size, 0)
            padding += [total // 2, total - total // 2]
        groups = 1 if layer.weight.shape[1] > 1 or number == 0 else len(layer.weight)
        x = functional.conv2d(functional.pad(x, padding), layer.weight, layer.bias, stride, groups=groups)
        x = x.clamp(0, 6)
    return x.flatten(2).mean(dim=2) @ network.classifier.weight.T + network.classifier.bias


@pytest.mark.parametrize("widths", [(), WIDTHS[1:], (*WIDTHS[1:], 0)])
def test_wrong_widths_are_refused(widths: tuple[int, ...]) -> None:
    with pytest.raises(
        ValueError, match=rf"YAMNet\(widths=.*expected 14 positive.*found {0 if 0 in widths else len(widths)}"
    ):
        YAMNet(widths=widths)


def test_no_classes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"num_classes=0.*at least 1"):
        YAMNet(0)


# Pruning


def test_every_pointwise_convolution_is_pruned_and_none_refused() -> None:
    dense = YAMNet(7, NARROW).eval()
    with torch.no_grad():
        for name, parameter in dense.named_parameters():
            parameter.mul_(3 if name.endswith("weight") else 1)  # so that the input reaches the output
    pruned, example = copy.deepcopy(dense), normal(2, 1, 96, 64)
    plan = plan_pruning(pruned, example[:1], pruning_ratio=0.25)
    report = apply_plan(pruned, plan, example[:1])

    assert list(plan.skipped) == ["classifier"]
    assert {name: len(removed) for name, removed in plan.pruned.items()} == {
        "layer1.conv" if number == 1 else f"layer{number}.pointwise": width // 4
        for number, width in enumerate(NARROW, start=1)
    }
    kept = tuple(width - width // 4 for width in NARROW)
    assert report.after == measure_complexity(YAMNet(7, kept), PATCH)
    assert pruned(example).std() > 0
    removed = {layer.name: list(layer.pruned_idxs) for layer in report.layers}
    assert_equals_masked_dense(dense, pruned, removed, example)


def test_pruned_weights_load(tmp_path: Path) -> None:
    pruned = YAMNet(7, NARROW).eval()
    apply_plan(pruned, plan_pruning(pruned, PATCH, layers=["layer[123].*"], pruning_ratio=0.25), PATCH)
    torch.save(pruned.state_dict(), tmp_path / "pruned.pt")
    loaded = load_pruned(YAMNet, tmp_path / "pruned.pt", num_classes=7, widths=NARROW).eval()
    assert loaded.layer3.pointwise.out_channels == 6
    example = normal(1, 1, 96, 64)
    assert torch.equal(loaded(example), pruned(example))


# Published weights


def test_state_dict_loads(tmp_path: Path) -> None:
    network = YAMNet()
    torch.save(network.state_dict(), tmp_path / "yamnet.pt")
    for name, tensor in YAMNet.from_pretrained(tmp_path / "yamnet.pt").state_dict().items():
        assert torch.equal(tensor, network.state_dict()[name]), name


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"from_pretrained\(path='.*nowhere.pt'\).*found no file.*download"):
        YAMNet.from_pretrained(tmp_path / "nowhere.pt")
    with pytest.raises(FileNotFoundError, match="found a folder"):
        YAMNet.from_pretrained(str(tmp_path))


@pytest.mark.parametrize("content", [b"", b"no weights", b"\x1c\x00\x00\x00TFL3", b"\x1c\x00\x00\x00TFL3" + bytes(80)])
def test_damaged_file_is_named(content: bytes, tmp_path: Path) -> None:
    if b"TFL3" in content:
        pytest.importorskip("tflite")
    path = tmp_path / "yamnet.pt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"from_pretrained\(path='.*yamnet.pt'\)`: expected .* found .*Download"):
        YAMNet.from_pretrained(path)


def _without_classifier(state: dict[str, Tensor]) -> Any:
    return {name: tensor for name, tensor in state.items() if name != "classifier.bias"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: list(state.values()), "expected a state dict, found list"),
        (_without_classifier, "expected the 57 tensors of YAMNet, found 56, no classifier.bias"),
        (lambda state: {**state, "fc.weight": torch.zeros(1)}, "found 58, the unknown fc.weight"),
        (
            lambda state: {"state_dict": state},
            r"found 1, no mel_filters, .* and 51 more and the unknown state_dict.*checkpoint",
        ),
        (
            lambda state: {**state, "classifier.bias": torch.zeros(10)},
            r"expected classifier.bias of shape \(521,\), found \(10,\). .*load_pruned\(YAMNet, path\)",
        ),
        (
            lambda state: {**state, "classifier.bias": 0},
            r"expected classifier.bias of shape \(521,\), found a value of type int",
        ),
    ],
)
def test_other_weights_are_refused(change: Any, message: str, tmp_path: Path) -> None:
    torch.save(change(dict(YAMNet().state_dict())), tmp_path / "other.pt")
    with pytest.raises(ValueError, match=message):
        YAMNet.from_pretrained(tmp_path / "other.pt")


def test_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "yamnet.tflite"
    path.write_bytes(b"\x1c\x00\x00\x00TFL3")
    monkeypatch.setitem(sys.modules, "tflite", None)
    with pytest.raises(ImportError, match=r"yamnet.tflite.*pip install 'lightning-cosprune\[tflite\]'"):
        YAMNet.from_pretrained(path)


def test_tflite_is_dequantised(tmp_path: Path) -> None:
    """A file that is written here, of two layers: each number by hand."""
    tflite: Any = pytest.importorskip("tflite")
    rng = np.random.default_rng(0)

    def bytes_of(*shape: int) -> npt.NDArray[np.int8]:
        return rng.integers(-128, 128, shape).astype(np.int8)

    mel = rng.random((4, 5), dtype=np.float32)
    conv, depthwise, pointwise, classifier = (
        bytes_of(2, 3, 3, 1),
        bytes_of(1, 3, 3, 2),
        bytes_of(3, 1, 1, 2),
        bytes_of(5, 3),
    )
    bias = np.array([2**31 - 1, -(2**24) - 1, 3], dtype=np.int32)
    scales = np.array([0.1, 0.003, 7.0], dtype=np.float32)
    one = np.array([0.01], dtype=np.float32)
    operators = tflite.BuiltinOperator
    path = tmp_path / "small.tflite"
    path.write_bytes(
        _tflite(
            tflite,
            [
                (operators.FULLY_CONNECTED, [(mel, None, None, 0), (mel[:, 0], None, None, 0)]),
                (operators.LOG, []),
                (operators.CONV_2D, [(conv, scales[:2], [3, -4], 0), (bias[:2], scales[:2], [0, 0], 0)]),
                (operators.DEPTHWISE_CONV_2D, [(depthwise, scales[:2], [0, 0], 3), (bias[:2], scales[:2], [0, 0], 0)]),
                (operators.CONV_2D, [(pointwise, scales, [0, 0, 0], 0), (bias, scales, [0, 0, 0], 0)]),
                (operators.FULLY_CONNECTED, [(classifier, one, [1], 0), (bias, one, [0], 0)]),
            ],
        )
    )
    exact = scales.astype(np.float64)
    expected = {
        "mel_filters": mel,
        "layer1.conv.weight": (conv[..., 0] - np.array([3, -4])[:, None, None])[:, None] * exact[:2, None, None, None],
        "layer1.conv.bias": bias[:2] * exact[:2],
        "layer2.depthwise.weight": np.stack([depthwise[0, :, :, channel] * exact[channel] for channel in (0, 1)])[
            :, None
        ],
        "layer2.depthwise.bias": bias[:2] * exact[:2],
        "layer2.pointwise.weight": (pointwise[:, 0, 0] * exact[:, None])[:, :, None, None],
        "layer2.pointwise.bias": bias * exact,
        "classifier.weight": (classifier.astype(int) - 1) * one.astype(np.float64),
        "classifier.bias": bias * one.astype(np.float64),
    }
    found = read_tflite(path, "`test`")
    assert list(found) == list(expected)
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name].numpy(), array.astype(np.float32), err_msg=name)


Constant = tuple[npt.NDArray[Any], Any, Any, int]


def _tflite(tflite: Any, operators: list[tuple[int, list[Constant]]]) -> bytes:
    """A model of these operators, each with its constants as second and third input."""
    from flatbuffers import Builder

    builder = Builder(0)

    def table(name: str, **fields: Any) -> int:
        getattr(tflite, f"{name}Start")(builder)
        for field, value in fields.items():
            getattr(tflite, f"{name}Add{field}")(builder, value)
        offset: int = getattr(tflite, f"{name}End")(builder)
        return offset

    def offsets(items: list[int]) -> int:
        builder.StartVector(4, len(items), 4)
        for item in reversed(items):
            builder.PrependUOffsetTRelative(item)
        end: int = builder.EndVector()
        return end

    def numbers(values: Any, dtype: str) -> int:
        offset: int = builder.CreateNumpyVector(np.asarray(values).astype(dtype).ravel())
        return offset

    types = {"f": tflite.TensorType.FLOAT32, "b": tflite.TensorType.INT8, "i": tflite.TensorType.INT32}
    buffers = [table("Buffer")]
    tensors = [table("Tensor", Shape=numbers([1], "i4"), Buffer=0)]
    calls, codes = [], []
    for kind, constants in operators:
        places = [0]
        for array, scale, zero, dimension in constants:
            quantization = {}
            if scale is not None:
                scale, zero = numbers(scale, "f4"), numbers(zero, "i8")
                parameters = table("QuantizationParameters", Scale=scale, ZeroPoint=zero, QuantizedDimension=dimension)
                quantization = {"Quantization": parameters}
            content = builder.CreateNumpyVector(np.frombuffer(array.tobytes(), dtype=np.uint8))
            buffers.append(table("Buffer", Data=content))
            shape = numbers(array.shape, "i4")
            kind_of = types[array.dtype.char]
            tensors.append(table("Tensor", Shape=shape, Type=kind_of, Buffer=len(buffers) - 1, **quantization))
            places.append(len(tensors) - 1)
        inputs = numbers(places, "i4")
        codes.append(table("OperatorCode", BuiltinCode=kind, DeprecatedBuiltinCode=min(kind, 127)))
        calls.append(table("Operator", OpcodeIndex=len(codes) - 1, Inputs=inputs))
    graph = table("SubGraph", Tensors=offsets(tensors), Operators=offsets(calls))
    model = table("Model", OperatorCodes=offsets(codes), Subgraphs=offsets([graph]), Buffers=offsets(buffers))
    builder.Finish(model, file_identifier=b"TFL3")
    return bytes(builder.Output())


@published
def test_published_file_gives_the_published_weights() -> None:
    pytest.importorskip("tflite")
    expected = YAMNet.from_pretrained(SHARED / "weights" / "yamnet.pt").state_dict()
    found = YAMNet.from_pretrained(SHARED / "weights" / "yamnet.tflite").state_dict()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name


# The front end


def test_mel_filters_are_those_of_the_formula() -> None:
    def mel(hertz: float) -> float:
        return 1127 * math.log(1 + hertz / 700)

    step = (mel(7500) - mel(125)) / 65
    expected = np.zeros((64, 257))
    for band in range(64):
        centre = mel(125) + (band + 1) * step
        for place in range(1, 257):
            expected[band, place] = max(0, 1 - abs(mel(place * 8000 / 256) - centre) / step)
    np.testing.assert_allclose(mel_filters().numpy(), expected, atol=1e-6)


@published
def test_mel_filters_are_those_of_the_published_file() -> None:
    state = torch.load(SHARED / "weights" / "yamnet.pt", weights_only=True)
    torch.testing.assert_close(mel_filters(), state["mel_filters"], rtol=0, atol=1e-6)


@pytest.mark.parametrize("fill", [True, False])
@pytest.mark.parametrize("samples", [1, 399, 15_599, 15_600, 15_601, 23_280, 23_281, 40_000])
def test_patches_are_those_of_the_formula(samples: int, fill: bool) -> None:
    waveform = 0.1 * normal(samples, dtype=torch.float64)
    expected = _literal_patches(waveform.numpy(), fill)
    found = log_mel_patches(waveform, fill=fill)
    assert found.shape == expected.shape
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-6)
    np.testing.assert_allclose(log_mel_patches(waveform.float(), fill=fill).numpy(), expected, atol=1e-3)


def _literal_patches(waveform: npt.NDArray[np.float64], fill: bool) -> npt.NDArray[np.float64]:
    """`pad_waveform` and what follows it in the original."""
    padding = max(0, 15_600 - len(waveform))
    after_first = max(len(waveform), 15_600) - 15_600
    hops = math.ceil(after_first / 7_680) if fill else after_first // 7_680
    padding += max(0, 7_680 * hops - after_first)
    waveform = np.concatenate([waveform, np.zeros(padding)])
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 400)
    starts = range(0, len(waveform) - 399, 160)
    magnitude = np.stack([np.abs(np.fft.rfft(waveform[start : start + 400] * window, 512)) for start in starts])
    log_mel = np.log(magnitude @ mel_filters().double().numpy().T + 0.001)
    return np.stack([log_mel[None, 48 * hop : 48 * hop + 96] for hop in range(hops + 1)])


def test_patches_of_a_batch_are_those_of_its_clips() -> None:
    waveforms = normal(3, 2, 24_000)
    found = log_mel_patches(waveforms)
    assert found.shape == (3, 2, 3, 1, 96, 64)
    torch.testing.assert_close(found[1, 0], log_mel_patches(waveforms[1, 0]), rtol=0, atol=1e-4)


def test_network_makes_its_patches_itself() -> None:
    network, waveform = YAMNet(7, NARROW), normal(24_000)
    assert torch.equal(network.patches(waveform), log_mel_patches(waveform))
    assert network.patches(waveform, fill=False).shape == (2, 1, 96, 64)
    network.mel_filters.mul_(2)
    assert not torch.equal(network.patches(waveform), log_mel_patches(waveform))
    assert network.half().patches(waveform).dtype == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        assert network.patches(waveform).dtype == torch.float32


def test_patches_pass_gradients() -> None:
    waveform = normal(16_000).requires_grad_()
    log_mel_patches(waveform).sum().backward()
    assert waveform.grad is not None
    assert waveform.grad.isfinite().all()
    assert waveform.grad[:15_600].any()


@pytest.mark.parametrize(
    "waveform", [torch.zeros(0), torch.zeros(()), torch.zeros(16_000, dtype=torch.int16), torch.zeros(16_000).half()]
)
def test_what_is_no_sound_is_refused(waveform: Tensor) -> None:
    with pytest.raises(ValueError, match=r"log_mel_patches\(waveform=...\).*float32 or float64 samples.*found torch"):
        log_mel_patches(waveform)


# Class names


def test_class_names_are_read(tmp_path: Path) -> None:
    path = tmp_path / "names.csv"
    path.write_text('index,mid,display_name\n0,/m/1,Speech\n1,/m/2,"Baby cry, infant cry"\n', encoding="utf-8")
    assert read_class_names(path) == ["Speech", "Baby cry, infant cry"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "columns index and display_name, found an empty file"),
        ("index,name\n0,Speech\n", "columns index and display_name, found index, name"),
        ("index,display_name\n0,Speech\n2,Dog\n", "expected index 1 in line 3, found '2'"),
        ("index,display_name\n0,Speech\n1\n", "expected a display_name in line 3, found none"),
        ("index,display_name\n0,\xe9\n", "expected UTF-8 text, found 'utf-8' codec"),
    ],
)
def test_wrong_class_names_are_named(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "names.csv"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(ValueError, match=rf"read_class_names\(path='.*names.csv'\)`: .*{message}"):
        read_class_names(path)
    with pytest.raises(FileNotFoundError, match=r"expected yamnet_class_map\.csv, found no file"):
        read_class_names(tmp_path / "nowhere.csv")


# Zero-shot scores, recipes/repair/yamnet_esc10.py


def test_zero_shot_scores_are_the_largest_of_a_class() -> None:
    names = ["Bark", "Rain", "Dog", "Ocean"]
    classes = {"dog": ("Dog", "Bark"), "rain": ("Rain",)}
    logits = torch.tensor([[[1.0, 0.0, 3.0, 9.0], [1.0, 4.0, -3.0, 9.0]]])
    found = yamnet_esc10.zero_shot_scores(logits, names, classes)
    torch.testing.assert_close(found, torch.tensor([[1.0, 2.0]]).sigmoid())


def test_clips_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, kept = _scenes(tmp_path / "set"), tmp_path / "kept" / "patches.pt"
    clips = yamnet_esc10.load_clips(root, kept)
    assert clips.patches.shape == (10, 9, 1, 96, 64)
    assert clips.filenames == tuple(sorted(clips.filenames))
    names = list(yamnet_esc10.AUDIOSET_NAMES)
    for name, label, fold in zip(clips.filenames, clips.labels.tolist(), clips.folds.tolist(), strict=True):
        assert name == f"audio/{names[label]}-{fold}.wav"
    assert clips.folds[clips.of_fold(2, 5)].tolist() == [2, 5, 2, 5]
    assert [path.name for path in kept.parent.iterdir()] == ["patches.pt"]

    monkeypatch.setattr(yamnet_esc10, "read_clip", None)
    again = yamnet_esc10.load_clips(root, kept)
    assert torch.equal(again.patches, clips.patches)
    assert again.filenames == clips.filenames

    monkeypatch.undo()
    soundfile.write(root / clips.filenames[0], np.zeros(4_000), 8_000)
    assert torch.equal(yamnet_esc10.load_clips(root, kept).patches[0], log_mel_patches(torch.zeros(80_000), fill=False))


def _scenes(root: Path) -> Path:
    """Two classes in five folds, in DCASE layout."""
    (root / "audio").mkdir(parents=True)
    (root / "evaluation_setup").mkdir()
    rows = [(f"audio/{label}-{fold}.wav", label, fold) for fold in range(1, 6) for label in ("rain", "dog_bark")]
    meta = "filename\tscene_label\tidentifier\tsource_label\n"
    for seed, (name, label, fold) in enumerate(rows):
        soundfile.write(root / name, 0.1 * normal(8_000, seed=seed).numpy(), 8_000)
        meta += f"{name}\t{label}\t{label}{fold}\tfreesound\n"
    (root / "meta.csv").write_text(meta, encoding="utf-8")
    for number in range(1, 6):
        sides = {
            "train": [row for row in rows if row[2] != number],
            "evaluate": [row for row in rows if row[2] == number],
        }
        for side, lines in sides.items():
            text = "filename\tscene_label\n" + "".join(f"{name}\t{label}\n" for name, label, _ in lines)
            (root / "evaluation_setup" / f"fold{number}_{side}.csv").write_text(text, encoding="utf-8")
    return root


def test_clip_logits_keep_the_patches_apart() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(6, 3))
    patches = normal(5, 2, 1, 2, 3)
    found = yamnet_esc10.clip_logits(network, patches, batch_size=3)
    torch.testing.assert_close(found[4, 1], network(patches[4, 1:2])[0])


@published
@pytest.mark.slow
@pytest.mark.skipif(not (SHARED / "data" / "esc10").is_dir(), reason="ESC-10 is not at ../shared/data/esc10")
def test_zero_shot_names_the_published_number_of_clips(tmp_path: Path) -> None:
    network = YAMNet.from_pretrained(SHARED / "weights" / "yamnet.pt").eval()
    names = read_class_names(SHARED / "weights" / "yamnet_class_map.csv")
    clips = yamnet_esc10.load_clips(SHARED / "data" / "esc10", tmp_path / "patches.pt")
    logits = yamnet_esc10.clip_logits(network, clips.patches)
    assert yamnet_esc10.zero_shot_accuracy(logits, clips.labels, names) == 379 / 400
