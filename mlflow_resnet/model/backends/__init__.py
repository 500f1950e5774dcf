"""Other engines than torch's own that predict with a classifier. They are imported when first used.

engines      ONNX Runtime, the extra [onnx]; OpenVINO, the extra [openvino]; torch's own exported programs, .pt2
quantized    int8, by NNCF, the extra [int8]
exported     folders of what was exported, with the sha256 of each file
forwards     picks the engine that a model's configuration names
"""
