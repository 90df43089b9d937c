# The image of workers: on Dataflow, and as a pool of workers beside Flink or Spark (docker run IMAGE --worker_pool).
# docker build --tag REGISTRY/parti-worker:0.1.0 . && docker push REGISTRY/parti-worker:0.1.0
# Python's minor version and Beam's version have to be those of the machine that submits: part of a job is bytecode.
FROM apache/beam_python3.11_sdk:2.77.0

COPY pyproject.toml README.md LICENSE constraints.txt /parti/
COPY parti_data /parti/parti_data
COPY model /parti/model
COPY pipelines /parti/pipelines
COPY configs /parti/configs

# PyPI's torch brings several GB of CUDA packages; without a GPU spare them by
# --build-arg PIP_OPTIONS="--extra-index-url https://download.pytorch.org/whl/cpu"
ARG PIP_OPTIONS=
RUN pip install --no-cache-dir $PIP_OPTIONS --constraint /parti/constraints.txt '/parti[pipelines,model,opencv,openvino,gcs,s3]'
