"""Everything a user can get wrong, as one tree. Each class builds its sentence from facts.

MlflowResnetError                    exit 2
├── InvalidOptionsError              an option has a value that cannot work
├── PathError
│   ├── InvalidDatasetError          a directory or archive cannot be used
│   │   ├── NotLabeledDatasetError   no class folders
│   │   ├── BadImagesError           some of its images cannot be read
│   │   ├── ObjectUnreadableError    one object in S3 is gone, was changed or is forbidden
│   │   ├── StoreUnreachableError    S3 does not answer, or is too busy
│   │   └── ClassMismatchError       it holds classes that training or the model lacks
│   ├── OutputError                  an output path cannot be written
│   │   └── NotSentError             S3 does not take a finished output, which is kept
│   ├── CheckpointError              a training cannot go on from what a folder holds
│   └── NotDeliveredError            exit 4: a record waits in a folder, not on the tracking server
├── InvalidImageError                one image cannot be read
├── InvalidTableError                a table cannot be read, or costs too much
├── WeightsError                     starting weights cannot be used
│   ├── WeightsDownloadError         ImageNet weights cannot be had
│   └── WeightsMismatchError         their keys are not the network's
├── InvalidModelError                a model URI leads to no model of ours
│   └── TamperedModelError           it is not what was saved or logged
│       └── TamperedWeightsError     its weights are not
├── ServerUnreachableError           the tracking server or registry does not answer
├── ServerRefusesError               it answers with a refusal
├── ScoringServerError               a server that scores images does not answer, or refuses to
├── RefusedBodyError                 the body of a request over HTTP is too much, or damaged
├── ServerBusyError                  503: a request over HTTP cannot be answered in time
├── MissingPackageError              an optional package is not installed
├── SweepError                       a sweep cannot begin, or has no result
├── OutOfMemoryError                 even a small batch needs more memory than there is
├── ProcessEndedError                one of several processes that train together ended before the others
├── AuditFailedError                 an audit found what it was told to fail on
├── PromotionRefusedError            exit 3
└── TrainingDivergedError            exit 5
    └── PredictionsDivergedError     only what it predicts for the validation images is not finite

All of them are MlflowExceptions, with INVALID_PARAMETER_VALUE unless it says otherwise above, as MLflow's own flavors
raise, so a scoring server answers 400 with the sentence and without a stack trace.
"""

from mlflow_resnet.errors.base import (
    LISTED,
    SIGINT_EXIT_CODE,
    SIGTERM_EXIT_CODE,
    InvalidOptionsError,
    MlflowResnetError,
    PathError,
    listed,
)
from mlflow_resnet.errors.data import (
    BadImagesError,
    ClassMismatchError,
    InvalidDatasetError,
    InvalidImageError,
    InvalidTableError,
    NotLabeledDatasetError,
    ObjectUnreadableError,
    StoreUnreachableError,
)
from mlflow_resnet.errors.models import (
    InvalidModelError,
    TamperedModelError,
    TamperedWeightsError,
    WeightsDownloadError,
    WeightsError,
    WeightsMismatchError,
)
from mlflow_resnet.errors.work import (
    AuditFailedError,
    CheckpointError,
    MissingPackageError,
    NotDeliveredError,
    NotSentError,
    OutOfMemoryError,
    OutputError,
    PredictionsDivergedError,
    ProcessEndedError,
    PromotionRefusedError,
    RefusedBodyError,
    ScoringServerError,
    ServerBusyError,
    ServerRefusesError,
    ServerUnreachableError,
    SweepError,
    TrainingDivergedError,
)
from mlflow_resnet.io.text.characters import encodable, presentable, printable

__all__ = [
    "AuditFailedError",
    "BadImagesError",
    "CheckpointError",
    "ClassMismatchError",
    "InvalidDatasetError",
    "InvalidImageError",
    "InvalidModelError",
    "InvalidOptionsError",
    "InvalidTableError",
    "LISTED",
    "MissingPackageError",
    "MlflowResnetError",
    "NotDeliveredError",
    "NotLabeledDatasetError",
    "NotSentError",
    "ObjectUnreadableError",
    "OutOfMemoryError",
    "OutputError",
    "PathError",
    "ProcessEndedError",
    "PredictionsDivergedError",
    "PromotionRefusedError",
    "RefusedBodyError",
    "SIGINT_EXIT_CODE",
    "SIGTERM_EXIT_CODE",
    "ScoringServerError",
    "ServerBusyError",
    "ServerRefusesError",
    "ServerUnreachableError",
    "StoreUnreachableError",
    "SweepError",
    "TamperedModelError",
    "TamperedWeightsError",
    "TrainingDivergedError",
    "WeightsDownloadError",
    "WeightsError",
    "WeightsMismatchError",
    "encodable",
    "listed",
    "presentable",
    "printable",
]
