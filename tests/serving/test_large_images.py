"""Large images, of which threads decode only so many at once."""

import io
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from abuse import FORMATS, NOT_PICTURES, pictures
from helpers import wait_for
from PIL import Image
from served import PICTURE, new_classifier

from mlflow_resnet.images.decode import MAX_IMAGE_PIXELS, pixels_of
from mlflow_resnet.images.parallel import Budget
from mlflow_resnet.model.prediction import Predictor
from mlflow_resnet.scoring.pyfunc import ScoringModel
from mlflow_resnet.scoring.sentences import without_words_of_others


def encoded(mode, size, name, **options):
    file = io.BytesIO()
    Image.new(mode, size).save(file, name, **options)
    return file.getvalue()


@pytest.mark.parametrize("name", FORMATS)
def test_the_size_of_an_image_is_known_before_it_is_decoded(name):
    size = pixels_of(pictures()[FORMATS.index(name)])
    assert size >= 48 * 48 if name == "PPM" else size == 48 * 48


@pytest.mark.parametrize(
    ("mode", "options"),
    [("RGB", {}), ("RGB", {"lossless": True}), ("RGBA", {}), ("RGB", {"save_all": True, "append_images": []})],
)
def test_the_size_of_every_kind_of_webp(mode, options):
    assert pixels_of(encoded(mode, (301, 203), "WEBP", **options)) == 301 * 203


def test_what_is_no_image_has_no_size_and_what_is_too_large_no_more_than_the_limit():
    assert {pixels_of(content) for content in NOT_PICTURES.values()} == {0}
    for content in pictures():
        for end in range(0, 60, 3):
            assert pixels_of(content[:end]) <= MAX_IMAGE_PIXELS
    assert pixels_of(encoded("1", (20_000, 20_000), "PNG")) == MAX_IMAGE_PIXELS


def test_threads_take_no_more_together_than_there_is():
    budget, most, lock = Budget(100), [0], threading.Lock()

    def take(amount):
        with budget.taken(amount), lock:
            most[0] = max(most[0], budget.used)

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(take, [1, 99, 30, 70, 50, 60] * 50))
    assert 50 < most[0] <= 100
    assert budget.used == 0


def test_one_that_needs_more_than_there_is_goes_alone_and_is_not_passed_by():
    budget, done = Budget(100), []

    def take(amount):
        with budget.taken(amount):
            done.append(amount)

    with budget.taken(1):
        large = threading.Thread(target=take, args=(500,))
        large.start()
        wait_for(lambda: budget._turn.locked())
        small = threading.Thread(target=take, args=(2,))
        small.start()
        assert done == []
    large.join(10)
    small.join(10)
    assert done == [500, 2]


def test_words_of_others_are_left_out():
    error = "where @a of m points is not known (HTTPConnectionPool(host='10.0.0.1', port=5000): Max (retries)"
    assert without_words_of_others(f"{error}); models:/m/1 goes on") == (
        "where @a of m points is not known; models:/m/1 goes on"
    )
    assert without_words_of_others("over the limit of 256.") == "over the limit of 256."


def test_heat_maps_of_several_requests_are_made_one_after_the_other():
    model = ScoringModel(Predictor(new_classifier(1), "cpu"))
    at_once, most = [0], [0]

    def count(module, arguments):
        at_once[0] += 1
        most[0] = max(most[0], at_once[0])

    def leave(module, arguments, result):
        at_once[0] -= 1

    network = model._predictor.network
    network.layer4.register_forward_pre_hook(count)
    network.layer4.register_forward_hook(leave)
    with ThreadPoolExecutor(4) as pool:
        frames = list(pool.map(lambda _: model.predict([PICTURE] * 3, {"explain": True}), range(8)))
    assert all(frame["explanation"].notna().all() for frame in frames)
    assert most[0] == 1
