# syntax=docker/dockerfile:1
# guard      serves on the CPU, without torch       docker build --target guard --tag lifeguard-guard .
# guard-gpu  serves on an NVIDIA GPU (CUDA 13)      docker build --target guard-gpu --tag lifeguard-guard-gpu .
# learner    selects, varies, trains and promotes   docker build --target learner --tag lifeguard-learner .

ARG PYTHON_IMAGE=python:3.11.14-slim-trixie
ARG CUDA_IMAGE=nvidia/cuda:13.0.1-cudnn-runtime-ubuntu24.04


FROM ${PYTHON_IMAGE} AS source
WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY guard/ guard/
COPY learner/ learner/


FROM source AS build-guard
RUN --mount=type=cache,target=/root/.cache/pip \
    python -m venv /opt/lifeguard && \
    /opt/lifeguard/bin/pip install --constraint constraints.txt '.[cpu,otel]'


FROM source AS build-learner
# torch from PyPI brings its CUDA libraries; --build-arg TORCH_INDEX_URL=https://download.pytorch.org/whl/cpu does not
ARG TORCH_INDEX_URL=
RUN --mount=type=cache,target=/root/.cache/pip \
    python -m venv /opt/lifeguard && \
    /opt/lifeguard/bin/pip install --constraint constraints.txt ${TORCH_INDEX_URL:+--index-url "${TORCH_INDEX_URL}"} --no-deps torch && \
    /opt/lifeguard/bin/pip install --constraint constraints.txt '.[cpu,learner]'


FROM ${CUDA_IMAGE} AS cuda
# hadolint ignore=DL3008
RUN apt-get update && \
    apt-get install --yes --no-install-recommends python3 && \
    rm -rf /var/lib/apt/lists/*


FROM cuda AS build-guard-gpu
# hadolint ignore=DL3008
RUN apt-get update && \
    apt-get install --yes --no-install-recommends python3-venv && \
    rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY --from=source /src ./
RUN --mount=type=cache,target=/root/.cache/pip \
    python3 -m venv /opt/lifeguard && \
    /opt/lifeguard/bin/pip install --constraint constraints.txt '.[gpu,otel]'


FROM ${PYTHON_IMAGE} AS guard
RUN groupadd --gid 10001 lifeguard && \
    useradd --uid 10001 --gid 10001 --no-create-home --home-dir /var/lib/lifeguard --shell /usr/sbin/nologin lifeguard && \
    install --directory --owner=10001 --group=10001 --mode=0700 /var/lib/lifeguard /var/lib/lifeguard/data /var/lib/lifeguard/exports
COPY --from=build-guard /opt/lifeguard /opt/lifeguard
ENV PATH=/opt/lifeguard/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    ORT_DISABLE_TELEMETRY=1 \
    GUARD_HOST=0.0.0.0 \
    GUARD_PORT=8000 \
    GUARD_DATA_DIR=/var/lib/lifeguard/data \
    GUARD_EXPORTS_DIR=/var/lib/lifeguard/exports \
    GUARD_LEARNER=false
USER 10001:10001
WORKDIR /var/lib/lifeguard
VOLUME ["/var/lib/lifeguard/data", "/var/lib/lifeguard/exports"]
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as r; r.build_opener(r.ProxyHandler({})).open(f\"http://127.0.0.1:{os.environ['GUARD_PORT']}/healthz\", timeout=4)"]
CMD ["guard", "serve"]


FROM cuda AS guard-gpu
RUN groupadd --gid 10001 lifeguard && \
    useradd --uid 10001 --gid 10001 --no-create-home --home-dir /var/lib/lifeguard --shell /usr/sbin/nologin lifeguard && \
    install --directory --owner=10001 --group=10001 --mode=0700 /var/lib/lifeguard /var/lib/lifeguard/data /var/lib/lifeguard/exports
COPY --from=build-guard-gpu /opt/lifeguard /opt/lifeguard
ENV PATH=/opt/lifeguard/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    ORT_DISABLE_TELEMETRY=1 \
    GUARD_HOST=0.0.0.0 \
    GUARD_PORT=8000 \
    GUARD_DATA_DIR=/var/lib/lifeguard/data \
    GUARD_EXPORTS_DIR=/var/lib/lifeguard/exports \
    GUARD_PROVIDER=cuda \
    GUARD_LEARNER=false
USER 10001:10001
WORKDIR /var/lib/lifeguard
VOLUME ["/var/lib/lifeguard/data", "/var/lib/lifeguard/exports"]
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as r; r.build_opener(r.ProxyHandler({})).open(f\"http://127.0.0.1:{os.environ['GUARD_PORT']}/healthz\", timeout=4)"]
CMD ["guard", "serve"]


FROM ${PYTHON_IMAGE} AS learner
RUN groupadd --gid 10001 lifeguard && \
    useradd --uid 10001 --gid 10001 --no-create-home --home-dir /var/lib/lifeguard --shell /usr/sbin/nologin lifeguard && \
    install --directory --owner=10001 --group=10001 --mode=0700 /var/lib/lifeguard /var/lib/lifeguard/data /var/lib/lifeguard/exports
COPY --from=build-learner /opt/lifeguard /opt/lifeguard
ENV PATH=/opt/lifeguard/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    ORT_DISABLE_TELEMETRY=1 \
    MPLCONFIGDIR=/tmp/matplotlib \
    HF_HOME=/tmp/huggingface \
    GUARD_DATA_DIR=/var/lib/lifeguard/data \
    GUARD_EXPORTS_DIR=/var/lib/lifeguard/exports
USER 10001:10001
WORKDIR /var/lib/lifeguard
VOLUME ["/var/lib/lifeguard/data", "/var/lib/lifeguard/exports"]
HEALTHCHECK --interval=60s --timeout=30s --start-period=120s --retries=3 \
    CMD ["python", "-c", "import json, subprocess as s, sys; sys.exit(json.loads(s.check_output(['learner', 'status', '--json']))['learner_until'] is None)"]
CMD ["learner", "run"]
