"""Numbers and names as the report writes them."""

from __future__ import annotations

import pytest
from test_report_cases import spread

from goldiprox.report import formats


@pytest.mark.parametrize(
    ("written", "wanted"),
    [
        (formats.flops(1.2e13), "12.0 T"),
        (formats.flops(9.9999e11), "1.00 T"),
        (formats.flops(1.78e11), "178 G"),
        (formats.flops(0.0), "0"),
        (formats.flops_tick(8e10), "80 G"),
        (formats.seconds(0.0), "0"),
        (formats.seconds(0.004), "< 0.01"),
        (formats.seconds(0.996), "1.0"),
        (formats.seconds(9.96), "10.0"),
        (formats.seconds(99.96), "100"),
        (formats.seconds(1234.5), "1,234"),
        (formats.seconds(None), formats.DASH),
        (formats.speedup(4.92), "4.9×"),
        (formats.speedup(0.289), "0.29×"),
        (formats.speedup(0.996), "1.0×"),
        (formats.speedup(123.4), "123×"),
        (formats.count(1128.0), "1,128"),
        (formats.model_name("/home/me/models/minilm"), "models/minilm"),
        (formats.model_name("albert/albert-base-v2"), "albert/albert-base-v2"),
        (formats.model_name("own.models:small"), "own.models:small"),
        (formats.count(5.5), "5.5"),
        (formats.share(0.0001), "< 0.1\u00a0%"),
        (formats.setting(0.025), "2.5\u00a0%"),
        (formats.accuracy_spread(spread(0.8)), "80.0"),
        (formats.memory(976_441_344), "976 MB"),
        (formats.memory(0), formats.DASH),
    ],
)
def test_formats(written: str, wanted: str) -> None:
    assert written == wanted
