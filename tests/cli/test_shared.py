"""What commands print as JSON, and while they wait for Kafka."""

import re
from datetime import date
from decimal import Decimal

import pytest

from k2lib.cli.shared import print_json, print_stall
from k2lib.events import DeliveryStalled, StateRestored


def test_a_decimal_is_printed_with_all_its_digits(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"price": Decimal("0.00000012"), "none": Decimal("0E-8"), "day": date(2014, 3, 10)})
    assert capsys.readouterr().out == (
        '{\n  "price": "0.00000012",\n  "none": "0.00000000",\n  "day": "2014-03-10"\n}\n'
    )


def test_a_kafka_that_acknowledges_nothing_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    print_stall(StateRestored())
    print_stall(DeliveryStalled("127.0.0.1:9092", 5_000, 110.0))
    out, err = capsys.readouterr()
    assert out == ""
    assert re.fullmatch(
        r"K2: Kafka at 127\.0\.0\.1:9092 does not acknowledge 5,000 records: "
        r"waiting for it until \d\d:\d\d:\d\d UTC\n",
        err,
    )
