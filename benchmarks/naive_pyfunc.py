"""The simplest pyfunc of a ResNet, as people write it: MLflow logs this file as the model's code."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
import torch
from mlflow.models import set_model
from PIL import Image
from torchvision.models import ResNet18_Weights, resnet18


class NaiveResNet(mlflow.pyfunc.PythonModel):
    """Base64 in a column of a table; one image after the other."""

    def load_context(self, context: Any) -> None:
        self.classes = json.loads(Path(context.artifacts["classes"]).read_text())
        self.network = resnet18(num_classes=len(self.classes))
        self.network.load_state_dict(torch.load(context.artifacts["weights"], weights_only=True))
        self.network.eval()
        self.transform = ResNet18_Weights.IMAGENET1K_V1.transforms()

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        return pd.DataFrame([self.row(encoded) for encoded in model_input.iloc[:, 0]])

    def row(self, encoded: str) -> dict[str, Any]:
        image = Image.open(io.BytesIO(base64.b64decode(encoded))).convert("RGB")
        with torch.inference_mode():
            probabilities = self.network(self.transform(image).unsqueeze(0)).softmax(dim=1)[0].tolist()
        label = self.classes[probabilities.index(max(probabilities))]
        return {"label": label} | dict(zip(self.classes, probabilities, strict=True))


set_model(NaiveResNet())
