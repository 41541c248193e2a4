"""torchvision's models for small images: their sizes, their stems, training and scoring."""

import warnings
from urllib.error import URLError

import pytest
import torch
from torch import nn

from goldiprox.config import TrainConfig
from goldiprox.evidence.flops import parameter_count
from goldiprox.evidence.forward import ScoringPass
from goldiprox.models.registry import build_model, model_factory
from goldiprox.models.zoo import ZOO_MODELS
from goldiprox.schema import ConfigError
from goldiprox.training.loop import train

pytest.importorskip("torchvision")

COLOUR = (3, 32, 32)
SMALL = [name for name in ZOO_MODELS if not name.endswith("-pretrained")]

# Published ImageNet counts, less the changes by hand: stem 7x7 -> 3x3 (9,408 -> 1,728), the
# head for 1,000 classes -> 10.
PARAMETERS = {
    "resnet34": 21_797_672 - 9_408 + 1_728 - 513 * 1000 + 513 * 10,
    "resnet50": 25_557_032 - 9_408 + 1_728 - 2049 * 1000 + 2049 * 10,
    "densenet121": 7_978_856 - 9_408 + 1_728 - 1025 * 1000 + 1025 * 10,
    "mobilenet-v2": 3_504_872 - 1281 * 1000 + 1281 * 10,
    # A single position enters the first of VGG's three linear layers instead of 49.
    "vgg11-bn": 132_868_840 - 48 * 512 * 4096 - 4097 * 1000 + 4097 * 10,
    # The three convolutions of GoogLeNet's stem, each with its norm, become one of 192 channels.
    "googlenet": 6_624_904 - 1025 * 990 - (9_408 + 128 + 4_096 + 128 + 110_592 + 384)
    + (3 * 9 * 192 + 384),
    # Inception's five likewise; its count is without the auxiliary head.
    "inception-v3": 23_834_568 - 2049 * 990
    - (864 + 64 + 9_216 + 64 + 18_432 + 128 + 5_120 + 160 + 138_240 + 384)
    + (3 * 9 * 192 + 384),
}  # fmt: skip


def make(name, shape=COLOUR, classes=10):
    return build_model(model_factory(name), shape, classes, 0)


@pytest.mark.parametrize("name", SMALL)
def test_sizes_are_the_published_ones_less_what_was_changed(name):
    with torch.device("meta"):
        assert parameter_count(make(name)) == PARAMETERS[name]


@pytest.mark.parametrize("name", SMALL)
def test_images_that_are_too_small_and_texts_are_refused(name):
    with pytest.raises(ConfigError, match=f"{name} needs images of at least 32x32 .*--model mlp"):
        make(name, (1, 28, 28))
    with pytest.raises(ConfigError, match="takes images and these examples are texts"):
        model_factory(name, text=True)


def test_a_narrow_model_of_the_zoo_trains_on_grey_images(make_task):
    task = make_task(count=12, shape=(1, 32, 32))
    settings = TrainConfig(
        model="mobilenet-v2", method="loss", batch=4, pool=12, epochs=1, device="cpu"
    )
    assert train(settings, task).steps == 1


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_all_train_a_step_and_one_table_serves_them(name, make_task, make_table):
    task = make_task(count=12, shape=COLOUR, augment=True)
    table = make_table(task.train.ids_N)
    settings = TrainConfig(model=name, method="rho-loss", batch=4, pool=12, epochs=1, device="cpu")
    found = train(settings, task, irreducible=table)
    batch = found.feeder(task.train, torch.arange(12))
    scoring = ScoringPass(found.model, batchnorm="batch")
    evidence = scoring(batch, {"loss_B", "features_BD", "grad_norm_last_layer_B"})
    assert evidence.loss_B.shape == (12,)
    assert evidence.features_BD.shape[0] == 12
    assert bool(evidence.grad_norm_last_layer_B.isfinite().all())


@pytest.fixture
def downloads(tmp_path, monkeypatch):
    """Torch's folder for downloads, and a network that is down."""

    def down(*args, **kwargs):
        raise URLError("no route")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.download_url_to_file", down)
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


def test_weights_that_cannot_be_had_are_named_with_their_place(downloads):
    with pytest.raises(ConfigError, match=r"put resnet18-f37072fd\.pth .* into .*checkpoints"):
        make("resnet18-pretrained")


def test_pretrained_weights_are_taken_from_their_file(downloads):
    from torchvision.models import resnet18

    torch.manual_seed(0)
    published = resnet18().eval()
    torch.save(published.state_dict(), downloads / "resnet18-f37072fd.pth")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = make("resnet18-pretrained", (3, 64, 64), 7).eval()
        grey = make("resnet18-pretrained", (1, 64, 64), 7).eval()
    assert model.fc.out_features == 7
    published.fc, model.fc, grey.fc = nn.Identity(), nn.Identity(), nn.Identity()
    images = torch.randn(2, 1, 64, 64)
    wanted = published(images.expand(-1, 3, -1, -1))
    torch.testing.assert_close(model(images.expand(-1, 3, -1, -1)), wanted)
    torch.testing.assert_close(grey(images), wanted, rtol=1e-3, atol=1e-4)
