"""Heat maps take the activations of a batch, outside of the network that requests share."""

from concurrent.futures import ThreadPoolExecutor

from served import PICTURE, new_classifier

from mlflow_resnet.model.prediction import Predictor
from mlflow_resnet.scoring.pyfunc import ScoringModel


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
