import logging
import logging.config

from assets.log import lasting_logger


def test_messages_come_through_after_a_library_set_up_its_own_logging(caplog) -> None:
    ours, other = lasting_logger("fovea.test_log"), logging.getLogger("test_log.other")
    logging.config.dictConfig({"version": 1, "disable_existing_loggers": True})
    assert other.disabled
    ours.warning("seen")
    assert "seen" in caplog.text and lasting_logger("fovea.test_log") is ours
