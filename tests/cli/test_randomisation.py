"""``fastcam randomisation``: the verdict that the function gives, and a plot."""

import pytest
from PIL import Image

import fastcam
from tests.cli.command_line import SMALL, run, sentence, square

pytestmark = pytest.mark.usefixtures("one_thread")


def test_verdicts_and_a_plot(work):
    for name in ("red", "lime", "blue"):
        square(work / "photos" / f"{name}.png", name)
    (work / "photos" / "broken.png").write_bytes(b"nothing")
    given = ["--layer", "0", "--method", "grad_cam", "--method", "input_x_gradient", "--plot", "plot.png"]
    done = run("randomisation", "photos", *SMALL, *given)
    assert done.exit_code == 1, done.output
    assert "broken.png: " in done.stderr
    import small_model_of_a_test

    model = small_model_of_a_test.build()
    images = fastcam.load_images([f"photos/{name}.png" for name in ("blue", "lime", "red")], model)
    for method, layer in (("grad_cam", "0"), ("input_x_gradient", None)):
        expected = fastcam.evaluate.randomisation(model.eval(), images, method, target_layer=layer)
        assert expected.verdict in done.stdout
        for mean in expected.similarity["spearman"].nanmean(1).tolist():
            assert f"{mean:.3f}" in done.stdout
    width, height = Image.open("plot.png").size
    assert height > width  # a panel a method


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["photos", *SMALL], "no pictures were found"),
        (["red.png", *SMALL, "--randomise", "1"], "layer '1' has no weights that could be random"),
        (["red.png", *SMALL, "--method", "grad"], "--method must be one of"),
        (["red.png", *SMALL, "--plot", "red.png/plot.png"], "the folder of --plot must be a folder"),
    ],
)
def test_mistakes_are_one_sentence(work, arguments, text):
    square(work / "red.png", "red")
    (work / "photos").mkdir()
    assert text in sentence(run("randomisation", *arguments, "--layer", "0"), 2)
