# Sensorium in an image, from the checkout: models built in one stage, served in another.
#
#   docker build --tag sensorium .
#   docker run --read-only --tmpfs /tmp --publish 3000:3000 sensorium
#
# Build arguments: PYTHON_IMAGE (a mirror of the base image), PIP_INDEX_URL (a package mirror),
# PIP_EXTRA_INDEX_URL (an index of PyTorch's CPU build; without it, the models stage downloads the
# CUDA build, which is gigabytes more and works as well). No argument reaches the last stage.
ARG PYTHON_IMAGE=python:3.11-slim

# What serves: the serve group in a virtual environment, no PyTorch.
FROM ${PYTHON_IMAGE} AS environment
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
WORKDIR /app
COPY pyproject.toml requirements.lock ./
RUN python -m venv .venv && .venv/bin/pip install --constraint requirements.lock --upgrade pip
RUN .venv/bin/pip install --constraint requirements.lock --group serve

# What is served: the models of the checkout, and the imported encoders.
FROM environment AS models
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
RUN .venv/bin/pip install --no-compile --constraint requirements.lock --group train
COPY service/ service/
COPY training/ training/
COPY models/ models/
# Whatever the checkout's modes are, the user of the last stage can read these.
RUN .venv/bin/python -m training import efficientnet-lite0 all-minilm-l6-v2 && chmod -R a+rX models service

FROM ${PYTHON_IMAGE}
WORKDIR /app
COPY --from=environment /app/.venv .venv
COPY --from=models /app/models models
COPY --from=models /app/service service

# All that is written lies under /tmp. BENTOML_CONTAINERIZED stays unset: it would keep BentoML from
# restarting a worker that died.
ENV PATH=/app/.venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    BENTOML_HOME=/tmp/bentoml \
    BENTOML_DO_NOT_TRACK=True \
    BENTOML_HOST=0.0.0.0 \
    BENTOML_PORT=3000 \
    MPLCONFIGDIR=/tmp/matplotlib
USER 10001:10001
EXPOSE 3000
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s CMD ["python", "-c", "import os, urllib.request as web; web.build_opener(web.ProxyHandler({})).open('http://127.0.0.1:' + os.environ['BENTOML_PORT'] + '/readyz', timeout=4)"]
CMD ["bentoml", "serve", "service.app:Sensorium"]
