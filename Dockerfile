# The image of workers: on Dataflow, and as a pool of workers beside Flink or Spark (docker run IMAGE --worker_pool).
# docker build --tag REGISTRY/parti-worker:0.1.0 . && docker push REGISTRY/parti-worker:0.1.0
# Python's minor version and Beam's version have to be those of the machine that submits: part of a job is bytecode.
FROM apache/beam_python3.11_sdk:2.77.0

COPY pyproject.toml README.md LICENSE constraints.txt /parti/
COPY parti_data /parti/parti_data
COPY model /parti/model
COPY pipelines /parti/pipelines
COPY configs /parti/configs

# PyPI's torch holds CUDA: --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cpu saves several GB without a GPU.
ARG TORCH_INDEX=https://pypi.org/simple
RUN pip install --no-cache-dir --extra-index-url $TORCH_INDEX --constraint /parti/constraints.txt \
    '/parti[pipelines,model,gcs,s3]'
