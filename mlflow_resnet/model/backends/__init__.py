"""Other engines than torch's own that predict with a classifier. They are imported when first used.

onnx         ONNX Runtime, the extra [onnx]
openvino     OpenVINO, the extra [openvino]
torch_export torch's own exported programs, .pt2; other programs load them
quantized    int8, by NNCF, the extra [int8]
exported     folders of what was exported, with the sha256 of each file
forwards     picks the engine that a model's configuration names
"""
