"""What a library call leaves as it was: everything that belongs to the whole process, also while it runs."""

import json
import signal
import subprocess
import sys

from helpers import TINY

from mlflow_resnet.training.stopping import SIGNALS, Stop

CALLS = """
import json, logging, os, signal, socket, sys, threading, time, warnings
import matplotlib, mlflow, pandas, PIL.Image, sklearn, torch, torchvision  # sklearn sets variables
import mlflow.data, mlflow.models.evaluation, mlflow.pyfunc, mlflow.system_metrics.system_metrics_monitor

folder, tiny, uri = sys.argv[1], json.loads(sys.argv[2]), sys.argv[3]
mlflow.set_tracking_uri(uri)
mlflow.MlflowClient().search_experiments()  # MLflow's store sets a level

def now():
    return {
        "environment": dict(os.environ),
        "handlers": [signal.getsignal(number) for number in sorted(signal.valid_signals())],
        "timer": signal.getitimer(signal.ITIMER_REAL),
        "TF32": (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32),
        "socket": socket.getdefaulttimeout(),
        "levels": {name: logging.getLogger(name).level for name in known},
        "records": logging.getLogRecordFactory(),
        "filters": [entry for entry in warnings.filters if entry in filters],
        "of Pillow": [entry for entry in warnings.filters if entry[1] and "PIL" in entry[1].pattern],
        "streams": (sys.stdout, sys.stderr),
    }

known, filters = [None, *logging.root.manager.loggerDict], list(warnings.filters)
before, differing = now(), set()

def watch():
    while True:
        differing.update(name for name, value in now().items() if value != before[name])
        time.sleep(0.01)

threading.Thread(target=watch, daemon=True).start()

import mlflow_resnet
from mlflow_resnet.options import EvaluateOptions, ScoreOptions, TrainOptions

trained = mlflow_resnet.train(TrainOptions(train_dir=folder + "/train", val_dir=folder + "/val", **tiny))
mlflow_resnet.score(ScoreOptions(model_uri=trained.model_uri, image_dir=folder + "/val", output="scored.csv"))
mlflow_resnet.evaluate(EvaluateOptions(model_uri=trained.model_uri, image_dir=folder + "/val"))
differing.update(name for name, value in now().items() if value != before[name])
print({name: (before[name], now()[name]) for name in differing})
"""


def test_library_calls_leave_the_process_as_it_was(workdir, images):
    command = [sys.executable, "-c", CALLS, str(images), json.dumps(TINY), f"sqlite:///{workdir}/mlflow.db"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "{}"


def test_signals_wait_for_a_training_only_in_a_process_of_ours(request):
    def handlers_within():
        with Stop().postpone():
            return [signal.getsignal(number) for number in SIGNALS]

    before = [signal.getsignal(number) for number in SIGNALS]
    assert handlers_within() == before
    request.getfixturevalue("own_process")
    assert all(now != then for now, then in zip(handlers_within(), before, strict=True) if then != signal.SIG_IGN)
    assert [signal.getsignal(number) for number in SIGNALS] == before
