# syntax=docker/dockerfile:1
# One image for Prefect's server, its workers and the flow runs. CUDA, as PyTorch's default builds have it:
#   docker build -t rlip .
# Without CUDA, a fifth of the size: name the package index with PyTorch's CPU builds:
#   docker build -t rlip:cpu --build-arg TORCH_INDEX=<index> --build-arg EXTRAS=s3,server,workers,review,tensorboard .
ARG PYTHON=3.12
FROM python:${PYTHON}-slim-bookworm
ARG EXTRAS=s3,server,workers,review,tensorboard,gpu
ARG TORCH_INDEX=""

ENV DO_NOT_TRACK=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    PREFECT_SERVER_ANALYTICS_ENABLED=false \
    PREFECT_HOME=/var/lib/prefect \
    PYTHONUNBUFFERED=1 \
    RLIP_ROOT=/opt/rlip

RUN useradd --create-home --uid 1000 rlip && install -d -o rlip /var/lib/prefect /data
WORKDIR /opt/rlip
# The newest builds of that index which fit; the versions are bounded in pyproject.toml.
# hadolint ignore=DL3013
RUN if [ -n "${TORCH_INDEX}" ]; then pip install --index-url "${TORCH_INDEX}" torch torchvision; fi
COPY pyproject.toml README.md LICENSE prefect.yaml ./
COPY storage storage
COPY scenes scenes
COPY models models
COPY tagger tagger
COPY pipeline pipeline
COPY flows flows
COPY recipes recipes
# Editable: deployments name flows by their path in this folder.
RUN pip install --editable ".[${EXTRAS}]"
USER 1000
CMD ["rlip", "--help"]
