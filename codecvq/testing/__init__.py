"""Conformance kit for plugin authors: named checks of quantizers, networks, codecs and readers.

    import codecvq
    from codecvq.testing import parametrize_quantizer

    codecvq.plugins.load("./my_vq.py")  # not needed for an installed plugin

    @parametrize_quantizer("my_vq", dim=8)
    def test_my_vq(check):
        check.run()

`parametrize_network` and `parametrize_codec` do the same for networks and codecs. `quantizer_checks`,
`network_checks`, `codec_checks` and `reader_checks` return the checks without pytest. The command line runs
them too: `codecvq plugins check my_vq --plugin ./my_vq.py dim=8`.
"""

from codecvq.testing.check import Check, CheckFailed, CheckSkipped, FormUnsupported
from codecvq.testing.codecs import codec_checks
from codecvq.testing.networks import network_checks
from codecvq.testing.pytest import parametrize_codec, parametrize_network, parametrize_quantizer
from codecvq.testing.quantizers import quantizer_checks
from codecvq.testing.readers import reader_checks
from codecvq.testing.runner import Outcome, run_checks

__all__ = [
    "Check",
    "CheckFailed",
    "CheckSkipped",
    "FormUnsupported",
    "Outcome",
    "codec_checks",
    "network_checks",
    "parametrize_codec",
    "parametrize_network",
    "parametrize_quantizer",
    "quantizer_checks",
    "reader_checks",
    "run_checks",
]
