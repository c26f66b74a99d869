"""The webhook delivers in order, outlives a receiver that is down, and never makes one wait."""

import logging
import threading
import time
from datetime import UTC, datetime, timedelta

import pytest
from support.ports import dripping_server, refusing_port, silent_port
from support.waiting import wait_until
from support.webhook_receiver import Receiver

from k2lib.errors import ConfigError
from k2lib.ops.firing_alerts import Alert
from k2lib.ops.webhook import Webhook, body

SINCE = datetime(2026, 3, 14, 9, 30, tzinfo=UTC)
FIRING = Alert("sink_paused", "trades_v2", True, SINCE, "the catalog is locked")
RESOLVED = Alert(
    "sink_paused", "trades_v2", False, SINCE, "written again", SINCE + timedelta(seconds=9)
)


def test_a_firing_alert_has_the_form_of_alertmanager() -> None:
    sent = body(FIRING)
    alert = sent["alerts"][0]
    assert (sent["version"], sent["status"], sent["groupLabels"]) == (
        "4",
        "firing",
        {"alertname": "sink_paused"},
    )
    assert alert["labels"] == {"alertname": "sink_paused", "subject": "trades_v2"}
    assert alert["annotations"] == {"summary": "the catalog is locked"}
    assert alert["startsAt"] == "2026-03-14T09:30:00+00:00"
    assert alert["endsAt"] == "0001-01-01T00:00:00Z"


def test_a_resolved_alert_says_when_it_began_and_ended_under_the_same_fingerprint() -> None:
    sent = body(RESOLVED)
    alert = sent["alerts"][0]
    assert sent["status"] == alert["status"] == "resolved"
    assert alert["startsAt"] == "2026-03-14T09:30:00+00:00"
    assert alert["endsAt"] == "2026-03-14T09:30:09+00:00"
    assert alert["fingerprint"] == body(FIRING)["alerts"][0]["fingerprint"]


def test_alerts_are_delivered_in_order() -> None:
    with Receiver() as receiver, Webhook(receiver.url) as webhook:
        webhook(FIRING)
        webhook(RESOLVED)
        wait_until(lambda: len(receiver.accepted) == 2)
    assert receiver.accepted == [body(FIRING), body(RESOLVED)]


def test_a_receiver_that_answers_500_twice_gets_each_alert_once() -> None:
    with Receiver(500, 503) as receiver, Webhook(receiver.url) as webhook:
        webhook(FIRING)
        webhook(RESOLVED)
        wait_until(lambda: len(receiver.accepted) == 2)
    assert [status for *_, status in receiver.said()] == ["firing", "resolved"]
    assert receiver.asked == 4 and webhook.dropped == 0


def test_an_alert_that_is_refused_is_dropped_and_the_next_one_delivered(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with Receiver(400) as receiver, Webhook(receiver.url) as webhook:
        webhook(FIRING)
        webhook(RESOLVED)
        wait_until(lambda: receiver.accepted)
    assert receiver.said() == [("sink_paused", "trades_v2", "resolved")]
    assert webhook.dropped == 1 and "answers 400" in caplog.text


def test_an_alert_is_given_up_after_its_time_and_the_next_one_tried() -> None:
    with Receiver(*[500] * 1000) as receiver:
        with Webhook(receiver.url, retry_for_s=0.01) as webhook:
            webhook(FIRING)
            webhook(RESOLVED)
            wait_until(lambda: webhook.dropped == 2)
        assert receiver.asked >= 2


def test_closing_delivers_what_waits() -> None:
    with Receiver() as receiver:
        with Webhook(receiver.url, close_s=60.0) as webhook:
            for _ in range(50):
                webhook(FIRING)
        assert len(receiver.accepted) == 50 and webhook.dropped == 0


def test_a_receiver_that_comes_up_while_closing_gets_what_waits() -> None:
    with Receiver(*[500]) as receiver:
        with Webhook(receiver.url, close_s=60.0) as webhook:
            webhook(FIRING)
            wait_until(lambda: receiver.asked == 1)
        assert len(receiver.accepted) == 1


def test_closing_waits_for_the_answer_that_is_on_its_way() -> None:
    with Receiver() as receiver:
        receiver.may_answer.clear()
        with Webhook(receiver.url, close_s=60.0) as webhook:
            webhook(FIRING)
            wait_until(lambda: receiver.accepted)
            answer = threading.Timer(0.1, receiver.may_answer.set)
            answer.start()
        answer.join()
        assert receiver.asked == 1 and webhook.dropped == 0


def test_a_receiver_that_is_down_makes_nobody_wait_and_what_is_lost_is_counted(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with refusing_port() as port:
        began = time.monotonic()
        with Webhook(f"http://127.0.0.1:{port}/hook", limit=10) as webhook:
            for _ in range(1000):
                webhook(FIRING)
            assert webhook.dropped == 990
        assert time.monotonic() - began < 60
    assert webhook.dropped == 1000 and "10 are waiting" in caplog.text


def test_a_receiver_that_never_answers_makes_nobody_wait() -> None:
    with silent_port() as port:
        began = time.monotonic()
        with Webhook(f"http://127.0.0.1:{port}/hook", timeout_s=300, close_s=0.1) as webhook:
            webhook(FIRING)
        assert time.monotonic() - began < 60
    assert webhook.dropped == 1


def test_a_receiver_that_answers_byte_by_byte_is_given_up_in_time(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with dripping_server() as server:
        url = f"http://127.0.0.1:{server.port}/hook"
        with Webhook(url, timeout_s=0.2, retry_for_s=0.01) as webhook:
            webhook(FIRING)
            wait_until(lambda: webhook.dropped == 1)
    assert f"the alert webhook at http://127.0.0.1:{server.port}/… does not answer" in caplog.text


def test_an_alert_after_closing_is_dropped_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    with Receiver() as receiver, Webhook(receiver.url) as webhook:
        webhook.close()
        webhook.close()
        webhook(FIRING)
    assert webhook.dropped == 1 and not receiver.accepted and "closed" in caplog.text


def test_the_log_shows_no_secret_of_the_url(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    with Receiver(403) as receiver:
        url = receiver.url.replace("//", "//me:pass-1@") + "/pass-2?token=pass-3"
        with Webhook(url) as webhook:
            webhook(FIRING)
            wait_until(lambda: webhook.dropped)
    assert "127.0.0.1" in caplog.text and "pass-" not in caplog.text


@pytest.mark.parametrize(
    "url",
    [
        "",
        "hooks.example/pass-1",
        "me:pass-1@hooks.example",
        "ftp://me:pass-1@hooks.example/pass-2?pass-3",
        "https://me:pass-1/x@hooks.example/hook",
        "https:///pass-1",
        "https://hooks.example:70000/pass-1",
        "http://hooks example/pass-1",
    ],
)
def test_a_wrong_url_is_an_error_that_names_the_setting_and_no_secret(url: str) -> None:
    with pytest.raises(ConfigError, match=r"K2_ALERT_WEBHOOK_URL.*wanted is http") as told:
        Webhook(url)
    assert "pass-" not in str(told.value)
