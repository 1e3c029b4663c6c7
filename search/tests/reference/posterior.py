"""Makes posterior.json: means and deviations of scikit-learn's GaussianProcessRegressor.

    pip install scikit-learn && python posterior.py > posterior.json
"""

import json

import numpy as np
import sklearn
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import Matern

generator = np.random.default_rng(20261123)
lengths, nugget = [0.7, 1.9, 3.1], 1e-3
points = generator.uniform(-1, 1, (14, 3))
outputs = np.stack([np.sin(2 * points @ w) + 0.3 * points[:, 0] for w in generator.normal(size=(4, 3))], axis=1)
asked = generator.uniform(-1, 1, (6, 3))
# Without optimizer the kernel is taken as it is; alpha is the nugget on the diagonal.
regressor = GaussianProcessRegressor(Matern(lengths, nu=2.5), alpha=nugget, optimizer=None)
regressor.fit(points, outputs - outputs.mean(axis=0))
means, deviations = regressor.predict(asked, return_std=True)
print(json.dumps({
    "scikit-learn": sklearn.__version__,
    "lengths": lengths, "nugget": nugget,
    "points": points.tolist(), "outputs": outputs.tolist(), "asked": asked.tolist(),
    "means": (means + outputs.mean(axis=0)).tolist(),
    "deviations": deviations[:, 0].tolist(),
}, indent=1))
