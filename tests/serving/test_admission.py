"""What is taken in, at a known pace."""

import time

import pytest

from mlflow_resnet.errors import InvalidOptionsError, ServerBusyError
from mlflow_resnet.images.sources import ImageSource
from mlflow_resnet.model.prediction import Prediction
from mlflow_resnet.scoring.over_http.admission import CALL, Admission, Call


@pytest.fixture
def admission(monkeypatch):
    """One image takes a second, and a request may take ten."""
    monkeypatch.setenv("MLFLOW_SCORING_SERVER_REQUEST_TIMEOUT", "10")
    admission = Admission()
    admission.seconds_per_image = 1.0
    return admission


@pytest.fixture
def call():
    call = Call(time.monotonic())
    token = CALL.set(call)
    yield call
    CALL.reset(token)


def test_work_is_taken_in_while_it_can_be_done_in_time(admission, call):
    with admission.admit(4), admission.admit(3):
        with pytest.raises(ServerBusyError, match="too busy to answer within 10 s; try again in 4 s") as refused:
            admission.admit(4).__enter__()
        assert refused.value.get_http_status_code() == 503
        assert call.retry_after == 4
    with admission.admit(8):
        pass


def test_time_that_a_request_has_waited_counts(admission, call):
    call.arrived -= 6
    with admission.admit(1), pytest.raises(ServerBusyError):
        admission.admit(1).__enter__()


def test_what_would_take_too_long_alone_is_to_be_divided(admission):
    with pytest.raises(InvalidOptionsError, match="33 images take about 33 s here, .* 10 s; send at most 8 at once"):
        admission.admit(33).__enter__()


def test_an_idle_server_tries_some_images_whatever_it_thinks_of_its_pace(admission):
    admission.seconds_per_image = 1000.0
    for _ in range(10):
        with admission.admit(32) as work:
            admission.learn(32)
            assert len(list(admission.count_predictions(work, [Prediction("", None)] * 32, 32))) == 32
    assert admission.seconds_per_image < 0.1
    with admission.admit(32), admission.admit(32):
        pass


def test_nothing_is_read_when_the_time_is_over(admission, call):
    read = []
    sources = [ImageSource(str(number), lambda: read.append(1) or b"") for number in range(3)]
    with admission.admit(3) as work:
        first, second, _ = work.limit(sources)
        assert first.read() == b""
        call.arrived -= 20
        with pytest.raises(ServerBusyError, match="not done within 10 s"):
            second.read()
    assert read == [1]
    assert admission.seconds_per_image < 1  # one image was read, in no time
    call.arrived += 20
    with admission.admit(4), admission.admit(4):
        pass
