"""The conformance kit for plugin authors: what every quantizer promises, as small named checks.

    import codecvq
    from codecvq.testing import parametrize_quantizer

    codecvq.plugins.load("./my_vq.py")  # not needed for an installed plugin

    @parametrize_quantizer("my_vq", dim=8)
    def test_my_vq(check):
        check.run()

The same checks from the command line: `codecvq plugins check my_vq --plugin ./my_vq.py dim=8`.
"""

from codecvq.testing.check import Check, CheckFailed, CheckSkipped, FormRefused
from codecvq.testing.pytest import parametrize_quantizer
from codecvq.testing.quantizers import quantizer_checks
from codecvq.testing.running import Outcome, run_checks

__all__ = [
    "Check",
    "CheckFailed",
    "CheckSkipped",
    "FormRefused",
    "Outcome",
    "parametrize_quantizer",
    "quantizer_checks",
    "run_checks",
]
