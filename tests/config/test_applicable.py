"""Options that would change nothing are refused, in run and in plan, before anything is looked at."""

import pytest

from tests.helpers import call

AMAZON = ["--dataset", "amazon", "--data-dir", "nowhere"]


@pytest.mark.parametrize("command", ["run", "plan"])
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--data-dir", "d"], "--data-dir: is not used with dataset shop, only with data in files"),
        (["--image-dir", "d"], "--image-dir: is not used with dataset shop"),
        (["--missing-images", "fail"], "--missing-images: is not used with dataset shop"),
        (["--bad-images", "drop-item"], "--bad-images: is not used with dataset shop"),
        ([*AMAZON, "--modality", "text", "--image-dir", "d"], "--image-dir: is not used with modality text"),
        ([*AMAZON, "--modality", "text", "--bad-images", "fail"], "--bad-images: is not used with modality text"),
        (["--modality", "text", "--image-model", "shop-full"], "--image-model: is not used with modality text"),
        (["--modality", "image", "--text-model", "shop-full"], "--text-model: is not used with modality image"),
        (["--trust-remote-code"], "--trust-remote-code: is not used with built-in encoders, which have no code"),
    ],
)
def test_what_would_be_ignored_is_refused(
    command: str, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(command, *arguments) == 2
    out, err = capsys.readouterr()
    assert said in err
    assert (out, len(err.splitlines())) == ("", 1)


def test_a_kernel_for_gpus_on_a_cpu(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("run", "--device", "cpu", "--cudnn-attention") == 2
    assert '--cudnn-attention: is used on a GPU with attention = "sdpa" only' in capsys.readouterr().err


def test_a_shop_seed_with_amazon(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("run", *AMAZON, "--shop-seed", "2") == 2
    assert "--shop-seed: is not used with dataset amazon, only with --dataset shop" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([*AMAZON, "--shapes", "full"], "--data-dir: not with --shapes full, which reads no data"),
        (["--dataset", "amazon", "--shapes", "data"], "dataset amazon needs --data-dir DIR, or --shapes full"),
    ],
)
def test_data_that_a_plan_would_not_look_at(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("plan", *arguments) == 2
    assert said in capsys.readouterr().err
