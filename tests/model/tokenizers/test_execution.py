import pytest

from model.tokenizers import Execution
from parti_data.errors import ConfigError
from pipelines.tokenize import TokenizeConfig


def test_without_options_it_is_the_record():
    assert Execution() == Execution(device="cpu", precision="float32", backend="torch", compile=False)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["precision=tf32"], "precision tf32 goes with device cuda, since CPUs have no fast tf32"),
        (["precision=float16"], "precision float16 goes with device cuda, since CPUs have no fast float16"),
        (["backend=openvino", "device=cuda"], "backend openvino goes with device cpu, not with cuda"),
        (["compile=true"], "compile goes with device cuda, since it gains nothing on a cpu"),
        (["precision=int8"], "input should be 'float32', 'tf32', 'bfloat16' or 'float16', found 'int8'"),
    ],
)
def test_what_does_not_go_together_is_refused(overrides, message):
    needed = ["output=x", "source=y", "image_tokenizer=i", "text_tokenizer=t"]
    with pytest.raises(ConfigError, match=message):
        TokenizeConfig.load(None, [*needed, *(f"execution.{one}" for one in overrides)])
