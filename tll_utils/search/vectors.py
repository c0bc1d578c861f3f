"""Stand-in until search/index.py has `vectors`."""

import numpy as np

from tll_utils.methods.base import BorderNeutral
from tll_utils.runtime import keras
from tll_utils.siamese.heads import MAX_SCALE


def vectors(method, images, side):
    if isinstance(method, BorderNeutral):
        return vectors(method.method_, images.cropped(), side)
    views = method.views(images, side)
    weight = 1 / sum(len(models) for models in method.models_) / len(views)
    found = []
    for names, models in zip(method.inputs, method.models_, strict=True):
        for model in models:
            kernel = [layer for layer in model.layers if isinstance(layer, keras.layers.Dense)][-side].get_weights()[0]
            scale = min(float(np.exp(model.get_layer("compare").log_scale.numpy())), MAX_SCALE)
            for view in views:
                projected = np.concatenate([view[name] for name in names], axis=1) @ kernel
                length = np.maximum(np.linalg.norm(projected, axis=1, keepdims=True), 1e-7)
                found.append(np.float32(np.sqrt(scale * weight)) * projected / length)
    return np.concatenate(found, axis=1)
