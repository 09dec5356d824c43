"""Installs metric_jax. Every dependency stands here, once, with its reason; requirements.lock pins them."""

import setuptools

RUNTIME = [
    "jax>=0.10.2",  # arrays, gradients, jit: all of the library
    "chex>=0.1.91",  # checks of ranks, shapes and types at trace time
    "jaxtyping>=0.3.3",  # shapes in the annotations
    "numpy>=2.0",  # host side: data, and what evaluation returns
    "flax>=0.12.8",  # models (NNX)
    "optax>=0.2.8",  # optimizers and schedules
    "orbax-checkpoint>=0.12.8",  # checkpoints of state and data iterator
    "grain>=0.2.18",  # batches that resume exactly
    "array-record>=0.8.3",  # reads prepared TFDS sets without TensorFlow
    "tensorflow-datasets>=4.9.10",  # data sources; needs no TensorFlow to read
    "importlib-resources>=6.0",  # tensorflow-datasets imports it and does not declare it
    "scikit-learn>=1.5",  # the embedded digits, clustering, PCA
    "pillow>=11.0",  # decodes images
    "absl-py>=2.3",  # flags and logging of the experiments
    "ml-collections>=1.1.0",  # configs that refuse an unknown key
    "tensorboardX>=2.6.4",  # writes TensorBoard events without TensorFlow
    "tqdm>=4.66",  # the progress bar
    "matplotlib>=3.9",  # figures and reports
    "jinja2>=3.1",  # the report's page, with everything escaped
    "flatbuffers>=24.3",  # jax.export serializes with it and does not declare it
    "plotly>=6.0",  # the map of embeddings in the report
]

EXTRAS = {
    "test": [
        "pytest>=8.4,<9.2",  # runs the tests and doctests; with 9.2 pytest-xdist 3.8 silently forgets its groups
        "pytest-xdist>=3.8",  # ... on all cores
        "ruff>=0.14",  # lints and formats
        "mypy>=1.18",  # checks the types
        "playwright>=1.50",  # opens the report in the machine's Chromium
        "packaging>=24.0",  # lets the tests read what this file declares
        "setuptools>=77",  # lets make install the project itself from the lock, without a build environment
    ],
    # Reference values and benchmarks only: the library never imports these.
    "oracle": [
        "torch==2.13.0",  # what pytorch-metric-learning runs on
        "pytorch-metric-learning==2.9.0",  # the losses and miners we compare with
        "faiss-cpu>=1.12",  # nearest neighbours to compare retrieval with
        "scipy>=1.13",  # statistics and distances to compare with
        "pytrec-eval-terrier>=0.5.6",  # nDCG to compare retrieval with
    ],
    # Executes notebooks/ (make test-notebooks) and writes each .ipynb from the .py beside it.
    "notebooks": [
        "jupytext>=1.16",  # from a script that can be read and compared to a notebook that Colab opens
        "nbclient>=0.10",  # executes them, and fails where a cell does
        "ipykernel>=6.29",  # what they are executed by
    ],
    # It asks Python itself for signatures and docstrings, and so shows the arguments that per_anchor adds, which a tool
    # that reads the source would not; and it takes docstrings as they are, in Google's manner and Markdown.
    "docs": ["pdoc>=16.0"],  # writes the pages of the API (make docs)
    "tensorboard": ["tensorboard>=2.20"],  # to look at the events of a run
    "wandb": ["wandb>=0.19"],  # a run's metrics there too, if config.wandb asks for it
    "prepare": ["tensorflow>=2.19"],  # to build a standard TFDS set, once
    "dev": [
        "pre-commit>=4.4",  # lints every commit
        "pre-commit-hooks>=6.0",  # ... whitespace and large files too
        "uv>=0.8",  # resolves the lock files
    ],
}

setuptools.setup(
    name="metric_jax",
    version="0.1.0",
    description="Deep metric learning in JAX: pure losses with online mining, Flax training, honest evaluation.",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.11",
    packages=setuptools.find_packages(include=["metric_jax", "metric_jax.*"]),
    package_data={"metric_jax": ["py.typed"], "metric_jax.reports": ["templates/*"]},
    install_requires=RUNTIME,
    extras_require=EXTRAS,
)
