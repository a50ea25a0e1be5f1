# syntax=docker/dockerfile:1
# One image for Prefect's server, its workers and the flow runs, with CUDA, as PyTorch's default builds have it, or without
# (docs/operations.md).
ARG PYTHON=3.12
FROM python:${PYTHON}-slim-bookworm
ARG EXTRAS=s3,server,workers,review,tensorboard,gpu
ARG TORCH_INDEX=""

ENV DO_NOT_TRACK=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    PREFECT_SERVER_ANALYTICS_ENABLED=false \
    PREFECT_HOME=/var/lib/prefect \
    PREFECT_UI_STATIC_DIRECTORY=/var/lib/prefect/ui \
    PYTHONUNBUFFERED=1 \
    RLIP_ROOT=/opt/rlip

RUN useradd --create-home --uid 1000 rlip && install -d -o rlip /var/lib/prefect /data
# Triton and torch.compile call a compiler at run time.
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*
WORKDIR /opt/rlip
COPY pyproject.toml constraints.txt README.md LICENSE prefect.yaml ./
# As in the Makefile. Only the builds of another index go without hashes, which differ there.
RUN sed -n '/^pip==/,/[^\\]$/p' constraints.txt > /tmp/pip.txt && pip install -r /tmp/pip.txt
RUN if [ -n "${TORCH_INDEX}" ]; then \
    grep -oE '^torch(vision)?==[^ ]+' constraints.txt > /tmp/torch.txt && \
    pip install --no-deps --index-url "${TORCH_INDEX}" -r /tmp/torch.txt; fi
COPY storage storage
COPY scenes scenes
COPY models models
COPY tagger tagger
COPY pipeline pipeline
COPY rlip rlip
COPY flows flows
COPY recipes recipes
# Editable: deployments name flows by their path in this folder.
RUN pip install --no-deps --build-constraint constraints.txt --editable . && pip install -c constraints.txt "rlip[${EXTRAS}]"
USER 1000
CMD ["rlip", "--help"]
