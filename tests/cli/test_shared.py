"""What commands print as JSON."""

from datetime import date
from decimal import Decimal

import pytest

from k2lib.cli.shared import print_json


def test_a_decimal_is_printed_with_all_its_digits(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"price": Decimal("0.00000012"), "none": Decimal("0E-8"), "day": date(2014, 3, 10)})
    assert capsys.readouterr().out == (
        '{\n  "price": "0.00000012",\n  "none": "0.00000000",\n  "day": "2014-03-10"\n}\n'
    )
