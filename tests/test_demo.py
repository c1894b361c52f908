"""The demo, in seconds instead of minutes."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from fastmaml import MAML, cli, demo
from fastmaml.demo.baseline import fine_tuned
from fastmaml.demo.display import LINES
from fastmaml.demo.evaluation import Accuracy, Learner, accuracy, nearest_image_accuracy
from fastmaml.demo.model import classifier
from fastmaml.demo.plain_loop import compare
from fastmaml.tasks import ClassDataset

pytest.importorskip("matplotlib")
pytest.importorskip("rich")
Image = pytest.importorskip("PIL.Image")


@pytest.fixture(scope="module", autouse=True)
def glyph_cache(request: pytest.FixtureRequest) -> Iterator[None]:
    """The glyphs are drawn once, and kept beside pytest's own files."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FASTMAML_CACHE", str(request.config.cache.mkdir("glyphs")))
        yield


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> demo.Report:
    """A report of the fast demo."""
    output = tmp_path_factory.mktemp("demo") / "demo.png"
    settings = dataclasses.replace(demo.FAST, output=output)
    return demo.run(settings, demo.load(settings), demo.Display())


def test_training_gets_well_above_chance(ran):
    assert ran.chance == 0.2
    assert abs(ran.before.mean - ran.chance) < 0.1
    assert ran.maml.mean - ran.maml.interval > 0.7
    assert min(each.accuracy.mean for each in ran.baselines) > 0.4


def test_the_report_is_consistent(ran):
    baselines = [each.accuracy for each in ran.baselines]
    for each in (ran.nearest_image, *baselines, ran.before, ran.maml):
        assert each.tasks == ran.settings.test_tasks
        assert 0 < each.interval < 0.05
    assert ran.plain_seconds == ran.settings.iterations * ran.timing.plain
    assert min(ran.maml_seconds, ran.ordinary_seconds, ran.timing.fastmaml) > 0
    text = str(ran)
    for value in (ran.nearest_image, *baselines, ran.maml, ran.maml_learner):
        assert str(value) in text
    assert set(ran.scripts) == {"Armenian", "Georgian", "Lao"}
    assert f"executor: {ran.plan.executor}" in text


def test_the_picture_is_a_png_with_all_kinds_of_cells(ran):
    with Image.open(ran.settings.output) as image:
        assert image.format == "PNG"
        assert 1000 < image.width < 3000
        assert 1000 < image.height < 3000
        pixels = np.asarray(image.convert("RGB")).astype(int) @ (65536, 256, 1)
    for colour in ("#ffffff", demo.picture.RIGHT[0], demo.picture.WRONG[0]):
        assert (pixels == int(colour[1:], 16)).any()


def test_the_command_prints_the_report_and_little_else(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    arguments = "--fast --iterations 8 --way 3 --shot 2 --steps 2 --seed 5 --threads 1"
    threads = torch.get_num_threads()
    try:
        assert cli.main(["demo", *arguments.split()]) == 0
    finally:
        torch.set_num_threads(threads)
    out, err = capsys.readouterr()
    assert out.lstrip().startswith("3-way 2-shot")
    assert "chance              33.3%" in out
    assert "inner steps: 2, threads: 1" in out
    assert out.endswith("picture: demo.png\n")
    assert Path("demo.png").stat().st_size > 10_000
    assert [line for line in err.splitlines() if line.startswith("MAML ")][-1].startswith(
        "MAML                8/8 loss "
    )
    assert sum("/8 loss" in line for line in err.splitlines()) == 2 * LINES  # MAML and ordinary


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("--way", "31"), "way must be at most 30, the letters of the smallest test script, Lao"),
        (("--shot", "6"), "shot + query is 6 + 3 = 9"),
    ],
)
def test_the_demo_refuses_more_than_there_is(capsys, tmp_path, arguments, text):
    with pytest.raises(SystemExit) as ending:
        cli.main(["demo", "--fast", "--output", str(tmp_path / "demo.png"), *arguments])
    assert ending.value.code == 2
    assert text in capsys.readouterr().err


@pytest.fixture
def letters() -> ClassDataset:
    """Nine random images, eight noisy samples of each."""
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(9, 1, 1, 28, 28, generator=generator)
    return ClassDataset(images + 0.1 * torch.rand(9, 8, 1, 28, 28, generator=generator))


def test_both_loops_take_the_same_meta_gradient(letters):
    torch.manual_seed(0)
    maml = MAML(classifier(3), lr=0.1, steps=2)
    batches = [letters.episodes(3, 1, 2, tasks=4, seed=seed).sample() for seed in range(2)]
    timing = compare(maml, batches)
    assert timing.batches == 2
    assert 0 < timing.difference < 1e-6
    assert timing.plain > 0
    assert timing.fastmaml > 0


def test_gradients_that_differ_are_no_comparison(letters):
    torch.manual_seed(0)
    maml = MAML(classifier(3), lr=0.1, steps=2, first_order=True)
    with pytest.raises(RuntimeError, match="meta-gradients of fastmaml and of the plain loop"):
        compare(maml, [letters.episodes(3, 1, 2, tasks=2).sample()])


def test_kept_statistics_are_those_of_evaluation(letters):
    torch.manual_seed(0)
    model = classifier(9)
    model(letters.inputs)  # in training: running statistics
    by_task, kept = (
        [learner.model for learner in fine_tuned(model, 3, keep_statistics=keep)]
        for keep in (False, True)
    )
    assert len({*by_task, *kept}) == 2
    kept = kept[0]
    assert any(isinstance(layer, torch.nn.BatchNorm1d) for layer in by_task[0])
    assert not any(isinstance(layer, torch.nn.BatchNorm1d) for layer in kept)
    x = letters.inputs[:7]
    torch.testing.assert_close(kept[:-1](x), model.eval()[:-1](x))
    assert kept(x).count_nonzero() == 0


def test_fine_tuning_learns_a_task(letters):
    torch.manual_seed(0)
    model = classifier(9)
    model(letters.inputs)
    episodes = letters.episodes(3, 1, 2, tasks=20).sample()
    for keep in (False, True):
        learners = list(fine_tuned(model, 3, keep_statistics=keep))
        assert max(accuracy(learner, [episodes]).mean for learner in learners) > 0.9
        assert accuracy(dataclasses.replace(learners[0], steps=0), [episodes]).mean == 1 / 3
    assert nearest_image_accuracy([episodes]).mean == 1


def test_an_accuracy_is_a_mean_over_tasks():
    correct = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [0, 0, 1, 1]], dtype=torch.bool)
    got = Accuracy.of([correct[:2], correct[2:]])
    assert got.tasks == 3
    assert got.mean == pytest.approx(2 / 3)
    assert got.interval == pytest.approx(1.96 * np.std([1, 0.5, 0.5], ddof=1) / 3**0.5)
    assert str(Accuracy(0.953, 0.0042, 600)) == "95.3% ± 0.4"


def test_a_learner_says_how_it_adapts():
    model = classifier(3)
    assert str(Learner(model, 0.4, 1)) == "1 step at rate 0.4, all layers"
    assert str(Learner(model, 0.1, 20, "4.*", "x")) == "20 steps at rate 0.1, head alone, x"
